"""How a server is stopped: politely, then less so, and all of its tree."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pytest_mlc_server import PopenServer
from tests.conftest import WATCHDOG, await_, await_gone, await_text
from tests.support_server import Kin
from tests.support_server import temporary as temporary

Servers = Callable[..., PopenServer]


def test_a_server_gets_the_time_to_close_in_order(standin: Servers, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    server = standin(f"clean={clean}", stop_timeout=WATCHDOG)
    server.start()
    server.terminate()
    assert clean.read_text() == "closed in order"
    assert server.returncode == 0


def test_sigint_comes_first_then_sigterm_then_sigkill(standin: Servers, tmp_path: Path) -> None:
    signals = tmp_path / "signals"
    server = standin(f"signals={signals}", stop_timeout=5.0)  # a second for it to note SIGTERM
    server.start()
    server.terminate()
    assert signals.read_text().split() == ["SIGINT", "SIGTERM"]
    assert server.returncode == -signal.SIGKILL


def test_a_server_that_obeys_sigterm_alone_ends_by_it(standin: Servers, tmp_path: Path) -> None:
    server = standin("deaf-to-sigint", stop_timeout=1.0)
    server.start()
    server.terminate()
    assert server.returncode == -signal.SIGTERM


def test_stop_timeout_0_kills_at_once(standin: Servers, tmp_path: Path) -> None:
    signals, daemon = tmp_path / "signals", tmp_path / "daemon"
    server = standin(f"signals={signals}", f"daemon={daemon}", stop_timeout=0)
    server.start()
    server.terminate()
    assert server.returncode == -signal.SIGKILL
    assert not signals.exists()
    await_gone(int(daemon.read_text()))


@pytest.mark.parametrize("stop_timeout", [0, WATCHDOG])
@pytest.mark.parametrize("scrub", [(), ("scrub",)], ids=["", "scrubbed"])
def test_daemons_that_left_the_session_die_with_the_server(
    standin: Servers, tmp_path: Path, scrub: tuple[str, ...], stop_timeout: float
) -> None:
    daemon = tmp_path / "daemon"
    server = standin(f"daemon={daemon}", *scrub, stop_timeout=stop_timeout)
    server.start()
    grandchild = int(await_text(daemon))
    assert server.pid is not None
    assert os.getsid(grandchild) != os.getsid(server.pid)
    server.terminate()
    assert not psutil.pid_exists(grandchild)


def test_a_tree_that_replaces_killed_processes_is_ended(standin: Servers, tmp_path: Path) -> None:
    family = tmp_path / "family"
    server = standin(f"respawn={family}")
    server.start()
    supervisor, worker = map(int, family.read_text().split())
    os.kill(worker, signal.SIGKILL)
    await_(lambda: len(family.read_text().splitlines()) == 2, "the worker's replacement")
    server.terminate()
    assert supervisor == int(family.read_text().split()[2])
    assert [int(p) for p in family.read_text().split() if psutil.pid_exists(int(p))] == []


def test_a_stopped_server_in_the_middle_of_sigstop_is_ended(standin: Servers) -> None:
    server = standin(stop_timeout=0.2)
    server.start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    server.terminate()
    assert server.returncode == -signal.SIGKILL


def test_terminate_from_several_threads_is_one_stop(standin: Servers) -> None:
    server = standin()
    server.start()
    kin = Kin.of(server)
    threads = [threading.Thread(target=server.terminate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not psutil.pid_exists(kin.server)
    assert server.returncode == 0


def test_a_server_that_was_killed_from_outside_is_terminated_without_complaint(
    standin: Servers, tmp_path: Path
) -> None:
    server = standin(log_dir=tmp_path)
    server.start()
    kin = Kin.of(server)
    os.kill(kin.server, signal.SIGKILL)
    await_(lambda: not server.is_alive(), "news of the server's death")
    server.terminate()
    assert server.returncode == -signal.SIGKILL
    assert not psutil.pid_exists(kin.keeper)


def test_the_child_starts_in_a_session_of_its_own(standin: Servers) -> None:
    server = standin()
    server.start()
    kin = Kin.of(server)
    sessions = {os.getsid(kin.server), os.getsid(kin.watcher), os.getsid(0)}
    assert os.getsid(kin.server) == kin.server
    assert len(sessions) == 3


def test_sigint_reaches_the_server_behind_a_launcher(standin: Servers, tmp_path: Path) -> None:
    launcher, clean = tmp_path / "launcher", tmp_path / "clean"
    launcher.write_text(f'#!/bin/sh\n{shlex.quote(sys.executable)} "$@"\nexit $?\n')
    launcher.chmod(0o755)
    server = standin(f"clean={clean}", python=launcher, stop_timeout=WATCHDOG)
    server.start()
    server.terminate()
    assert clean.read_text() == "closed in order"
    assert server.returncode == 0


def test_a_guardian_that_was_stopped_is_ended_with_its_server(
    standin: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_mlc_server.lifecycle.GUARDIAN_GRACE", 1.0)
    daemon = tmp_path / "daemon"
    server = standin(f"daemon={daemon}", "scrub", stop_timeout=0)
    server.start()
    kin = Kin.of(server)
    os.kill(kin.keeper, signal.SIGSTOP)
    server.terminate()
    for pid in (kin.server, kin.keeper, kin.watcher, int(daemon.read_text())):
        await_gone(pid)
