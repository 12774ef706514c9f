"""From a server's early death to the error.

The server ends 0.3 s after its start, with exit code 1 or 0; its last act is a note of the time.
The peers' own time limits, which some of them wait for, are shortened, and those that reach them
take part in fewer rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import _candidates as names
from _alone import alone
from _results import Cell, Figures, Table
from _rounds import Effort, rounds
from _suites import SUITES, UPSTREAM_LIMITED, Suite
from _trial import LIMIT, Bench, bench, run

WHAT = """
The server ends with exit code {code} 0.3 s after its start; the time is that from its last act to
the error of the fixture. Who does not look whether the server lives waits for the whole time limit,
which is {limit:g} s here and otherwise 120 s (upstream, xprocess), or what the project sets.
"""

#: Rounds of those who wait for their whole time limit.
FEW = 2


def candidates(*, quick: bool) -> dict[str, Suite]:
    """Return the suites; upstream's with a limit that can be set."""
    found = {**{name: SUITES[name] for name in names.OWNERS}, names.UPSTREAM: UPSTREAM_LIMITED}
    return {name: found[name] for name in (names.OURS, names.POPEN)} if quick else found


def death(bench: Bench, home: Path, suite: Suite, code: int) -> float:
    """Have a server die; return how long after that the fixture failed."""
    trial = run(bench, home, suite, CHILD_DELAY="0.3", CHILD_DIES=str(code))
    if not trial.error:
        raise RuntimeError("a dead server was taken for ready")
    return trial.between("end", "failed")


def slow(code: int) -> dict[str, int]:
    """Return the rounds of those who do not look whether the server lives."""
    few = [names.UPSTREAM, names.XPROCESS, *([names.MIRAKURU] if code == 0 else [])]
    return dict.fromkeys([*few, *names.CONTAINERS], FEW)


def measure(effort: Effort) -> list[Table]:
    """Measure both exit codes."""
    tables: list[Table] = []
    with bench() as place:
        suites = candidates(quick=effort.quick)
        homes = {name: place.suite(suite) for name, suite in suites.items()}
        for code in (1, 0):
            deaths: dict[str, Callable[[], float]] = {
                name: partial(death, place, homes[name], suite, code)
                for name, suite in suites.items()
            }
            cells: dict[str, Cell] = rounds(deaths, effort.runs, slow(code))
            what = WHAT.format(code=code, limit=LIMIT)
            title = f"Early death, exit code {code}"
            tables.append(Figures(f"death-{code}", title, what, cells, names.OURS))
    return tables


if __name__ == "__main__":
    alone(__doc__, measure, runs=8)
