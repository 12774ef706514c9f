"""What sharing, reuse and an early start save: a child that takes 5 s to start, with 300 MiB.

All figures are of whole pytest runs, side by side and in turn; the attach time alone is that from
asking for the fixture `mlc_server` to having it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable

from _measure import Results, interleave, report, runs_argument, table, verdict
from _project import Project, Run

CHILD = {"CHILD_DELAY": "5", "CHILD_MEMORY": "300"}
MIB = 1 << 20

#: Notes how long it took to have the server, from the setup of the first of its fixtures.
CONFTEST = """
import os
from time import perf_counter
import pytest

BEGAN = []

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef):
    if fixturedef.argname.startswith("mlc_"):
        BEGAN.append(perf_counter())
    result = yield
    if fixturedef.argname == "mlc_server":
        with open(os.path.join(os.environ["CHILD_NOTES"], "asked"), "w") as file:
            file.write(repr(perf_counter() - BEGAN[0]))
    return result
"""

SHORT = """
import pytest
from urllib.request import urlopen

@pytest.mark.parametrize("n", range(60))
def test_short(mlc_server, n):
    urlopen(f"{mlc_server.openai_v1_base_url}/models").close()
"""

ONE = """
def test_one(mlc_server): pass
"""

#: Two seconds of collection, and a first test of one second that needs no server.
LATER = """
import time
time.sleep(2)

def test_without_server():
    time.sleep(1)

def test_with_server(mlc_server): pass
"""


def mib(size: float) -> str:
    return f"{size / MIB:.0f} MiB"


def scopes(project: Project, runs: int) -> None:
    """Compare one server for all workers with one for each."""
    peaks: Results = {"scope run": [], "scope worker": []}

    def measurer(scope: str) -> Callable[[], float]:
        def measure() -> float:
            flags = ("-p", "xdist", "-n4", f"--mlc-scope={scope}", "test_short.py")
            run = project.served(*flags, watch=True, env=CHILD)
            peaks[f"scope {scope}"].append(run.peak)
            return run.wall

        return measure

    results = interleave({name: measurer(name.split()[1]) for name in peaks}, runs)
    table("60 short tests, -n 4: wall time", results, ours="scope run")
    table("60 short tests, -n 4: peak memory", peaks, ours="scope run", show=mib)


def reuse(project: Project, runs: int) -> None:
    """Compare a run that finds a server with one that starts it."""
    attach: Results = {"attached": [], "started": []}
    flags = ("--mlc-start=lazy", "test_one.py")

    def again() -> float:
        return noted("attached", project.served("--mlc-reuse=120", *flags, env=CHILD))

    def anew() -> float:
        return noted("started", project.served(*flags, env=CHILD))

    def noted(name: str, run: Run) -> float:
        attach[name].append(project.note("asked"))
        return run.wall

    project.served("--mlc-reuse=120", *flags, env=CHILD)
    more = {"second run, --mlc-reuse": again, "second run, without": anew}
    try:
        again()  # byte code of this path
        attach["attached"].clear()
        results = interleave(more, 4 * runs, {"second run, without": runs})
    finally:
        project.stop_all()
    table("one test: wall time", results, ours="second run, --mlc-reuse")
    table("mlc_server asked for -> there", attach, ours="attached")
    verdict("attach, median", statistics.median(attach["attached"]), 0.06)


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
    with report("sharing, reuse, early start"), tempfile.TemporaryDirectory() as directory:
        files = {"test_short.py": SHORT, "test_one.py": ONE, "test_later.py": LATER}
        project = Project(directory, {"conftest.py": CONFTEST, **files})
        scopes(project, runs)
        reuse(project, runs)
        early(project, runs)


if __name__ == "__main__":
    main()
