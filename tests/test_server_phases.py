"""What a starting server is doing, how long it may take, and what is told when it takes longer."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pytest_mlc_server import PopenServer, StartError, logs, process
from pytest_mlc_server.guardian.start import Start
from pytest_mlc_server.leases import Lease
from tests.conftest import await_
from tests.support_server import temporary as temporary

pytestmark = pytest.mark.slow

Servers = Callable[..., PopenServer]

RECORDED = Path(__file__).parent / "data" / "logs"

#: Time limits of a start, in seconds. On a busy machine its first line may come after the first of
#: them, which says nothing of what is tested: then the next one is tried.
LIMITS = (1.0, 4.0, 16.0)

#: The line of each recorded log with which each phase begins.
BEGINNINGS = {
    "good-start": {
        logs.DETECTING: "Found\x1b[0m device: cpu:0",
        logs.LOADING: "Using library model: ",
        logs.BINDING: "Started server process",
    },
    "jit-start": {
        logs.DETECTING: "Found\x1b[0m device: cpu:0",
        logs.COMPILING: "Compiling using commands below",
        logs.LOADING: "Using compiled model lib: ",
        logs.BINDING: "Started server process",
    },
    "device-auto": {
        logs.DETECTING: "Not found\x1b[0m device: cuda:0",
        logs.LOADING: "Using library model: ",
        logs.BINDING: "Started server process",
    },
    "download-failed": {
        logs.DETECTING: "Found\x1b[0m device: cpu:0",
        logs.DOWNLOADING: "Downloading model from HuggingFace",
    },
}


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Have each phase that the guardian tells of leave a file of its name; list them."""
    heard: list[str] = []
    listen = Lease.next

    def hear(self: Lease, timeout: float) -> dict[str, Any] | None:
        message = listen(self, timeout)
        if message is not None and message["event"] == "phase":
            heard.append(message["phase"])
            (tmp_path / message["phase"].replace(" ", "-")).touch()
        return message

    monkeypatch.setattr(Lease, "next", hear)
    return lambda: heard


def step_by_step(name: str, tmp_path: Path) -> Path:
    """Write a recorded log in which each phase begins when the one before was told."""
    text = (RECORDED / f"{name}.txt").read_text().partition("INFO:     Uvicorn running")[0]
    before = logs.LAUNCHING
    for phase, line in BEGINNINGS[name].items():
        head, found, rest = text.rpartition(line) if phase == logs.BINDING else text.partition(line)
        assert found
        head, _, same_line = head.rpartition("\n")
        gate = tmp_path / before.replace(" ", "-")
        text = f"{head}\n@await {gate}\n{same_line}{found}{rest}"
        before = phase
    path = tmp_path / f"{name}.txt"
    path.write_text(text.lstrip("\n") + f"\n@await {tmp_path / before.replace(' ', '-')}\n")
    return path


@pytest.mark.parametrize("name", ["good-start", "jit-start", "device-auto"])
def test_the_phases_of_a_start_are_seen_as_they_begin(
    standin: Servers, told: Callable[[], list[str]], name: str, tmp_path: Path
) -> None:
    server = standin(f"log={step_by_step(name, tmp_path)}")
    assert server.startup_phases == {}
    server.start()
    expected = [logs.LAUNCHING, *BEGINNINGS[name]]
    assert told() == expected
    assert list(server.startup_phases) == expected
    assert all(seconds > 0 for seconds in server.startup_phases.values())
    spent = sum(server.startup_phases.values())
    assert server.startup_seconds == pytest.approx(spent, rel=0.05)


def test_a_failed_start_says_in_which_phase_it_was_and_where_the_time_went(
    standin: Servers, told: Callable[[], list[str]], tmp_path: Path
) -> None:
    server = standin(f"log={step_by_step('download-failed', tmp_path)}", "exit=1")
    with pytest.raises(StartError) as caught:
        server.start()
    (line,) = re.findall(r"^phase: .*$", str(caught.value), flags=re.MULTILINE)
    number = r"\d+\.\d s"
    assert re.fullmatch(
        rf"phase: downloading \(launching {number}, detecting devices {number}, "
        rf"downloading {number}\)",
        line,
    )


def test_a_restart_has_phases_of_its_own(standin: Servers) -> None:
    server = standin(f"log={RECORDED / 'jit-start.txt'}")
    server.start()
    first = server.startup_phases
    server.restart()
    assert server.startup_phases
    assert server.startup_phases is not first


# --- time -----------------------------------------------------------------------------------------


def cut(tmp_path: Path, name: str, line: str, more: str = "") -> Path:
    """Write a recorded log up to a line, and what comes then."""
    head, found, rest = (RECORDED / f"{name}.txt").read_text().partition(line)
    assert found
    path = tmp_path / "log.txt"
    path.write_text(f"{head}{found}{rest.partition(chr(10))[0]}\n{more}")
    return path


@pytest.mark.parametrize(
    ("name", "line", "phase"),
    [
        ("good-start", "Using library model: ", logs.LOADING),
        ("jit-start", "Compiling using commands below", logs.COMPILING),
        ("download-failed", "[Git] Cloning", logs.DOWNLOADING),
    ],
)
def test_a_time_out_says_in_which_phase_the_time_went(
    standin: Servers, tmp_path: Path, name: str, line: str, phase: str
) -> None:
    # A silent hang, also where progress would get more time.
    orders = (f"log={cut(tmp_path, name, line)}", "hang")
    for limit in LIMITS:
        with pytest.raises(StartError, match=f"it was not ready within {limit:g} s") as caught:
            standin(*orders, startup_timeout=limit).start()
        assert "--mlc-startup-timeout" in str(caught.value)
        if f"phase: {phase} (" in str(caught.value):
            break
    assert f"phase: {phase} (" in str(caught.value)


def test_a_compilation_that_makes_progress_gets_more_time(standin: Servers, tmp_path: Path) -> None:
    done = tmp_path / "done"
    log = cut(tmp_path, "jit-start", "Compiling using commands below", f"@repeat {done} step\n")
    for limit in LIMITS:
        server = standin(f"log={log}", startup_timeout=limit)
        timer = threading.Timer(2.5 * limit, done.touch)  # well after the time limit
        timer.start()
        try:
            server.start()
            break
        except StartError:
            if limit == LIMITS[-1]:
                raise
        finally:
            timer.cancel()
            timer.join()
    assert server.startup_seconds is not None
    assert server.startup_seconds > 2 * limit


def test_progress_for_ever_ends_at_the_limit(standin: Servers, tmp_path: Path) -> None:
    log = cut(tmp_path, "jit-start", "Compiling using commands below", "@repeat /none step\n")
    for limit in LIMITS:
        server = standin(f"log={log}", startup_timeout=limit / 2, startup_limit=1.5 * limit)
        with pytest.raises(StartError) as caught:
            server.start()
        if "--mlc-startup-limit" in str(caught.value):
            break
    assert f"it was not ready within {1.5 * limit:g} s" in str(caught.value)
    assert "--mlc-startup-limit" in str(caught.value)
    assert "phase: compiling (" in str(caught.value)


class Clock:
    """A start of which the test decides what it does, and what time it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, phase: str, **limits: float) -> None:
        self.now = 1000.0
        self.phase = phase
        self.died = ""
        self.grows = False
        self.work = 0.0
        fakes = {
            "time": {**vars(time), "monotonic": lambda: self.now},
            "process": {
                **vars(process),
                "listening": lambda _: [],
                "descendants": lambda _: [],
                "activity": lambda _: self.work,
            },
        }
        for name, fake in fakes.items():
            module = SimpleNamespace(**fake)
            monkeypatch.setattr(f"pytest_mlc_server.guardian.start.{name}", module)
        order = {
            "host": "",
            "port": 0,
            "expected": {},
            "startup_timeout": 60.0,
            "startup_limit": 1800.0,
        }
        reader: Any = self
        self._start = Start(1, self.now, {**order, **limits}, reader, _nothing, _nothing)

    def read(self) -> bool:
        return self.grows

    def run(self, seconds: float, each: Callable[[], None] | None = None) -> bool:
        """Let time pass; tell whether the start goes on."""
        end = self.now + seconds
        while self.now < end and self._start.outcome is None:
            self.now += 0.5
            (each or _nothing)()
            self._start.look()
        return self._start.outcome is None


def _nothing(*_: object) -> None:
    pass


LONG, SHORT = (
    pytest.mark.parametrize("phase", phases)
    for phases in (
        [logs.DOWNLOADING, logs.COMPILING],
        [logs.LAUNCHING, logs.DETECTING, logs.LOADING, logs.BINDING],
    )
)


@LONG
def test_growing_logs_and_busy_processes_restart_the_clock_of_long_phases(
    monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    clock = Clock(monkeypatch, phase)

    def compute() -> None:
        clock.work += 0.5

    assert clock.run(500, compute)
    clock.grows = True
    assert clock.run(500)
    clock.grows = False
    assert clock.run(59)
    assert not clock.run(5)


@LONG
def test_the_limit_counts_from_the_start(monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    clock = Clock(monkeypatch, phase)
    clock.grows = True
    assert clock.run(1799)
    assert not clock.run(5)


@SHORT
def test_other_phases_get_no_more_time(monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    clock = Clock(monkeypatch, phase)
    clock.grows = True
    assert clock.run(59)
    assert not clock.run(5)


def test_what_comes_after_a_long_phase_has_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, logs.COMPILING)
    clock.grows = True
    assert clock.run(300)
    clock.phase, clock.grows = logs.LOADING, False
    assert clock.run(59)
    assert not clock.run(5)


@pytest.mark.parametrize(
    ("code", "works"), [("while True: pass", True), ("import signal; signal.pause()", False)]
)
def test_only_what_computes_below_a_process_is_progress(code: str, works: bool) -> None:
    between = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    with subprocess.Popen([sys.executable, "-c", between, code]) as parent:
        try:
            (child,) = await_(lambda: process.descendants(parent.pid), "the child")
            before = process.activity(parent.pid)
            if works:
                await_(lambda: process.activity(parent.pid) > before, "progress")
            else:
                await_(lambda: child.status() == psutil.STATUS_SLEEPING, "its sleep")
                assert process.activity(parent.pid) == before == 0
        finally:
            process.kill(process.descendants(parent.pid))  # its parent ends with it
