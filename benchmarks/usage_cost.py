"""What taking down the costs adds to every test, with the simulator.

Runs of 2,000 tests, with costs and with `--mlc-no-usage`, timed from the end of a first test, which
has the server started, to the end of the last. In one kind of run each test sends a request over a
connection of its own client, in the other it has the server and sends none. Runs with and without
take turns; each difference is that of one pair.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable

from _measure import Results, interleave, ms, report, runs_argument, table, verdict
from _project import Project

TESTS = 2000

#: The target, in seconds for each test.
TARGET = 0.002

CONFTEST = """
import os
from time import perf_counter, process_time

FINISHED = []

def pytest_runtest_logfinish():
    FINISHED.append((perf_counter(), process_time()))

def pytest_unconfigure():
    for name, first, last in zip(("wall", "cpu"), FINISHED[0], FINISHED[-1]):
        with open(os.path.join(os.environ["CHILD_NOTES"], name), "w") as file:
            file.write(repr(last - first))
"""

TESTS_FILE = f"""
import http.client
import pytest

def test_first(mlc_server): pass

@pytest.fixture(scope="module")
def client(mlc_server):
    connection = http.client.HTTPConnection("127.0.0.1", mlc_server.port)
    yield connection
    connection.close()

@pytest.mark.parametrize("n", range({TESTS}))
def test_asks(client, n):
    client.request("GET", "/v1/models")
    client.getresponse().read()

@pytest.mark.parametrize("n", range({TESTS}))
def test_has_it(mlc_server, n): pass
"""

ASKS, HAS_IT = "2,000 tests that send a request", "2,000 tests that send none"
PLUGIN = ("-p", "pytest_mlc_server.plugin", "--mlc-engine=sim")


def main() -> None:
    runs = runs_argument(__doc__, 3)
    with report("cost of costs for each test"), tempfile.TemporaryDirectory() as directory:
        project = Project(directory, {"conftest.py": CONFTEST, "test_it.py": TESTS_FILE})

        cpu: Results = {ASKS: [], HAS_IT: []}

        def measure(kind: str, *, usage: bool) -> tuple[float, float]:
            flags = () if usage else ("--mlc-no-usage",)
            project.run(*PLUGIN, *flags, "-k", f"first or {kind}")
            return project.note("wall") / TESTS, project.note("cpu") / TESTS

        def pair(name: str, kind: str) -> Callable[[], float]:
            turn = iter(range(runs))

            def difference() -> float:
                order = [True, False]
                if next(turn) % 2:  # the second run of a pair may have it easier
                    order.reverse()
                taken = {usage: measure(kind, usage=usage) for usage in order}
                cpu[name].append(taken[True][1] - taken[False][1])
                return taken[True][0] - taken[False][0]

            return difference

        measure("test_has_it", usage=True)  # byte code
        pairs = {ASKS: pair(ASKS, "test_asks"), HAS_IT: pair(HAS_IT, "test_has_it")}
        wall = interleave(pairs, runs)
        table("with - without, for each test: wall", wall, ours=ASKS, show=us, ratio=False)
        table("with - without, for each test: CPU of pytest", cpu, ours=ASKS, show=us, ratio=False)
        verdict("sends a request", statistics.median(wall[ASKS]), TARGET, show=us)
        verdict("sends none", statistics.median(wall[HAS_IT]), 0.00005, show=us)
        alone = measure("test_asks", usage=False)
        print(f"such a test without it takes {ms(alone[0])}, CPU {ms(alone[1])}")


def us(seconds: float) -> str:
    """Return a very short duration for people."""
    return f"{seconds * 1e6:.1f} us"


if __name__ == "__main__":
    main()
