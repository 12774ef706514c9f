"""The simulator as a process: started for a test, and gone after it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

import pytest_mlc_server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Any

PACKAGE_PARENT = Path(pytest_mlc_server.__file__).resolve().parent.parent
MODEL_DIRECTORY = PACKAGE_PARENT / "pytest_mlc_server" / "data" / "mock-model"

# How long anything may take that takes well under a second: the machine may be busy.
DEADLINE_S = 60.0


def version_of(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version(package).split(".")[:2])


#: What FastAPI itself says, and not the simulator: recorded with the version that MLC LLM brings.
says_what_was_recorded = pytest.mark.skipif(
    version_of("fastapi") < (0, 160),
    reason="this FastAPI is older than the recorded one, and says it otherwise",
)

_ENTRY = "import sys; from pytest_mlc_server.sim.cli import main; sys.exit(main(sys.argv[1:]))"
_RUNNING = re.compile(r"Uvicorn running on http://(.+):(\d+) ")


def simulator_command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", _ENTRY, *arguments]


def simulator_environment() -> dict[str, str]:
    paths = [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


class Simulator:
    """A running simulator. Its output is read as it comes, so that the pipes never fill."""

    def __init__(self, *flags: str, model: str = "sim-model", cwd: Path | None = None) -> None:
        self._process = subprocess.Popen(
            simulator_command("serve", model, "--port", "0", *flags),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=cwd,
            env=simulator_environment(),
        )
        self._listening = threading.Event()
        self._news = threading.Condition()
        self.port = 0
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._readers = [
            threading.Thread(
                target=self._read, args=(self._process.stdout, self.stdout), daemon=True
            ),
            threading.Thread(
                target=self._read, args=(self._process.stderr, self.stderr), daemon=True
            ),
        ]
        for reader in self._readers:
            reader.start()
        self.http = requests.Session()
        self.http.trust_env = False
        self._await_listening()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def get(self, path: str, **how: Any) -> requests.Response:
        return self.http.get(self.base_url + path, timeout=DEADLINE_S, **how)

    def post(self, path: str, body: Any, **how: Any) -> requests.Response:
        return self.http.post(self.base_url + path, json=body, timeout=DEADLINE_S, **how)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal, return the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._end()

    def await_log(self, text: str) -> None:
        """Wait until `text` is on stderr."""
        with self._news:
            said = self._news.wait_for(lambda: text in "".join(self.stderr), DEADLINE_S)
        assert said, f"not in the log: {text}\n{''.join(self.stderr)}"

    def __enter__(self) -> Simulator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _await_listening(self) -> None:
        # The reader of stderr sets the event at the end of the output as well.
        self._listening.wait(DEADLINE_S)
        if not self.port:
            self._process.kill()
            self._end()
            raise RuntimeError("the simulator does not listen:\n" + "".join(self.stderr))

    def _end(self) -> int:
        self.http.close()
        try:
            code = self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            for reader in self._readers:
                reader.join(DEADLINE_S)
            for stream in (self._process.stdout, self._process.stderr):
                assert stream is not None
                stream.close()
        return code

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            with self._news:
                lines.append(line)
                self._news.notify_all()
            running = _RUNNING.search(line)
            if running and lines is self.stderr:
                self.port = int(running[2])
                self._listening.set()
        if lines is self.stderr:
            self._listening.set()


class SimulatorPool:
    """One simulator for each set of flags, started when it is first asked for."""

    def __init__(self, model: str = "sim-model", cwd: Path | None = None) -> None:
        self._model = model
        self._cwd = cwd
        self._running: dict[Sequence[str], Simulator] = {}

    def get(self, *flags: str) -> Simulator:
        if flags not in self._running:
            self._running[flags] = Simulator(*flags, model=self._model, cwd=self._cwd)
        return self._running[flags]

    def stop(self) -> None:
        for simulator in self._running.values():
            simulator.stop()
