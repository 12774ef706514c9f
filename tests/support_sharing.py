"""For the tests of shared servers: handles of one server, in this process and in others."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_mlc_server import PopenServer, ServerConfig, doors, shared_servers
from pytest_mlc_server.sharing import Share
from tests.conftest import WATCHDOG, await_, await_gone, standin_env


class Shared:
    """A directory with doors, and handles of the servers behind them.

    Parameters
    ----------
    path
        The directory.
    model
        What the stand-in serves.
    """

    def __init__(self, path: Path, model: str) -> None:
        self.path = path
        self.record = path.parent / "started.txt"
        self._model = model
        self._handles: list[PopenServer] = []

    @property
    def starts(self) -> list[int]:
        """Process ids of all servers so far, in the order of their starts."""
        text = self.record.read_text() if self.record.exists() else ""
        return [int(line) for line in text.rpartition("\n")[0].split()]

    @property
    def alive(self) -> list[int]:
        """Those of them that run."""
        return [pid for pid in self.starts if _runs(pid)]

    @property
    def files(self) -> list[str]:
        """What is in the directory besides locks."""
        return sorted(one.name for one in self.path.iterdir() if one.suffix != ".lock")

    @property
    def doors(self) -> list[Path]:
        """The doors."""
        return sorted(self.path.glob("*.door"))

    def share(self, **options: Any) -> Share:
        """Return how a server is shared here."""
        return Share(**{"key": "key", "directory": str(self.path), **options})

    def config(self, *words: str, **options: Any) -> ServerConfig:
        """Return a configuration of the stand-in."""
        env = standin_env(f"started={self.record}", *words)
        values = {"model": self._model, "startup_timeout": WATCHDOG, "env": env, **options}
        return ServerConfig(engine="mlc", **values)

    def handle(
        self, *words: str, config: Mapping[str, Any] | None = None, **options: Any
    ) -> PopenServer:
        """Make a handle that is not started.

        Parameters
        ----------
        words
            Orders for the stand-in.
        config
            Fields of `ServerConfig`.
        options
            Fields of `Share`.
        """
        server = PopenServer.from_config(
            self.config(*words, **(config or {})), share=self.share(**options)
        )
        self._handles.append(server)
        return server

    def started(self, *words: str, **options: Any) -> PopenServer:
        """Make a handle and start it."""
        server = self.handle(*words, **options)
        server.start()
        return server

    def close(self) -> None:
        """Let go of everything, and check that nothing is left."""
        for server in self._handles:
            server.terminate()
        for found in shared_servers.found(str(self.path)):
            found.stop(0.0)
        for pid in self.starts:
            await_gone(pid)
        await_(lambda: self.doors == [], "the removal of the doors")


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_dir: str) -> Iterator[Shared]:
    """An empty directory for doors; at the end nothing may be behind any of them."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    path = tmp_path / "doors"
    path.mkdir()
    found = Shared(path, model_dir)
    yield found
    found.close()


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Call functions at the same moment; return what each returned, or the exception it raised."""
    results: list[Any] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(number: int, call: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            results[number] = call()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WATCHDOG)
        assert not thread.is_alive(), "a call does not return"
    return results


def keeper_of(one: PopenServer) -> int:
    """Return the process that owns a server."""
    assert one.pid is not None
    return psutil.Process(one.pid).ppid()


def watcher_of(one: PopenServer) -> int:
    """Return the parent of that."""
    return psutil.Process(keeper_of(one)).ppid()


_USER = """
import json, os, sys
from pytest_mlc_server import PopenServer, ServerConfig
from pytest_mlc_server.sharing import Share

options = json.loads(sys.argv[1])
options["share"]["runs"] = tuple(tuple(run) for run in options["share"]["runs"])
server = PopenServer.from_config(ServerConfig(**options["config"]), share=Share(**options["share"]))
print(json.dumps({"ready": os.getpid()}), flush=True)
for line in sys.stdin:
    try:
        getattr(server, line.strip())()
        told = {"pid": server.pid, "state": server.poll(), "url": server.base_url}
    except Exception as error:
        told = {"error": str(error)}
    print(json.dumps(told), flush=True)
"""


class User:
    """Another process with a handle of a shared server.

    Parameters
    ----------
    config, share
        Of the server.
    """

    def __init__(self, config: Mapping[str, Any], share: Share) -> None:
        options = {"config": {"engine": "mlc", **config}, "share": asdict(share)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _USER, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.hear()["ready"] == self.process.pid

    def say(self, method: str) -> None:
        """Have it call a method of its handle."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{method}\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Return what the call has led to."""
        assert self.process.stdout is not None
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        return told

    def does(self, method: str) -> dict[str, Any]:
        """Have it call a method, and return what that has led to."""
        self.say(method)
        return self.hear()

    def kill(self) -> None:
        """End it, in no order."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def users(shared: Shared) -> Iterator[Callable[..., list[User]]]:
    """Make processes that each have a handle of the same server."""
    with ExitStack() as stack:

        def make(count: int, *words: str, **options: Any) -> list[User]:
            config = shared.config(*words)
            values = {
                "model": config.model,
                "env": dict(config.env),
                "startup_timeout": config.startup_timeout,
            }
            made = []
            for _ in range(count):
                user = User(values, shared.share(**options))
                stack.callback(user.kill)
                made.append(user)
            return made

        yield make


class Guest:
    """A connection to a door."""

    def __init__(self, door: Path) -> None:
        self.socket = doors.connect(str(door))
        self.socket.settimeout(WATCHDOG)

    def say(self, data: bytes | Mapping[str, Any]) -> None:
        """Send a message, or bytes that are none."""
        with suppress(OSError):
            self.socket.sendall(
                data if isinstance(data, bytes) else json.dumps(data).encode() + b"\n"
            )

    def hear(self) -> dict[str, Any] | None:
        """Return the next message; None if the guardian has closed the connection."""
        inbox = b""
        while not inbox.endswith(b"\n"):
            try:
                chunk = self.socket.recv(1)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                return None
            inbox += chunk
        message: dict[str, Any] = json.loads(inbox)
        return message

    def close(self) -> None:
        """Leave."""
        self.socket.close()


def process_of_nobody() -> Sequence[Any]:
    """Return a process that is not there, with its start."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", ""]) as popen:
        popen.wait()
    return (popen.pid, "1")


def silent_door(path: Path) -> socket.socket:
    """Make a door behind which somebody listens and says nothing."""
    listener = socket.socket(socket.AF_UNIX)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
    listener.listen()
    return listener


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
