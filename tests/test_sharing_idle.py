"""A shared server that waits for its next user, and what its users know of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_mlc_server import launching, shared_servers
from tests.conftest import await_, await_gone
from tests.support_server import ask
from tests.support_sharing import Shared, keeper_of, shared, together, watcher_of

__all__ = ["shared"]  # a fixture


# --- waiting for the next user --------------------------------------------------------------------


def idle(shared: Shared, *words: str, **options: Any) -> int:
    """Have a server that waits for its next user, and return its process id."""
    one = shared.started(*words, linger=60.0, **options)
    pid = one.pid
    assert pid is not None
    one.terminate()
    await_(lambda: _status(shared)["idle"] is not None, "a server that waits")
    return pid


def _status(shared: Shared) -> Any:
    (found,) = shared_servers.found(str(shared.path))
    return found.status


def test_the_next_user_attaches(shared: Shared) -> None:
    before = time.time()
    pid = idle(shared)
    assert _status(shared)["leases"] == 0
    following = shared.started(linger=60.0)
    assert following.pid == pid
    assert following.reused is not None
    assert before <= following.reused["started_at"] <= time.time()
    assert following.reused["idle"] >= 0
    assert following.reused["reset"]
    assert ask(following)["choices"]
    assert shared.starts == [pid]
    assert _status(shared)["idle"] is None


def test_it_goes_in_order_when_its_time_is_over(shared: Shared, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    one = shared.started(f"clean={clean}", linger=0.1)
    pid = one.pid
    assert pid is not None
    one.terminate()
    await_gone(pid)
    assert clean.read_text() == "closed in order"
    await_(lambda: shared.files == [], "the removal of the door")


def test_the_latest_user_says_how_long_it_stays(shared: Shared) -> None:
    pid = idle(shared)
    shared.started(linger=0.0).terminate()
    await_gone(pid)


def test_an_engine_that_answers_no_reset_is_not_reused(shared: Shared) -> None:
    pid = idle(shared, "reset-status=500")
    following = shared.started("reset-status=500", linger=60.0)
    assert following.pid != pid
    assert following.reused is None
    assert shared.alive == [following.pid]


def test_without_the_debug_endpoints_nothing_is_reset_and_it_says_so(shared: Shared) -> None:
    off = {"enable_debug": False}
    pid = idle(shared, "reset-status=500", config=off)
    following = shared.started("reset-status=500", config=off, linger=60.0)
    assert following.pid == pid
    assert following.reused is not None
    assert not following.reused["reset"]


def _stopped(shared: Shared, pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def _killed(shared: Shared, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _wedged(shared: Shared, pid: int) -> None:
    # The thread behind the port lives, and generates nothing any more.
    from urllib.request import Request, urlopen

    url = f"http://127.0.0.1:{_status(shared)['ready']['port']}/v1/completions"
    with pytest.raises(OSError, match="timed out"):
        urlopen(Request(url, b'{"prompt": "wedge-silently"}'), timeout=0.3)


@pytest.mark.parametrize("hurt", [_killed, _stopped, _wedged])
def test_one_that_works_no_more_is_replaced_soon(
    shared: Shared, hurt: Callable[[Shared, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "REUSE_DEADLINE", 0.5)
    pid = idle(shared)
    hurt(shared, pid)
    handles = [shared.handle(linger=60.0) for _ in range(3)]
    assert together(*(one.start for one in handles)) == [None] * 3
    assert len(shared.starts) == 2
    assert {one.pid for one in handles} == {shared.starts[1]}
    assert [one.check() for one in handles] == ["ready"] * 3
    assert [one.reused for one in handles] == [None] * 3
    await_gone(pid)


def test_with_one_user_at_a_time_the_second_has_its_own(shared: Shared) -> None:
    first = shared.started(exclusive=True, linger=60.0)
    second = shared.started(exclusive=True, linger=60.0)
    assert first.pid != second.pid
    pids = [first.pid, second.pid]
    assert shared.starts == pids
    first.terminate()
    third = shared.started(exclusive=True, linger=60.0)
    assert third.pid in pids
    assert third.pid != second.pid
    assert len(shared.starts) == 2


# --- secrets --------------------------------------------------------------------------------------


def test_a_random_key_is_shared_with_the_holders_and_with_nobody_else(
    shared: Shared, tmp_path: Path
) -> None:
    first = shared.started(config={"api_key": "auto"})
    second = shared.started(config={"api_key": "auto"})
    assert first.pid == second.pid
    assert first.api_key == second.api_key
    assert first.api_key not in (None, "auto")
    assert ask(second)["choices"]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert first.api_key.encode() not in path.read_bytes(), path
    assert first.pid is not None
    for pid in (keeper_of(first), watcher_of(first)):
        assert first.api_key not in " ".join(psutil.Process(pid).cmdline())
    assert first.api_key not in repr(second)
    (found,) = shared_servers.found(str(shared.path))
    assert first.api_key not in str((found.status, found.facts))
