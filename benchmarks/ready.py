"""From a child's ready to the return of `start`.

The child listens after 1.0 to 1.1 s, at random but the same for all candidates of a round, and
notes when it does. Our `start` goes on to ask for the list of models and to generate one token;
the others ask once, try the port or read a line.
"""

from __future__ import annotations

import itertools
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

from _child import program
from _measure import interleave, read_note, report, runs_argument, table, verdict
from _peers import Mirakuru, Ours, Owner, PlainLoop, Xprocess

OURS = "pytest-mlc-server"


def measure(owner: Owner, directory: str, delays: Iterator[float]) -> float:
    """Start and stop the child once; return how long after its ready `start` returned."""
    notes = tempfile.mkdtemp(dir=directory)
    owner.start({"CHILD_NOTES": notes, "CHILD_DELAY": str(next(delays))})
    returned = time.monotonic()
    owner.stop()
    ready = read_note(os.path.join(notes, "ready"))
    if ready is None:
        raise RuntimeError("the child left no note")
    return returned - ready


def main() -> None:
    runs = runs_argument(__doc__, 14)
    with report("ready -> start() returns"), tempfile.TemporaryDirectory() as directory:
        child = program(directory)
        owners: dict[str, Owner] = {
            OURS: Ours(child),
            "pytest-mlc-server, ready=http": Ours(child, ready="http"),
            "upstream's loop (poll 0.1 s)": PlainLoop(child),
            "pytest-xprocess (log line)": Xprocess(child),
            "mirakuru HTTP": Mirakuru(child),
            "mirakuru TCP": Mirakuru(child, http=False),
        }
        draw = random.Random(1)
        delays = [1.0 + draw.random() / 10 for _ in range(runs)]

        def candidate(owner: Owner) -> Callable[[], float]:
            mine = itertools.cycle(delays)
            return lambda: measure(owner, directory, mine)

        results = interleave({name: candidate(owner) for name, owner in owners.items()}, runs)
        table("ready -> return", results, ours=OURS)
        verdict("median", statistics.median(results[OURS]), 0.010)


if __name__ == "__main__":
    main()
