"""At the door of a shared server: guests, holders, and who may ask for what."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import doors, leases, process, shared_servers, sharing
from tests.conftest import WATCHDOG, await_, await_gone
from tests.support_server import ask, linux
from tests.support_sharing import Guest, Shared, process_of_nobody, shared

__all__ = ["shared"]  # a fixture


def guest(shared: Shared) -> Guest:
    """Return a connection to the only door."""
    (door,) = shared.doors
    return Guest(door)


def attach(**changes: Any) -> dict[str, Any]:
    """Return a message that asks for a lease."""
    me = [[os.getpid(), process.start_time(os.getpid())]]
    return {"op": "attach", "holders": me, "exclusive": False, "linger": 0.0, "runs": [], **changes}


def status(shared: Shared) -> Any:
    """Return what the guardian says of the only server."""
    (found,) = shared_servers.found(str(shared.path))
    return found.status


# --- guests ---------------------------------------------------------------------------------------


def test_a_guest_that_says_nothing_or_leaves_means_nothing(shared: Shared) -> None:
    holder = shared.started()
    silent = [guest(shared) for _ in range(20)]
    for one in silent[:10]:
        one.close()
    half = guest(shared)
    half.say(b'{"op": "att')
    assert status(shared)["leases"] == 1
    assert holder.check() == "ready"
    pid = holder.pid
    assert pid is not None
    holder.terminate()
    await_gone(pid)  # guests do not keep it
    for one in (*silent[10:], half):
        assert one.hear() is None
        one.close()


def test_a_guest_that_asks_for_the_state_is_told_no_secrets(shared: Shared) -> None:
    holder = shared.started(config={"api_key": "auto"})
    one = guest(shared)
    for _ in range(2):
        one.say({"op": "status"})
        told = one.hear()
        assert told is not None
        assert (told["event"], told["state"], told["pid"]) == ("status", "ready", holder.pid)
        assert str(holder.api_key) not in json.dumps(told)
    one.close()


@pytest.mark.parametrize(
    "message",
    [
        {"op": "release", "keep": False},
        {"op": "check", "deadline": 1},
        {"op": "verify", "deadline": 1, "reset": True},
        {"op": "restart", "timeout": 0, "port": 0, "reason": "a guest wants it"},
        {"op": "begin-stop"},
        {"op": "take-order"},
        {"op": "_obey"},
        {"op": None},
        {},
    ],
    ids=lambda message: str(message.get("op")),
)
def test_what_only_holders_may_ask_for_sends_a_guest_away(
    shared: Shared, message: dict[str, Any]
) -> None:
    holder = shared.started()
    one = guest(shared)
    one.say(message)
    assert one.hear() is None
    one.close()
    assert holder.check() == "ready"
    assert len(shared.starts) == 1
    assert status(shared)["leases"] == 1


#: What is no message, or none that means anything.
NONSENSE = [
    b"\n",
    b"\0\xff\xfe\n",
    b"[]\n",
    b'"attach"\n',
    b"[" * 50_000 + b"\n",
    b'{"op": "attach"}\n',
    b"GET / HTTP/1.1\r\nHost: door\r\n\r\n",
    *(
        json.dumps(attach(**changes)).encode() + b"\n"
        for changes in (
            {"holders": None},
            {"holders": [[0, ""]]},
            {"holders": [[-1, ""]]},
            {"holders": [[1 << 40, ""]]},
            {"holders": [["x", "y"]]},
            {"holders": [[1]]},
            {"linger": -1},
            {"linger": "soon"},
            {"linger": 1e300},
            {"linger": float("nan")},
            {"runs": 1},
            {"runs": [[-5, ""]]},
        )
    ),
    b'{"op": "stop"}\n',
    b'{"op": "stop", "timeout": -1}\n',
    b'{"op": "stop", "timeout": NaN}\n',
    b'{"op": "end-run"}\n',
    b'{"op": "end-run", "pid": "x"}\n',
]


def test_nonsense_at_the_door_sends_its_guest_away_and_nobody_else(shared: Shared) -> None:
    holder, second = shared.started(), shared.started()
    for data in NONSENSE:
        one = guest(shared)
        one.say(data)
        assert one.hear() is None, data
        one.close()
        assert status(shared)["leases"] == 2, data
    assert status(shared)["linger"] == 0.0
    assert holder.check() == second.check() == "ready"
    assert shared.starts == [holder.pid]


def test_a_holder_that_talks_nonsense_loses_its_own_lease_alone(shared: Shared) -> None:
    holder = shared.started()
    one = guest(shared)
    one.say(attach())
    told = one.hear()
    assert told is not None
    assert told["event"] == "welcome"
    assert status(shared)["leases"] == 2
    one.say(b"nonsense\n")
    while one.hear() is not None:
        pass
    one.close()
    assert status(shared)["leases"] == 1
    assert ask(holder)["choices"]


@pytest.mark.parametrize("message", [attach(), {"op": "status"}])
def test_who_has_a_lease_and_asks_for_another_has_none(
    shared: Shared, message: dict[str, Any]
) -> None:
    shared.started()
    one = guest(shared)
    one.say(attach())
    assert (one.hear() or {})["event"] == "welcome"
    one.say(message)
    told = one.hear()
    assert (told is None) == (message["op"] == "attach")
    one.close()
    await_(lambda: status(shared)["leases"] == 1, "the end of the second lease")


def test_what_follows_a_release_in_the_same_breath_is_not_obeyed(shared: Shared) -> None:
    holder = shared.started()
    one = guest(shared)
    one.say(attach())
    assert (one.hear() or {})["event"] == "welcome"
    both = [
        {"op": "release", "keep": False},
        {"op": "restart", "timeout": 0, "port": 0, "reason": ""},
    ]
    one.say(b"".join(json.dumps(message).encode() + b"\n" for message in both))
    while one.hear() is not None:
        pass
    one.close()
    assert holder.check() == "ready"
    assert len(shared.starts) == 1


# --- holders --------------------------------------------------------------------------------------


@linux
def test_a_holder_that_is_no_more_holds_nothing(shared: Shared) -> None:
    shared.started()
    one = guest(shared)
    one.say(attach(holders=[process_of_nobody()]))
    while one.hear() is not None:
        pass
    one.close()
    assert status(shared)["leases"] == 1


def test_a_lease_ends_with_each_of_its_processes(
    shared: Shared, other: subprocess.Popen[bytes]
) -> None:
    shared.started()
    one = guest(shared)
    me = attach()["holders"]
    one.say(attach(holders=[*me, [other.pid, process.start_time(other.pid)]]))
    assert (one.hear() or {})["event"] == "welcome"
    other.kill()
    while one.hear() is not None:
        pass
    one.close()
    assert status(shared)["leases"] == 1


def test_a_server_that_has_its_one_user_is_busy(shared: Shared) -> None:
    holder = shared.started(exclusive=True)
    one = guest(shared)
    one.say(attach(exclusive=True))
    told = one.hear()
    assert told is not None
    assert told["event"] == "busy"
    assert status(shared)["leases"] == 1
    one.close()
    assert holder.check() == "ready"


# --- the run --------------------------------------------------------------------------------------


def run_of(other: subprocess.Popen[bytes]) -> tuple[tuple[int, str], ...]:
    """Return a run whose controller is that process."""
    return ((other.pid, process.start_time(other.pid)),)


def test_a_run_holds_its_server_until_it_says_otherwise(
    shared: Shared, other: subprocess.Popen[bytes]
) -> None:
    first = shared.started(runs=run_of(other))
    pid = first.pid
    assert pid is not None
    first.terminate()
    second = shared.started(runs=run_of(other))
    assert second.pid == pid
    assert second.reused is None  # it waited for nobody: the run was there
    second.terminate()
    assert status(shared)["leases"] == 0
    assert status(shared)["idle"] is None
    one = guest(shared)
    one.say({"op": "end-run", "pid": other.pid + 1})  # of another run
    assert status(shared)["idle"] is None
    one.say({"op": "end-run", "pid": other.pid})
    await_gone(pid)
    one.close()


def test_the_servers_of_a_run_are_stopped_at_the_same_time(
    shared: Shared,
    other: subprocess.Popen[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    asked = [tmp_path / name for name in ("a", "b")]
    limit = 10 * WATCHDOG  # one after the other would take longer than this test waits
    for path in asked:
        shared.started(
            f"signals={path}",
            key=path.name,
            directory=sharing.run_directory("x"),
            runs=run_of(other),
            config={"stop_timeout": limit},
        ).terminate()
    ending = threading.Thread(target=shared_servers.end_run, args=("x", other.pid, limit))
    ending.start()
    for path in asked:
        await_(path.exists, "the signal that asks the server to end")
    for pid in shared.starts:
        os.kill(pid, signal.SIGKILL)
    ending.join(WATCHDOG)
    assert not ending.is_alive()
    assert not list(tmp_path.glob("pytest-mlc-server-*/run-x"))


@pytest.mark.parametrize("linger", [0.0, 60.0])
def test_a_run_ends_with_its_controller(
    shared: Shared, other: subprocess.Popen[bytes], linger: float
) -> None:
    holder = shared.started(runs=run_of(other), linger=linger)
    pid = holder.pid
    assert pid is not None
    other.kill()
    other.wait()
    assert holder.check() == "ready"  # never under a user
    holder.terminate()
    if linger:
        await_(lambda: status(shared)["idle"] is not None, "a server that waits")
        following = shared.started(linger=0.0)
        assert following.pid == pid
        following.terminate()
    await_gone(pid)


@linux
def test_a_run_that_is_over_holds_nothing(shared: Shared) -> None:
    pid, start = process_of_nobody()
    holder = shared.started(runs=((pid, start),))
    assert holder.check() == "ready"
    second = shared.started(runs=((pid, start),))
    assert second.pid == holder.pid
    holder.terminate()
    assert second.check() == "ready"
    second.terminate()
    assert shared.starts
    await_gone(shared.starts[0])


# --- the end --------------------------------------------------------------------------------------


def test_a_stop_from_outside_is_told_to_the_holders(shared: Shared) -> None:
    holder = shared.started()
    (found,) = shared_servers.found(str(shared.path))
    assert found.stop(5.0)
    await_(lambda: holder.poll() == "exited", "the news")
    assert "stopped from outside" in holder.trouble
    again = shared.started()
    assert len(shared.starts) == 2
    assert again.check() == "ready"


def test_stop_idle_stops_none_that_is_in_use(shared: Shared) -> None:
    holder = shared.started(linger=60.0)
    one = guest(shared)
    one.say({"op": "stop-idle"})
    assert (one.hear() or {})["state"] == "ready"
    assert holder.check() == "ready"
    pid = holder.pid
    assert pid is not None
    holder.terminate()
    await_(lambda: status(shared)["idle"] is not None, "a server that waits")
    one.say({"op": "stop-idle"})
    await_gone(pid)
    one.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_keeper_of_one_that_waits_ends_it(
    shared: Shared, number: signal.Signals
) -> None:
    holder = shared.started(linger=60.0)
    pid = holder.pid
    assert pid is not None
    holder.terminate()
    os.kill(status(shared)["keeper"], number)
    await_gone(pid)
    await_(lambda: shared.files == [], "the removal of the door")


def test_a_guardian_that_does_nothing_any_more_is_not_waited_for_for_ever(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = shared.started(linger=60.0, config={"stop_timeout": 0.1})
    keeper = status(shared)["keeper"]
    holder.terminate()
    os.kill(keeper, signal.SIGSTOP)
    try:
        with monkeypatch.context() as hasty:
            hasty.setattr(leases, "ANSWER_WITHIN", 0.3)
            hasty.setattr(doors, "GOING_GRACE", 0.2)
            own = shared.started(linger=60.0)
        assert own.pid == shared.starts[1]
        assert own.check() == "ready"
    finally:
        os.kill(keeper, signal.SIGKILL)
    await_gone(shared.starts[0])


def test_only_who_holds_the_server_is_told_of_its_memory(shared: Shared) -> None:
    holder = shared.started()
    stranger = guest(shared)
    stranger.say({"op": "memory"})
    assert stranger.hear() is None
    stranger.close()
    assert holder.peak_memory
    holder.terminate()
    assert holder.peak_memory
