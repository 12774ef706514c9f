"""The stop of a well-behaved child.

The child ends at SIGINT or SIGTERM at once; its last act is a note of the time. The first table is
the whole of `terminate`, the second what of it comes after the child's own end. A child that is
killed leaves no note. Our `terminate` returns when the guardian has ended, too.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable

from _child import program
from _measure import Results, interleave, read_note, report, runs_argument, table, verdict
from _peers import Mirakuru, Ours, Owner, PlainLoop, Xprocess

OURS = "pytest-mlc-server"


def main() -> None:
    runs = runs_argument(__doc__, 30)
    with report("stop of a well-behaved child"), tempfile.TemporaryDirectory() as directory:
        child = program(directory)
        owners: dict[str, Owner] = {
            OURS: Ours(child),
            "pytest-mlc-server, stop-timeout=0": Ours(child, stop_timeout=0),
            "Popen: SIGTERM, wait()": PlainLoop(child),
            "upstream: SIGKILL, wait()": PlainLoop(child, kill=True),
            "pytest-xprocess": Xprocess(child),
            "mirakuru": Mirakuru(child),
        }
        beyond: Results = {name: [] for name in owners}

        def candidate(name: str, owner: Owner) -> Callable[[], float]:
            def measure() -> float:
                notes = tempfile.mkdtemp(dir=directory)
                owner.start({"CHILD_NOTES": notes})
                time.sleep(0.05)  # after the start's last request, as a server between tests
                began = time.monotonic()
                owner.stop()
                returned = time.monotonic()
                end = read_note(os.path.join(notes, "end"))
                if end is not None:
                    beyond[name].append(returned - end)
                return returned - began

            return measure

        results = interleave({name: candidate(name, one) for name, one in owners.items()}, runs)
        table("stop, in all", results, ours=OURS)
        table("beyond the child's own end", beyond, ours=OURS)
        verdict("median beyond the child's own end", statistics.median(beyond[OURS]), 0.020)


if __name__ == "__main__":
    main()
