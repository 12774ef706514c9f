"""The life of one server in a pytest run: its launch, its readiness, its stop.

Each run is a suite of one test with a session fixture, as the candidate's documentation writes it.
The server is the same small program for all; it listens 1.0 to 1.1 s after its start, at random but
the same for all candidates of a round, and notes when it does what.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable

import _suites
from _alone import alone
from _candidates import OURS, QUICK, UPSTREAM
from _results import Cell, Figures, Table
from _rounds import Effort, rounds
from _trial import Bench, Trial, bench, run

LAUNCH = """
From the moment at which pytest sets up the first fixture to the server's first own instruction.
What a fixture imports counts, and so does the start of our guardian, which comes first; our early
start (`--mlc-start collected`) is on, as it is by default.
"""

INTERPRETER = "`python -c pass`, start to end"

READY = """
From the moment at which the server listens and can answer to the moment at which pytest has the
fixture's value. Ours has then seen that the socket belongs to the server's own processes, that the
server lists the model, and that it has generated a token (`ready=http` leaves the token out);
the others asked once, tried the port or read a line.
"""

STOP = """
The teardown of the last test, in which the session fixture stops the server. The server ends at
SIGINT or SIGTERM at once. Ours returns when the guardian is gone too.
"""

BEYOND = """
What of the teardown comes after the server's own last act: the time that the stop itself adds. A
server that is killed has no last act, so who kills takes no part.
"""


class Lives:
    """Runs of all suites, and what was noted in them."""

    def __init__(self, bench: Bench, names: list[str], runs: int) -> None:
        self._bench = bench
        self._homes = {name: bench.suite(_suites.SUITES[name]) for name in names}
        draw = random.Random(1)
        self._delays = [1.0 + draw.random() / 10 for _ in range(runs)]
        self._turns = dict.fromkeys(names, 0)
        self.launches: dict[str, Cell] = {name: Cell() for name in names}
        self.stops: dict[str, Cell] = {name: Cell() for name in names}
        self.interpreter = Cell()
        self.beyond: dict[str, Cell] = {name: Cell() for name in names}

    def live(self, name: str) -> float:
        """Run a suite once; return how long after its server's ready the fixture was there."""
        trial = self._run(name, self._delays[self._turns[name]])
        self._turns[name] += 1
        ready = trial.between("ready", "got")
        self.launches[name].values.append(trial.between("asked", "began"))
        if name == OURS:
            self.interpreter.values.append(interpreter())
        self.stops[name].values.append(trial.between("teardown", "torn-down"))
        if "end" in trial.notes:
            self.beyond[name].values.append(trial.between("end", "torn-down"))
        return ready

    def _run(self, name: str, delay: float) -> Trial:
        suite = _suites.SUITES[name]
        trial = run(self._bench, self._homes[name], suite, CHILD_DELAY=str(delay))
        if trial.returncode != 0:
            raise RuntimeError(f"pytest ended with {trial.returncode}: {trial.output[-300:]}")
        return trial

    def warm_up(self, name: str) -> None:
        """Have the byte code of a suite's imports written."""
        self._run(name, 0.0)


def interpreter() -> float:
    """Run an interpreter that does nothing: the unit in which our launch has its budget."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - began


def measure(effort: Effort) -> list[Table]:
    """Measure all suites."""
    names = [name for name in _suites.SUITES if not effort.quick or name in QUICK]
    with bench() as place:
        lives = Lives(place, names, effort.runs)
        first = {name: Cell() for name in names}
        if not effort.quick:
            first = rounds({name: _once(lives.warm_up, name) for name in names}, 1)
        there = {name: _once(lives.live, name) for name in names if not first[name].note}
        ready = {**first, **rounds(there, effort.runs)}
    for name, cell in ready.items():
        lives.launches[name].note = lives.stops[name].note = cell.note
        if not lives.beyond[name].values:
            lives.beyond[name].note = cell.note or "the server is killed, or its last act not seen"
    launches = _without(lives.launches, _suites.READY_HTTP, _suites.MIRAKURU_TCP)
    stops = _without(lives.stops, _suites.READY_HTTP)
    return [
        Figures("ready", "From ready to the fixture", READY, ready, OURS),
        Figures("stop", "Stop", STOP, stops, OURS),
        Figures(
            "beyond",
            "Stop, beyond the server's own end",
            BEYOND,
            _without(lives.beyond, _suites.READY_HTTP, UPSTREAM),
            OURS,
        ),
        Figures(
            "launch",
            "From asking to the server's first instruction",
            LAUNCH,
            {**launches, INTERPRETER: lives.interpreter},
            OURS,
            reference=INTERPRETER,
        ),
    ]


def _once(work: Callable[[str], float | None], name: str) -> Callable[[], float | None]:
    return lambda: work(name)


def _without(cells: dict[str, Cell], *names: str) -> dict[str, Cell]:
    return {name: cell for name, cell in cells.items() if name not in names}


if __name__ == "__main__":
    alone(__doc__, measure, runs=10)
