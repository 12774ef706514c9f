"""The examples of the documents run, and print what the documents say."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest

from tests.docs.runs import ELSEWHERE, RUNS
from tests.support_docs import normalised
from tests.support_examples import Run, all_runs


def _cases() -> list[object]:
    cases: list[object] = []
    for run in all_runs(RUNS, ELSEWHERE):
        marks = [pytest.mark.timeout(run.seconds + 60)]
        if not run.fast:
            marks.append(pytest.mark.slow)
        cases.append(pytest.param(run, marks=marks, id=re.sub(r"\s+", "_", str(run))))
    return cases


@pytest.mark.parametrize("run", _cases())
def test_it_prints_what_the_documents_say(run: Run, tmp_path: Path) -> None:
    if missing := run.missing():
        pytest.skip(f"needs the package {missing}")
    status, printed = run(tmp_path)
    assert status == run.status, printed
    for text in run.prints:
        assert text in printed
    if run.expected is not None:
        expected = run.expected.read_text(encoding="utf-8")
        if normalised(printed, run.varying) != normalised(expected, run.varying):
            pytest.fail(_difference(expected, printed, run), pytrace=False)


def _difference(expected: str, printed: str, run: Run) -> str:
    def lines(text: str) -> list[str]:
        """Break the words where the text has its lines, as far as they are left."""
        return [normalised(line, run.varying) for line in text.splitlines()]

    name = str(run.expected)
    found = difflib.unified_diff(lines(expected), lines(printed), name, str(run), lineterm="")
    return "\n".join((*found, "", "as printed:", printed))
