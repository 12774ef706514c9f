"""From a child's early death to the error.

The child ends 0.3 s after its start, with exit code 1 or 0; its last act is a note of the time. The
peers' own time limits, which some of them wait for, are shortened to 8 s (upstream: 120 s), and
those that reach them take part in fewer rounds.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable

from _child import program
from _measure import interleave, read_note, report, runs_argument, table, verdict
from _peers import Mirakuru, Ours, Owner, PlainLoop, Xprocess

OURS = "pytest-mlc-server"

#: Rounds of candidates that wait for their whole time limit.
FEW = 2


def measure(owner: Owner, directory: str, code: int) -> float:
    """Start a child that dies; return how long after its death the error came."""
    notes = tempfile.mkdtemp(dir=directory)
    env = {"CHILD_NOTES": notes, "CHILD_DELAY": "0.3", "CHILD_DIES": str(code)}
    try:
        owner.start(env)
    except Exception:  # each has its own
        told = time.monotonic()
    else:
        raise RuntimeError("a dead child was taken for ready")
    owner.stop()
    end = read_note(os.path.join(notes, "end"))
    if end is None:
        raise RuntimeError("the child left no note")
    return told - end


def main() -> None:
    runs = runs_argument(__doc__, 12)
    with report("early death -> error"), tempfile.TemporaryDirectory() as directory:
        child = program(directory)
        owners: dict[str, Owner] = {
            OURS: Ours(child),
            "upstream's loop": PlainLoop(child),
            "the same loop with poll()": PlainLoop(child, careful=True),
            "pytest-xprocess": Xprocess(child),
            "mirakuru HTTP": Mirakuru(child),
        }
        for code in (1, 0):

            def candidate(owner: Owner, code: int = code) -> Callable[[], float]:
                return lambda: measure(owner, directory, code)

            few = ["upstream's loop", "pytest-xprocess", *(["mirakuru HTTP"] if code == 0 else [])]
            results = interleave(
                {name: candidate(owner) for name, owner in owners.items()},
                runs,
                at_most=dict.fromkeys(few, FEW),
            )
            table(f"death with exit code {code} -> error", results, ours=OURS)
            verdict("median", statistics.median(results[OURS]), 0.050)


if __name__ == "__main__":
    main()
