"""What the page on costs shows is what the files say and what a run prints."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pytest_mlc_server.accounts import _ATTRIBUTES
from pytest_mlc_server.reporting.costs import PROPERTIES
from tests.support_plugin import PLAIN

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples" / "cost"
PAGE = (ROOT / "docs" / "how-to" / "cost-per-test.md").read_text(encoding="utf-8")

BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def test_every_block_is_a_file_or_what_is_printed() -> None:
    blocks = BLOCK.findall(PAGE)
    for name, language, text in blocks:
        if name:
            assert text == (ROOT / name).read_text(encoding="utf-8"), name
        else:
            assert language == "text", text
    shown = {name for name, _, _ in blocks} - {""}
    assert shown == {
        path.relative_to(ROOT).as_posix()
        for path in (EXAMPLES / "pytest.ini", *EXAMPLES.rglob("*.py"))
    }


def test_the_examples_print_what_the_page_quotes(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("TMPDIR", str(pytester.path))  # where the log of the failure stays
    monkeypatch.setenv("COLUMNS", "80")
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(EXAMPLES, pytester.path, dirs_exist_ok=True, ignore=ignored)
    plain = (*PLAIN, "-p", "no:randomly")
    cheap = pytester.runpytest_subprocess(*plain, "--ignore=over")
    cheap.assert_outcomes(passed=5)
    shutil.copy(EXAMPLES / "over" / "test_story.py", pytester.path / "test_story.py")
    dear = pytester.runpytest_subprocess(*plain, "--ignore=over")
    dear.assert_outcomes(failed=1)
    printed = normalised("\n".join([*cheap.outlines, *dear.outlines]))
    quoted = [text for _, language, text in BLOCK.findall(PAGE) if language == "text"]
    assert len(quoted) == 2
    for block in quoted:
        for line in normalised(block).splitlines():
            assert line in printed, line


def normalised(text: str) -> str:
    """Return a text without what differs from run to run."""
    text = re.sub(r"\d+\.\d+(?= ms|  test_|  *\d+\.\d+  | tokens/s| s )", "0.0", text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def test_the_page_names_all_that_there_is() -> None:
    for name in PROPERTIES:
        assert f"`mlc_{name}`" in PAGE, name
    for name in _ATTRIBUTES:
        assert re.search(rf"^\|.*`{name}`.*\|.*\|$", PAGE, re.MULTILINE), name
