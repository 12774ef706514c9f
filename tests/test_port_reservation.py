"""A given port is this user's from the first moment of a start, long before the server binds it."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_mlc_server import ConfigError, PopenServer, StartError, runtime
from pytest_mlc_server.leases import Lease
from tests.conftest import WATCHDOG, await_, await_gone
from tests.support_plugin import free_ports, is_free
from tests.support_server import Kin, ask, linux
from tests.support_server import temporary as temporary

Servers = Callable[..., PopenServer]


@pytest.fixture
def runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the locks of a test in a directory of its own."""
    base = tmp_path / "run"
    base.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    return base


@contextmanager
def loading(server: PopenServer, started: Path, gate: Path) -> Iterator[list[BaseException]]:
    """Start a server that waits for a gate before it binds; in the block it is loading."""
    errors: list[BaseException] = []

    def start() -> None:
        try:
            server.start()
        except StartError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        await_(started.exists, "the start")
        yield errors
    finally:
        gate.touch()
        thread.join(WATCHDOG)
        assert not thread.is_alive()


def test_a_second_session_fails_at_once_while_the_first_one_loads(
    standin: Servers, tmp_path: Path
) -> None:
    port, started, gate = free_ports(1), tmp_path / "started", tmp_path / "gate"
    first = standin(f"wait={gate}", f"started={started}", port=port)
    second = standin(f"wait={gate}", f"started={tmp_path / 'second'}", port=port)
    with loading(first, started, gate) as errors:
        with pytest.raises(StartError, match="its port is reserved") as caught:
            second.start()  # it waits for a gate that opens after this block: it must not load
        assert "another session of this user is starting or running a server" in str(caught.value)
        (pid,) = (w for w in str(caught.value).split("guardian process ")[1].split(")")[:1])
        assert psutil.Process(int(pid)).is_running()
        assert not (tmp_path / "second").exists()  # nothing was executed
    assert errors == []
    assert first.port == port
    assert ask(first)["choices"]
    assert Kin.of(first).keeper == int(pid)
    with pytest.raises(ConfigError, match="occupied"):  # and now anybody can see it
        second.start()
    first.terminate()
    gate.touch()
    second.start()
    assert second.port == port


def test_a_start_that_failed_frees_the_port(standin: Servers, tmp_path: Path) -> None:
    port = free_ports(1)
    failing = standin("exit=3", port=port)
    for _ in range(2):
        with pytest.raises(StartError, match="exit code 3"):
            failing.start()
    server = standin(port=port)
    server.start()
    assert server.port == port


@linux
@pytest.mark.parametrize("victim", ["keeper", "watcher", "both"])
def test_the_kernel_frees_the_port_of_a_guardian_that_is_killed(
    standin: Servers, victim: str
) -> None:
    port = free_ports(1)
    server = standin(port=port)
    server.start()
    kin = Kin.of(server)
    for name in ("watcher", "keeper"):
        if victim in (name, "both"):
            psutil.Process(getattr(kin, name)).kill()
    if victim == "watcher":
        server.terminate()
    for pid in (kin.server, kin.keeper):
        await_gone(pid)
    another = standin(port=port)
    another.start()
    assert another.port == port
    server.terminate()
    assert ask(another)["choices"]


def test_a_restart_keeps_the_reservation(standin: Servers) -> None:
    port = free_ports(1)
    server = standin(port=port)
    server.start()
    server.restart()
    assert server.port == port
    lock = Path(runtime.port_lock(port))
    assert lock.read_text() == f"guardian process {Kin.of(server).keeper}"


def test_a_server_that_chooses_its_port_reserves_none(standin: Servers, runtime_dir: Path) -> None:
    standin().start()
    assert list(runtime_dir.rglob("*.lock")) == []


def test_a_stranger_that_takes_the_port_meanwhile_is_named(
    standin: Servers, tmp_path: Path
) -> None:
    port, started, gate = free_ports(1), tmp_path / "started", tmp_path / "gate"
    server = standin(f"wait={gate}", f"started={started}", port=port)
    with socket.socket() as stranger:
        with loading(server, started, gate) as errors:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stranger.bind(("127.0.0.1", port))
            stranger.listen()
        (error,) = errors
    assert isinstance(error, StartError)
    assert error.returncode == 3
    assert f"Another program (process {os.getpid()}" in str(error)
    assert "--mlc-port auto" in str(error)


def test_a_stranger_that_answers_is_not_taken_for_the_server(
    standin: Servers, model_dir: str, tmp_path: Path
) -> None:
    """It appears between the check of the port and the bind, and lists the very same model."""
    asked: list[str] = []

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": [{"id": model_dir}]}).encode())

    port, started, gate = free_ports(1), tmp_path / "started", tmp_path / "gate"
    server = standin(f"wait={gate}", f"started={started}", port=port)
    with loading(server, started, gate) as errors:
        stranger = ThreadingHTTPServer(("127.0.0.1", port), Stranger)
        thread = threading.Thread(target=stranger.serve_forever, args=(0.01,))
        thread.start()
    stranger.shutdown()
    thread.join()
    stranger.server_close()
    assert [getattr(error, "returncode", None) for error in errors] == [3]
    assert asked == []
    assert server.base_url == ""


@linux
def test_a_stranger_that_does_not_insist_finds_the_port_occupied(
    standin: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    listen = Lease.next

    def hear(self: Lease, timeout: float) -> dict[str, Any] | None:
        message = listen(self, timeout)
        if message is not None and message["event"] == "phase":
            told.append(message["phase"])
        return message

    monkeypatch.setattr(Lease, "next", hear)
    port, started, gate = free_ports(1), tmp_path / "started", tmp_path / "gate"
    server = standin(f"wait={gate}", f"started={started}", port=port)
    with loading(server, started, gate) as errors, socket.socket() as stranger:
        await_(lambda: told, "the guardian's first look")
        with pytest.raises(OSError, match="in use") as caught:
            stranger.bind(("127.0.0.1", port))
        assert caught.value.errno == errno.EADDRINUSE
    assert errors == []
    assert server.port == port


# --- where the locks are --------------------------------------------------------------------------


def test_the_directory_of_the_locks_is_this_users_alone(runtime_dir: Path) -> None:
    lock = Path(runtime.port_lock(8082))
    assert lock.parent == runtime_dir / f"pytest-mlc-server-{os.getuid()}"
    assert stat.S_IMODE(lock.parent.stat().st_mode) == 0o700
    assert runtime.port_lock(8082) == str(lock)
    assert runtime.port_lock(8083) != str(lock)


@pytest.mark.parametrize("base", ["", "/no/such/directory"])
def test_without_a_runtime_directory_it_is_a_temporary_one(
    base: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", base)
    assert Path(runtime.directory()).parent == temporary


def link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(path.parent / "elsewhere")


def open_to_all(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def open_to_the_group(path: Path) -> None:
    path.mkdir()
    path.chmod(0o750)


@pytest.mark.parametrize("make", [link, open_to_all, open_to_the_group, Path.touch])
def test_a_directory_that_others_could_use_is_refused(
    standin: Servers, runtime_dir: Path, make: Callable[[Path], None]
) -> None:
    path = runtime_dir / f"pytest-mlc-server-{os.getuid()}"
    make(path)
    with pytest.raises(ConfigError, match="only this user can use"):
        runtime.directory()
    port = free_ports(1)
    with pytest.raises(ConfigError, match=str(path)):
        standin(port=port).start()
    assert is_free(port)


def test_a_directory_of_somebody_else_is_refused(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.directory()
    mine = os.getuid()
    (runtime_dir / f"pytest-mlc-server-{mine}").rename(
        runtime_dir / f"pytest-mlc-server-{mine + 1}"
    )
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with pytest.raises(ConfigError, match="only this user can use"):
        runtime.directory()


def test_a_lock_that_is_a_link_is_refused(
    standin: Servers, runtime_dir: Path, tmp_path: Path
) -> None:
    port, precious = free_ports(1), tmp_path / "precious"
    precious.write_text("keep me")
    Path(runtime.port_lock(port)).symlink_to(precious)
    with pytest.raises(StartError, match="cannot open the lock"):
        standin(port=port).start()
    assert precious.read_text() == "keep me"


def test_locks_are_private_files(standin: Servers, runtime_dir: Path) -> None:
    port = free_ports(1)
    server = standin(port=port)
    server.start()
    assert stat.S_IMODE(Path(runtime.port_lock(port)).stat().st_mode) == 0o600
