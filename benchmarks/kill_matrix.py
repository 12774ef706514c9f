"""Real pytest sessions, ended in every way at every moment, with every kind of server.

After each run: no process of its tree is left, its ports are free, no lock is held. The time is
that from the end (the signal, the exit, the guardian's death) until all of this is so; where pytest
lives on (a timeout of a test, a dead watcher or guardian), that from its own exit. Workers of
pytest-xdist whose controller was killed end after 5 s by themselves: of their runs, the time is
that of all other processes.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from _kill_suite import CHILDREN, command, environment, write

WAYS = (
    "SIGKILL",
    "SIGTERM",
    "SIGHUP",
    "SIGINT",
    "SIGINT twice",
    "os._exit",
    "pytest.exit",
    "-x",
    "timeout signal",
    "timeout thread",
    "worker crashes",
    "worker killed",
    "controller killed",
    "keeper killed",
    "watcher killed",
    "both killed",
)

#: `ready` is between two tests, `teardown` that of a test's fixture, `stop` the server's own.
MOMENTS = ("start", "ready", "test", "teardown", "stop")

#: A server may take this much longer than its stop time allows, in seconds.
GOAL = 2.0

#: Nothing that must come is waited for longer, in seconds.
WATCHDOG = 60.0


@dataclass
class Run:
    """One combination, and what came of it."""

    way: str
    moment: str
    child: str
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.way} / {self.moment} / {self.child}"

    @property
    def workers(self) -> int:
        return {"worker": 2, "controller": 4}.get(self.way.split()[0], 0)

    @property
    def stop_timeout(self) -> float:
        return 2.0 if self.moment == "stop" else 1.0

    def impossible(self) -> str | None:
        """Return why there is no such combination."""
        if self.moment == "stop" and self.child != "ignores signals":
            return "the others are gone before anything could hit their stop"
        if self.moment == "ready" and self.way == "-x":
            return "between tests nothing can fail"
        if self.moment == "ready" and self.way.startswith("timeout"):
            return "between tests no timer runs"
        if self.way == "both killed" and self.child == "daemonises":
            return "nobody is left who knows a daemon that bears no mark"
        return None


class WrongError(Exception):
    """A run that did not get where it should be ended."""


_ports: set[int] = set()
_lock = threading.Lock()


def free_ports() -> int:
    """Return the first of eight ports in a row that nobody has."""
    with _lock:
        while True:
            first = random.randrange(11000, 32000, 8)
            if first not in _ports and all(is_free(first + n) for n in range(8)):
                _ports.add(first)
                return first


def is_free(port: int) -> bool:
    """Tell whether a server could bind a port now."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def tree(token: str) -> list[int]:
    """Return all living processes that bear a run's token in environment or command line."""
    found = []
    word = token.encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with suppress(OSError):
            for name in ("cmdline", "environ"):
                with open(f"/proc/{entry}/{name}", "rb") as file:
                    if word in file.read():
                        found.append(int(entry))
                        break
    return found


def held_locks(directory: Path) -> list[str]:
    """Return the lock files that somebody still holds."""
    held = []
    for path in directory.glob("pytest-mlc-server-*/*.lock"):
        with path.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                held.append(path.name)
    return held


class Session:
    """A pytest session that is to be ended."""

    def __init__(self, run: Run, directory: Path, model: Path) -> None:
        self.run = run
        self.directory = directory
        self.port = free_ports()
        write(directory, run.way, run.moment, run.workers)
        shutil.copytree(model, directory / "model")
        words = command(directory, run.way, run.child, run.moment, self.port, run.stop_timeout)
        with (directory / "output.txt").open("wb") as output:
            self.pytest = subprocess.Popen(
                words,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(directory, run.way, run.moment, run.workers),
                start_new_session=True,
            )

    # --- the moment -------------------------------------------------------------------------------

    def await_moment(self) -> None:
        """Wait until every process of the run is where it is to be ended."""
        wanted = max(1, self.run.workers)
        if self.run.moment == "start":
            self._await(lambda: len(self.started()) >= wanted, "start of all servers")
        elif self.run.moment == "stop":
            self._await((self.directory / "signals").exists, "signal to the server")
        else:
            reached = lambda: len(list(self.directory.glob("reached-*[!t]"))) >= wanted  # noqa: E731
            self._await(reached, "moment")
        if self.run.child in ("daemonises", "forks"):
            name = {"daemonises": "daemon", "forks": "forks"}[self.run.child]
            self._await((self.directory / name).exists, "grandchild")

    def started(self) -> list[int]:
        """Return the process ids of all servers."""
        with suppress(OSError):
            return [int(line) for line in (self.directory / "started").read_text().split()]
        return []

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WATCHDOG
        while not condition():
            if self.pytest.poll() is not None and not condition():
                raise WrongError(f"pytest ended before the {what}")
            if time.monotonic() > deadline:
                raise WrongError(f"no {what}")
            time.sleep(0.005)

    # --- the end ----------------------------------------------------------------------------------

    def end(self) -> float:
        """End the session; return when it ended, on the monotonic clock."""
        way = self.run.way
        if way.startswith("timeout"):
            return self._await_pytest()
        if way.startswith(("keeper", "watcher", "both")):
            return self._kill_guardian()
        if way.startswith("worker"):
            return self._end_worker()
        number = {"SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGHUP}.get(way, signal.SIGKILL)
        if way in ("os._exit", "pytest.exit", "-x"):
            number = signal.SIGUSR1
        began = time.monotonic()
        if way.startswith("SIGINT"):
            os.killpg(self.pytest.pid, signal.SIGINT)
            if way.endswith("twice"):
                time.sleep(0.05)
                with suppress(ProcessLookupError):
                    os.killpg(self.pytest.pid, signal.SIGINT)
        else:
            self.pytest.send_signal(number)
        self._await_pytest()
        return began

    def _kill_guardian(self) -> float:
        server = self.started()[0]
        keeper = psutil.Process(server).ppid()
        watcher = psutil.Process(keeper).ppid()
        victims = {"keeper": [keeper], "watcher": [watcher], "both": [watcher, keeper]}
        began = time.monotonic()
        for pid in victims[self.run.way.split()[0]]:
            os.kill(pid, signal.SIGKILL)
        if self.run.way.startswith("keeper"):
            # The watcher ends the rest at once, whatever pytest does.
            others = {*tree(str(self.directory))} - {self.pytest.pid}
            self.await_gone(others, began)
        return self._release()

    def _end_worker(self) -> float:
        crash = self.run.way.endswith("crashes")
        worker = int((self.directory / "process-gw0").read_text())
        below = {child.pid for child in psutil.Process(worker).children(recursive=True)}
        began = time.monotonic()
        os.kill(worker, signal.SIGUSR1 if crash else signal.SIGKILL)
        self.await_gone({worker, *below}, began)
        return self._release()

    def _release(self) -> float:
        (self.directory / "release").touch()
        return self._await_pytest()

    def _await_pytest(self) -> float:
        try:
            self.pytest.wait(WATCHDOG)
        except subprocess.TimeoutExpired:
            self.run.problems.append("pytest did not end")
            self.pytest.kill()
            self.pytest.wait()
        return time.monotonic()

    # --- afterwards -------------------------------------------------------------------------------

    def await_all_gone(self, began: float) -> None:
        """Wait until nothing of the run is left."""
        if self.run.way.startswith("controller"):
            workers = {int(path.read_text()) for path in self.directory.glob("process-gw*")}
            self.await_gone({*tree(str(self.directory))} - workers, began)
            seconds = self.run.seconds
            self.await_gone(None, began)
            self.run.seconds = seconds
        else:
            self.await_gone(None, began)

    def await_gone(self, pids: Iterable[int] | None, began: float) -> None:
        """Wait until processes of the run are gone, all without `pids`; note the time."""
        token = str(self.directory)
        while True:
            left = tree(token)
            ports: list[int] = []
            locks: list[str] = []
            if pids is None:
                ports = [p for p in range(self.port, self.port + 5) if not is_free(p)]
                locks = held_locks(self.directory)
            else:
                left = sorted({*left} & {*pids})
            elapsed = time.monotonic() - began
            if not left and not ports and not locks:
                break
            if elapsed > WATCHDOG:
                self.run.problems.append(f"left: processes {left}, ports {ports}, locks {locks}")
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        self.run.seconds = max(self.run.seconds, elapsed)

    def complain(self, problem: str) -> None:
        """Note a problem, with the end of what pytest said."""
        output = (self.directory / "output.txt").read_text(errors="replace")
        self.run.problems.append(f"{problem}\n{output[-2500:]}")


def perform(run: Run, model: Path) -> Run:
    """Do one run."""
    directory = Path(tempfile.mkdtemp(prefix="kill-matrix-"))
    session = Session(run, directory, model)
    try:
        session.await_moment()
        session.await_all_gone(session.end())
    except (WrongError, psutil.Error, OSError) as error:
        session.complain(f"{type(error).__name__}: {error}")
    finally:
        if session.pytest.poll() is None:
            session.pytest.kill()
            session.pytest.wait()
        if run.problems:
            session.await_gone(None, time.monotonic())
        shutil.rmtree(directory, ignore_errors=True)
    limit = run.stop_timeout + GOAL
    if not run.problems and run.seconds > limit:
        run.problems.append(f"gone after {run.seconds:.2f} s, later than {limit:g} s")
    return run


def show(runs: list[Run], skipped: list[Run]) -> None:
    """Print the table, what was skipped, and what failed."""
    cells: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        cells[run.way, run.moment].append(run)
    print("\neach cell: runs / failures, median - maximum of the seconds until all was gone")
    print("way".ljust(18) + "".join(moment.rjust(22) for moment in MOMENTS))
    for way in dict.fromkeys(run.way for run in runs):
        texts = []
        for moment in MOMENTS:
            here = cells[way, moment]
            times = [run.seconds for run in here]
            failed = sum(bool(run.problems) for run in here)
            text = f"{len(here)}/{failed}  " if here else "-"
            if here:
                text += f"{statistics.median(times):.2f} - {max(times):.2f}"
            texts.append(text.rjust(22))
        print(way.ljust(18) + "".join(texts))
    print("\nchild".ljust(19) + "runs/failures   median - maximum")
    for child in dict.fromkeys(run.child for run in runs):
        here = [run for run in runs if run.child == child]
        times = [run.seconds for run in here]
        failed = sum(bool(run.problems) for run in here)
        extent = f"{statistics.median(times):.2f} - {max(times):.2f}"
        print(f"{child.ljust(18)}{f'{len(here)}/{failed}'.ljust(16)}{extent}")
    print("\nskipped:")
    reasons: dict[str, int] = defaultdict(int)
    for run in skipped:
        reasons[run.impossible() or ""] += 1
    for reason, count in reasons.items():
        print(f"  {count} combinations: {reason}")
    for run in runs:
        for problem in run.problems:
            print(f"\nFAILED {run.name}: {problem}")


def write_model(directory: Path) -> Path:
    """Write a model directory in which nothing is missing."""
    from pytest_mlc_server import engines

    model = directory / "model"
    shutil.copytree(engines.mock_model(), model)
    (model / "tensor-cache.json").write_text('{"records": []}')
    return model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs-per-combination", type=int, default=1, metavar="N")
    parser.add_argument("--only", action="append", choices=WAYS, help="these ways alone")
    parser.add_argument("--moment", action="append", choices=MOMENTS, help="these moments alone")
    parser.add_argument("--child", action="append", choices=CHILDREN, help="these servers alone")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default 2)")
    parser.add_argument("--report", help="file for the table, beside standard output")
    options = parser.parse_args()
    # A job of a shell that was started with "&" ignores it, and hands that down.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, lambda *_: None)  # under nohup, the same
    combinations = itertools.product(
        options.only or WAYS, options.moment or MOMENTS, options.child or CHILDREN
    )
    wanted = [Run(*combination) for combination in combinations]
    skipped = [run for run in wanted if run.impossible()]
    runs = [
        Run(run.way, run.moment, run.child)
        for _ in range(options.runs_per_combination)
        for run in wanted
        if not run.impossible()
    ]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(options.jobs) as executor:
        model = write_model(Path(directory))
        for number, run in enumerate(executor.map(lambda one: perform(one, model), runs), 1):
            word = "FAILED" if run.problems else "gone"
            print(f"[{number}/{len(runs)}] {run.name}: {word} {run.seconds:.2f} s", flush=True)
    failed = sum(bool(run.problems) for run in runs)
    show(runs, skipped)
    took = time.monotonic() - began
    print(f"\n{len(runs)} runs, {failed} failures, {options.jobs} at a time, in {took:.0f} s")
    if options.report:
        with open(options.report, "w", encoding="utf-8") as file:
            sys.stdout = file
            show(runs, skipped)
            sys.stdout = sys.__stdout__
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
