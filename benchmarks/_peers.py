"""Four ways to own the same child: this package, a plain loop, pytest-xprocess, mirakuru.

Each has `start`, which returns when it takes the child for ready or raises, and `stop`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Mapping
from typing import Any, Protocol

import py  # type: ignore[import-untyped]
import requests
from _child import READY_LINE
from mirakuru import HTTPExecutor, TCPExecutor
from xprocess import ProcessStarter, XProcess

from pytest_mlc_server import PopenServer, engines

MODEL = engines.mock_model()

#: How long the peers wait for a child that never becomes ready, in seconds.
PEER_TIMEOUT = 8.0


class Owner(Protocol):
    """Starts and stops a child."""

    def start(self, env: Mapping[str, str]) -> None: ...

    def stop(self) -> None: ...


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def command(program: str, port: int) -> list[str]:
    """Return the command line that `PopenServer` makes, for those who must be told."""
    return [program, "-m", "mlc_llm", "serve", MODEL, "--enable-debug", "--port", str(port)]


class Ours:
    """`PopenServer`."""

    def __init__(self, program: str, **options: Any) -> None:
        self._options = {"engine": "mock", "port": "auto", "python": program, **options}
        self._server: PopenServer | None = None

    def start(self, env: Mapping[str, str]) -> None:
        self._server = PopenServer(MODEL, env=env, **self._options)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.terminate()


class PlainLoop:
    """`Popen`, then a request every 0.1 s: the loop that upstream's class has.

    Parameters
    ----------
    program
        What to run.
    careful
        Look in each round whether the child is dead, which upstream's loop does not.
    kill
        Stop with SIGKILL, as upstream does, instead of SIGTERM.
    """

    def __init__(self, program: str, *, careful: bool = False, kill: bool = False) -> None:
        self._program = program
        self._careful = careful
        self._signal = signal.SIGKILL if kill else signal.SIGTERM
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, env: Mapping[str, str]) -> None:
        port = free_port()
        arguments = command(self._program, port)
        self._child = subprocess.Popen(
            arguments, env={**os.environ, **env}, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PEER_TIMEOUT
        while True:
            try:
                if requests.get(f"http://127.0.0.1:{port}/v1/models", timeout=60).ok:
                    return
            except requests.ConnectionError:
                pass
            if self._careful and self._child.poll() is not None:
                raise RuntimeError(f"exit code {self._child.returncode}")
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.1)

    def stop(self) -> None:
        if self._child is not None:
            self._child.send_signal(self._signal)
            self._child.wait()


class Silent:
    def debug(self, message: object, *arguments: object) -> None:
        pass


class Xprocess:
    """pytest-xprocess, which waits for a line of the child's output."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._directory = tempfile.mkdtemp(prefix="xprocess-", dir=os.path.dirname(program))
        self._processes = XProcess(
            types.SimpleNamespace(), py.path.local(self._directory), log=Silent()
        )

    def start(self, env: Mapping[str, str]) -> None:
        arguments = command(self._program, free_port())
        environment = {**os.environ, **env}

        class Starter(ProcessStarter):  # type: ignore[misc]
            pattern = READY_LINE
            args = arguments
            env = environment
            timeout = PEER_TIMEOUT
            max_read_lines = sys.maxsize

        self._processes.ensure("child", Starter, persist_logs=False)

    def stop(self) -> None:
        self._processes.getinfo("child").terminate()
        for resource in self._processes.resources:
            resource.popen.wait()
            resource.release()
        self._processes.resources.clear()


class Mirakuru:
    """mirakuru, which asks for an HTTP answer or tries the TCP port."""

    def __init__(self, program: str, *, http: bool = True) -> None:
        self._program = program
        self._http = http
        self._executor: Any = None

    def start(self, env: Mapping[str, str]) -> None:
        port = free_port()
        options: dict[str, Any] = {
            "timeout": PEER_TIMEOUT,
            "envvars": dict(env),
            "stdout": subprocess.DEVNULL,
        }
        arguments = command(self._program, port)
        if self._http:
            url = f"http://127.0.0.1:{port}/v1/models"
            self._executor = HTTPExecutor(arguments, url, **options)
        else:
            self._executor = TCPExecutor(arguments, "127.0.0.1", port, **options)
        self._executor.start()

    def stop(self) -> None:
        self._executor.stop(expected_returncode=0)
