"""What the plugin adds to every test of a session that has a server.

A run of 1,000 tests, timed from the end of a first test, which has the server started, to the end
of the last. The same tests run with the plugin and without it: there, a fixture of the project's
own hands out a value. Runs with and without take turns; each difference is that of one pair.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable

from _measure import Results, interleave, ms, report, runs_argument, table, verdict
from _project import Project

TESTS = 1000

CONFTEST = """
import os
from time import perf_counter, process_time
import pytest

FINISHED = []

def pytest_runtest_logfinish():
    FINISHED.append((perf_counter(), process_time()))

def pytest_unconfigure():
    for name, first, last in zip(("wall", "cpu"), FINISHED[0], FINISHED[-1]):
        with open(os.path.join(os.environ["CHILD_NOTES"], name), "w") as file:
            file.write(repr(last - first))

if not os.environ["WITH_PLUGIN"]:

    @pytest.fixture(scope="session")
    def mlc_server():
        return object()
"""

TESTS_FILE = f"""
import pytest

def test_first(mlc_server): pass

@pytest.mark.parametrize("n", range({TESTS}))
def test_uses(mlc_server, n): pass

@pytest.mark.parametrize("n", range({TESTS}))
def test_does_not_use(n): pass
"""

USES, DOES_NOT = "1,000 tests that use the server", "1,000 tests that do not"
NO_USAGE = (f"{USES}, --mlc-no-usage", f"{DOES_NOT}, --mlc-no-usage")
NOISE = "noise (without, twice)"


def main() -> None:
    runs = runs_argument(__doc__, 10)
    with report("cost of the plugin for each test"), tempfile.TemporaryDirectory() as directory:
        project = Project(directory, {"conftest.py": CONFTEST, "test_it.py": TESTS_FILE})

        cpu: Results = {name: [] for name in (USES, DOES_NOT, *NO_USAGE, NOISE)}

        def measure(kind: str, *more: str, plugin: bool) -> tuple[float, float]:
            selected = ("-k", f"first or {kind}")
            if plugin:
                project.served(*selected, *more, env={"WITH_PLUGIN": "1"})
            else:
                project.run(*selected, env={"WITH_PLUGIN": ""})
            return project.note("wall") / TESTS, project.note("cpu") / TESTS

        def pair(name: str, kind: str, *more: str, plugin: bool = True) -> Callable[[], float]:
            turn = iter(range(runs))

            def difference() -> float:
                order = [plugin, False]
                if next(turn) % 2:  # the second run of a pair may have it easier
                    order.reverse()
                taken = [measure(kind, *more, plugin=one) for one in order]
                if order[0] != plugin:
                    taken.reverse()
                cpu[name].append(taken[0][1] - taken[1][1])
                return taken[0][0] - taken[1][0]

            return difference

        pairs = {
            USES: pair(USES, "test_uses"),
            DOES_NOT: pair(DOES_NOT, "test_does_not"),
            NO_USAGE[0]: pair(NO_USAGE[0], "test_uses", "--mlc-no-usage"),
            NO_USAGE[1]: pair(NO_USAGE[1], "test_does_not", "--mlc-no-usage"),
            NOISE: pair(NOISE, "test_does_not", plugin=False),
        }
        measure("test_uses", plugin=True)  # byte code
        wall = interleave(pairs, runs)
        table("with - without, for each test: wall", wall, ours=USES, show=us, ratio=False)
        table("with - without, for each test: CPU", cpu, ours=USES, show=us, ratio=False)
        for what, results in (("wall", wall), ("CPU", cpu)):
            for name, goal in ((USES, 0.002), (NO_USAGE[0], 0.0003), (NO_USAGE[1], 0.00003)):
                verdict(f"{name}, {what}", statistics.median(results[name]), goal, show=us)
        alone = measure("test_uses", plugin=False)
        print(f"such a test without the plugin takes pytest {ms(alone[0])}, CPU {ms(alone[1])}")


def us(seconds: float) -> str:
    """Return a very short duration for people."""
    return f"{seconds * 1e6:.1f} us"


if __name__ == "__main__":
    main()
