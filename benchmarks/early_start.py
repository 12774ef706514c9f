"""What an early start saves: a server that takes 5 s to start, with 300 MiB.

All figures are of whole pytest runs, side by side and in turn.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable

from _measure import interleave, report, runs_argument, table
from _project import Project

CHILD = {"CHILD_DELAY": "5", "CHILD_MEMORY": "300"}

#: Two seconds of collection, and a first test of one second that needs no server.
LATER = """
import time
time.sleep(2)

def test_without_server():
    time.sleep(1)

def test_with_server(mlc_server): pass
"""


def early(project: Project, runs: int) -> None:
    """Compare the moments of the start."""

    def starter(when: str) -> Callable[[], float]:
        flags = (f"--mlc-start={when}", "test_later.py")
        return lambda: project.served(*flags, env=CHILD).wall

    results = interleave({when: starter(when) for when in ("lazy", "collected", "eager")}, runs)
    table("2 s collection, 1 s test, test: wall time", results, ours="collected")
    lazy = statistics.median(results["lazy"])
    for when in ("collected", "eager"):
        print(f"hidden by {when}: {lazy - statistics.median(results[when]):.2f} s")


def main() -> None:
    runs = runs_argument(__doc__, 3)
    with report("early start"), tempfile.TemporaryDirectory() as directory:
        early(Project(directory, {"test_later.py": LATER}), runs)


if __name__ == "__main__":
    main()
