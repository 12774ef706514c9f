"""Write what the examples of a topic print: ``python -m tests.docs.record TOPIC [TOPIC ...]``.

A file is written where there is one already, or a page shows one; otherwise the output is printed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.docs.runs import ELSEWHERE, RUNS
from tests.support_docs import ROOT, all_blocks
from tests.support_examples import Run, all_runs


def _shown(run: Run) -> Path | None:
    """Return the file that a page shows and that is not there yet."""
    beside = run.script.with_suffix(".out") if run.script else None
    shown = {ROOT / block.target for block in all_blocks() if block.kind == "output"}
    return beside if beside in shown else None


def main(topics: list[str]) -> int:
    """Run the examples of the topics; return how many ended with the wrong status."""
    wrong = 0
    for run in all_runs(RUNS, ELSEWHERE):
        if run.example.split("/")[0] not in topics:
            continue
        with tempfile.TemporaryDirectory() as directory:
            status, printed = run(Path(directory))
        file = run.expected or _shown(run)
        if status != run.status:
            print(f"{run}: status {status}, not {run.status}\n{printed}")
            wrong += 1
        elif file is not None:
            file.write_text(printed, encoding="utf-8")
            print(f"{run}: {file}")
        else:
            print(f"{run}: it is in no file:\n{printed}")
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
