"""Servers left alive when a run ends, in each way to end, with each candidate.

A suite of one test for each worker, with the session fixture of each candidate. Most ways hit the
run while a test uses the server; what they hit is said in the name. Once all processes of pytest
are gone, whatever is left has a grace of some seconds to end; then it is counted and killed.
Our guardian counts as left, too, if it is. `kill_matrix.py` has more ways and moments, ours alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import _candidates as names
import _docker
from _alone import alone
from _processes import bearing, kill_all, wait_until
from _results import COUNT, Cell, Grid, Table
from _rounds import Effort, reason, together
from _suites import SUITES, Suite
from _trial import TOKEN, Bench, bench

#: What is left may take this much longer than pytest, in seconds.
GRACE = 3.0

#: Nothing that must come is waited for longer, in seconds.
WATCHDOG = 90.0

#: Runs at a time: most of the time is waiting.
JOBS = 4

WHAT = f"""
Processes of the server that are alive {GRACE:g} s after the last process of pytest, in each way to
end a run; of ours, those of the guardian count as well. Signals go to pytest alone, Ctrl-C to its
whole process group, as a terminal does it. With pytest-xdist there are two workers with a server
each. Containers are counted where a Docker daemon answers.
"""

NO_RYUK = "needs Ryuk's image: not measured here"


@dataclass(frozen=True)
class Way:
    """A way to end a run.

    Parameters
    ----------
    test
        What the test does; ``wait()`` waits for the end from outside.
    end
        What is sent from outside, once the moment has come: a signal, and to whom.
    flags
        Words of pytest's command line.
    starting
        Whether the moment is the server's start rather than the test.
    """

    test: str = "wait()"
    end: tuple[int, str] | None = None
    flags: tuple[str, ...] = ()
    starting: bool = False

    @property
    def workers(self) -> int:
        """Number of pytest-xdist's workers."""
        return 2 if "xdist" in self.flags else 0


_XDIST = ("-p", "xdist", "-n2", "--max-worker-restart=0")
_TIMEOUT = ("-p", "pytest_timeout", "--timeout=1", "-o", "timeout_func_only=true")
_FIRST = 'if os.environ["PYTEST_XDIST_WORKER"] == "gw0": '

WAYS = {
    "all tests pass": Way("pass"),
    "a test fails": Way("assert False"),
    "`pytest.exit` in a test": Way('pytest.exit("over")'),
    "`os._exit` in a test": Way("os._exit(7)"),
    "segmentation fault in a test": Way("import ctypes; ctypes.string_at(0)"),
    "pytest-timeout, method thread": Way("wait()", None, (*_TIMEOUT, "--timeout-method=thread")),
    "Ctrl-C": Way(end=(signal.SIGINT, "group")),
    "Ctrl-C while the server starts": Way(end=(signal.SIGINT, "group"), starting=True),
    "SIGTERM": Way(end=(signal.SIGTERM, "pytest")),
    "SIGTERM while the server starts": Way(end=(signal.SIGTERM, "pytest"), starting=True),
    "SIGHUP": Way(end=(signal.SIGHUP, "pytest")),
    "SIGKILL": Way(end=(signal.SIGKILL, "pytest")),
    "xdist: all tests pass": Way("pass", flags=_XDIST),
    "xdist: a worker crashes": Way(f"{_FIRST}os._exit(7)", flags=_XDIST),
    "xdist: a worker gets SIGKILL": Way(end=(signal.SIGKILL, "gw0"), flags=_XDIST),
    "xdist: the controller gets SIGKILL": Way(end=(signal.SIGKILL, "pytest"), flags=_XDIST),
}

#: What takes part in a quick run.
QUICK = ("SIGKILL", "xdist: a worker crashes")

#: In the command line of each worker.
_EXECNET = b"exec(eval(sys.stdin"

_TESTS = """
import os, time
import pytest

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
NOTES = os.environ["CHILD_NOTES"]

def wait():
    path = os.path.join(NOTES, f"writing.{{WORKER}}")
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    os.replace(path, os.path.join(NOTES, f"reached.{{WORKER}}"))  # never seen half written
    limit = time.monotonic() + 60  # whoever was to end it may have been ended
    while not os.path.exists(os.path.join(NOTES, "released.")) and time.monotonic() < limit:
        time.sleep(0.01)

@pytest.mark.parametrize("number", range({number}))
def test_it(server, number):
    {test}
"""


class Run:
    """A run that is ended in one way."""

    def __init__(self, place: Bench, suite: Suite, way: Way) -> None:
        self.way = way
        tests = _TESTS.format(number=max(1, way.workers), test=way.test)
        self.home = place.suite(suite, tests)
        variables = {"CHILD_DELAY": "30"} if way.starting else {}
        environment = place.environment(self.home, variables)
        self.token = environment[TOKEN]
        self.notes = Path(environment["CHILD_NOTES"])
        with (self.home / "output.txt").open("wb") as output:
            self.pytest = subprocess.Popen(
                place.command(suite, *way.flags),
                cwd=self.home,
                env={**environment, "CHILD_LIMIT": "60"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def perform(self) -> int:
        """End it; return how many processes of servers are left."""
        if self.way.end is not None:
            self._await_moment()
            self._end(*self.way.end)
        with suppress(subprocess.TimeoutExpired):
            self.pytest.wait(WATCHDOG)
        if not wait_until(lambda: not self._of_pytest(), WATCHDOG, 0.02):
            raise RuntimeError(f"pytest did not end: {self._said()}")
        wait_until(lambda: not bearing(self.token), GRACE, 0.02)
        left = bearing(self.token)
        if not (self.notes / "began").exists():
            raise RuntimeError(f"there was no server: {self._said()}")
        return len(left)

    def _await_moment(self) -> None:
        moment: Callable[[], bool] = (self.notes / "began").exists
        if not self.way.starting:
            wanted = max(1, self.way.workers)
            moment = lambda: len(list(self.notes.glob("reached.*"))) == wanted  # noqa: E731
        if not wait_until(lambda: moment() or self.pytest.poll() is not None, WATCHDOG):
            raise RuntimeError(f"the moment did not come: {self._said()}")
        if not moment():
            raise RuntimeError(f"pytest ended too early: {self._said()}")

    def _end(self, number: int, whom: str) -> None:
        if whom == "group":
            os.killpg(self.pytest.pid, number)
        elif whom == "pytest":
            self.pytest.send_signal(number)
        else:
            os.kill(int((self.notes / f"reached.{whom}").read_text()), number)
            (self.notes / "released.").touch()

    def _of_pytest(self) -> list[int]:
        """Return the processes that are pytest's own: the controller and the workers."""
        found = []
        for pid in bearing(self.token):
            with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read()
            if b"\0pytest\0" in line or _EXECNET in line:
                found.append(pid)
        return found

    def _said(self) -> str:
        text = (self.home / "output.txt").read_text(encoding="utf-8", errors="replace")
        return " | ".join(text.splitlines()[-5:])

    def clean(self) -> None:
        """Leave nothing."""
        kill_all(self.token)
        self.pytest.wait()
        _docker.remove(str(self.notes))
        shutil.rmtree(self.home, ignore_errors=True)


def perform(place: Bench, name: str, way: str) -> Cell:
    """Do one run."""
    why = missing(name, way)
    if why:
        return Cell(note=why)
    run = Run(place, SUITES[name], WAYS[way])
    try:
        return Cell([float(run.perform())])
    except Exception as error:  # one run's failure is not the others'
        return Cell(note=reason(error))
    finally:
        run.clean()


def missing(name: str, way: str) -> str:
    """Return why a candidate cannot be ended in a way."""
    for flag, package in (("xdist", "pytest-xdist"), ("pytest_timeout", "pytest-timeout")):
        if flag in WAYS[way].flags and not names.version_of(package):
            return f"{package} is {names.NOT_INSTALLED}"
    if name == names.TESTCONTAINERS and not names.missing(name) and not _docker.ryuk():
        return NO_RYUK
    return names.missing(name)


def measure(effort: Effort) -> list[Table]:
    """End runs in all ways with all candidates."""
    ways = QUICK if effort.quick else tuple(WAYS)
    who = names.QUICK if effort.quick else names.OWNERS
    tasks = [(name, way) for way in ways for name in who]
    rows: dict[str, dict[str, Cell]] = {way: {} for way in ways}
    with bench() as place:
        again = tasks * effort.runs
        cells = together(JOBS, perform, [(place, name, way) for name, way in again])
    for (name, way), cell in zip(again, cells, strict=True):
        merged = rows[way].setdefault(name, Cell())
        merged.values += cell.values
        merged.note = merged.note or cell.note
    units = dict.fromkeys(who, COUNT)
    return [Grid("left", "Left alive", WHAT, "the run ends by", rows, names.OURS, units)]


if __name__ == "__main__":
    alone(__doc__, measure, runs=2)
