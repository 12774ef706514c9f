"""What a plugin and its server add to every test of a session.

A run of many tests, timed from the end of a first test, which has the server started, to the start
of a last one, which has it stopped. The same tests run with a candidate's fixture and without any
plugin: there, a fixture of the project's own hands out a value. Runs with and without take turns;
each difference is that of one pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import _candidates as names
from _alone import alone
from _results import MICROSECONDS, Cell, Figures, Table
from _rounds import Effort, rounds
from _suites import SUITES, Suite
from _trial import Bench, bench, run

TESTS, QUICK_TESTS = 1000, 100

OURS = f"{names.OURS}, tests that use the server"
NO_USAGE = f"{names.OURS}, --mlc-no-usage"
UNUSED = f"{names.OURS}, tests that do not use it"
NOISE = "noise: without, twice"

WHAT = """
{tests} tests that do nothing, with a candidate's fixture less with a plain one, for each test:
{clock}. None of them sends a request. Ours takes down what each test cost at the server unless
`--mlc-no-usage` is given; the others do nothing for a test.
"""

_TIMED = """
FINISHED = []

def pytest_runtest_logfinish():
    FINISHED.append((time.perf_counter(), time.process_time()))

def pytest_unconfigure():
    if len(FINISHED) > 2:
        # Without the first test, which starts the server, and the last, which stops it.
        note("wall", repr(FINISHED[-2][0] - FINISHED[0][0]))
        note("cpu", repr(FINISHED[-2][1] - FINISHED[0][1]))
"""

_PLAIN = """
@pytest.fixture(scope="session")
def server():
    return object()
"""

_TESTS = """
import pytest

def test_first(server): pass

@pytest.mark.parametrize("n", range({tests}))
def test_uses(server, n): pass

@pytest.mark.parametrize("n", range({tests}))
def test_ignores(n): pass

def test_last(server): pass
"""


@dataclass(frozen=True)
class Kind:
    """A suite, its flags, and which of the tests are run."""

    suite: Suite
    flags: tuple[str, ...] = ()
    tests: str = "test_uses"


PLAIN = Suite(NOISE, _PLAIN)
KINDS = {
    OURS: Kind(SUITES[names.OURS]),
    NO_USAGE: Kind(SUITES[names.OURS], ("--mlc-no-usage",)),
    UNUSED: Kind(SUITES[names.OURS], tests="test_ignores"),
    names.XPROCESS: Kind(SUITES[names.XPROCESS]),
    names.MIRAKURU: Kind(SUITES[names.MIRAKURU]),
    NOISE: Kind(PLAIN),
}


class Pairs:
    """Runs with a candidate's fixture and without, of which the first is now one, now the other."""

    def __init__(self, place: Bench, kind: Kind, tests: int) -> None:
        self._place, self._kind, self._tests = place, kind, tests
        written = _TESTS.format(tests=tests)
        self._suites = [
            Suite(suite.candidate, suite.fixture + _TIMED, suite.flags)
            for suite in (kind.suite, PLAIN)
        ]
        self._homes = [place.suite(suite, written) for suite in self._suites]
        self._turn = 0
        self.cpu = Cell()

    def difference(self) -> float:
        """Run a pair; return what was added to each test."""
        order = [0, 1] if self._turn % 2 else [1, 0]
        taken = {number: self._run(number) for number in order}
        self._turn += 1
        self.cpu.values.append(taken[0][1] - taken[1][1])
        return taken[0][0] - taken[1][0]

    def _run(self, number: int) -> tuple[float, float]:
        flags = (*self._kind.flags, "-p", "no:cacheprovider") if number == 0 else ()
        if self._kind.suite.candidate == names.XPROCESS:
            flags = ()  # xprocess keeps its files in pytest's cache
        selected = ("-k", f"first or last or {self._kind.tests}")
        trial = run(self._place, self._homes[number], self._suites[number], *flags, *selected)
        if trial.returncode != 0:
            raise RuntimeError(f"pytest ended with {trial.returncode}: {trial.output[-300:]}")
        wall, cpu = (float(trial.texts[name]) / self._tests for name in ("wall", "cpu"))
        return wall, cpu


def measure(effort: Effort) -> list[Table]:
    """Measure pairs of runs."""
    tests = QUICK_TESTS if effort.quick else TESTS
    with bench() as place:
        wanted = (OURS, NOISE) if effort.quick else tuple(KINDS)
        pairs = {name: Pairs(place, KINDS[name], tests) for name in wanted}
        wall = rounds({name: pair.difference for name, pair in pairs.items()}, effort.runs)
    cpu = {name: Cell(pair.cpu.values, wall[name].note) for name, pair in pairs.items()}

    def figures(key: str, title: str, clock: str, cells: dict[str, Cell]) -> Figures:
        what = WHAT.format(tests=f"{tests:,}", clock=clock)
        return Figures(key, title, what, cells, OURS, MICROSECONDS, compare=False, noise=NOISE)

    return [
        figures("per-test", "Cost for each test", "time", wall),
        figures("per-test-cpu", "Cost for each test, CPU", "CPU time of pytest", cpu),
    ]


if __name__ == "__main__":
    alone(__doc__, measure, runs=8)
