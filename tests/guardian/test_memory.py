"""How much memory a server holds: sampled by its guardian, for whoever asks."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pytest_mlc_server import PopenServer, process
from pytest_mlc_server.guardian import memory
from pytest_mlc_server.guardian.memory import MAX_POINTS, Memory, resident
from tests.conftest import await_
from tests.support_server import ask, kill, temporary

__all__ = ["temporary"]  # a fixture

MIB = 1 << 20

Standin = Callable[..., PopenServer]


@pytest.fixture
def server(standin: Standin) -> PopenServer:
    """A server that runs."""
    made = standin()
    made.start()
    return made


def test_the_memory_of_a_process_is_what_others_see() -> None:
    seen = psutil.Process().memory_info().rss
    assert abs(resident(os.getpid()) - seen) < 16 * MIB
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    assert resident(ended.pid) == 0


@pytest.mark.parametrize("count", [1, MAX_POINTS, MAX_POINTS + 1, 5000])
def test_the_history_is_bounded_and_keeps_the_peak(count: int) -> None:
    kept = Memory()
    for second in range(count):
        kept.add(1000.0 + second, 7 if second == count // 3 else 1 + second % 2)
    told: dict[str, Any] = kept.told()
    points = told["points"]
    assert told["peak"] == 7 == max(size for _, size in points)
    assert min(count, MAX_POINTS // 2) <= len(points) <= MAX_POINTS
    times = [at for at, _ in points]
    assert times == sorted(set(times))
    assert times[0] == 1000.0
    # Evenly, but for the end: no part of the run is left out.
    steps = {round(after - before) for before, after in itertools.pairwise(times)}
    assert len(steps) <= 2
    assert times[-1] > 1000.0 + count - 2 * max(steps, default=1)


def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the samples a clock of their own; return its time, to be changed."""
    now = [100.0]
    own = SimpleNamespace(monotonic=lambda: now[0], time=lambda: 1e9 + now[0])
    monkeypatch.setattr(memory, "time", own)
    return now


def test_it_is_looked_at_once_a_second_and_rarely_while_nobody_uses_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = clock(monkeypatch)
    looks: list[float] = []

    def look(pid: int) -> int:
        if pid == os.getpid():  # which may have children, of other tests
            looks.append(now[0])
        return MIB

    monkeypatch.setattr(memory, "resident", look)
    kept = Memory()
    for _ in range(100):  # ten times a second, as the guardian's loop
        now[0] += 0.1
        kept.look(os.getpid(), idle=False)
    assert 9 <= len(looks) <= 11
    looks.clear()
    for _ in range(60):
        now[0] += 0.5
        kept.look(os.getpid(), idle=True)
    assert len(looks) <= 4


def test_the_tree_is_listed_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lists = clock(monkeypatch), [0]

    def descendants(_: int) -> list[Any]:
        lists[0] += 1
        now[0] += 0.1  # a host with very many processes
        return []

    monkeypatch.setattr(process, "descendants", descendants)
    kept = Memory()
    for _ in range(1000):
        now[0] += 0.1
        kept.look(os.getpid(), idle=False)
    assert 1 <= lists[0] <= 3


def test_what_is_below_the_server_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    child = [sys.executable, "-c", "import signal\nwhile True: signal.pause()"]
    with subprocess.Popen(child) as popen:
        try:
            found = [psutil.Process(popen.pid), psutil.Process()]
            monkeypatch.setattr(process, "descendants", lambda _: found)
            kept = Memory()
            kept._next_list = 0.0
            kept.look(os.getpid(), idle=False)
            assert kept._below == [popen.pid]  # itself is counted, and not twice
            await_(lambda: resident(popen.pid) > MIB, "a process with memory")
            before, kept.peak = kept.peak, 0
            kept.sample(os.getpid())
            assert before
            assert kept.peak > resident(os.getpid())
        finally:
            popen.kill()


def test_a_handle_knows_it_while_the_server_runs_and_afterwards(server: PopenServer) -> None:
    assert server.pid is not None
    seen = psutil.Process(server.pid).memory_info().rss
    peak = server.peak_memory
    assert peak is not None
    assert abs(peak - seen) < 32 * MIB
    points = server.memory()
    assert len(points) >= 1
    server.terminate()
    assert server.peak_memory is not None
    assert server.peak_memory >= peak
    assert server.memory()[0][0] == pytest.approx(points[0][0])
    assert [at for at, _ in server.memory()] == sorted(at for at, _ in server.memory())


def test_it_goes_on_after_a_restart(server: PopenServer) -> None:
    (first, *_), peak = server.memory(), server.peak_memory
    server.restart()
    assert server.memory()[0][0] == first[0]
    assert server.peak_memory is not None
    assert peak is not None
    assert server.peak_memory >= peak


def test_it_goes_on_with_another_guardian(server: PopenServer) -> None:
    assert server.pid is not None
    first, *_ = server.memory()
    kill(psutil.Process(server.pid).ppid())
    await_(lambda: server.poll() == "exited", "the end of the server")
    assert server.memory()[0] == first
    server.restart()
    points = server.memory()
    assert points[0] == first
    assert len(points) > 1
    assert len(server.life.marks) == 2
    assert len(server.life.starts) == 2


def test_a_server_that_is_released_was_asked_before(server: PopenServer) -> None:
    server.release()
    assert server.peak_memory


def test_a_guardian_that_does_not_answer_is_not_waited_for(server: PopenServer) -> None:
    assert server.pid is not None
    keeper = psutil.Process(server.pid).ppid()
    os.kill(keeper, signal.SIGSTOP)
    try:
        server._measure(server._lease, 0.05)  # type: ignore[arg-type]
        assert server.life.peak is None
    finally:
        os.kill(keeper, signal.SIGCONT)
    assert server.peak_memory


def test_there_is_none_of_a_server_that_was_not_started(model_dir: str) -> None:
    server = PopenServer(model_dir, port="auto")
    assert server.peak_memory is None
    assert server.memory() == []


def test_a_server_that_asks_nothing_shows_nothing(server: PopenServer) -> None:
    assert server.log_path is not None
    before = Path(server.log_path).read_text()
    server.memory()
    assert Path(server.log_path).read_text() == before
    ask(server)
