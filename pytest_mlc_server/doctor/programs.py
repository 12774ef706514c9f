"""Programs that are asked under a time limit, and checks that nobody waits for when they hang."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import psutil

Result = TypeVar("Result")

#: How long the output of a killed program is waited for, in seconds: a process that left its group
#: may hold the pipe.
LAST_WORDS = 1.0


class HangsError(Exception):
    """A check that did not end within its time limit."""


class Programs:
    """The programs that a diagnosis has started: none of them outlives it.

    Parameters
    ----------
    limit
        Time limit of each, in seconds.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._others = {child.pid for child in psutil.Process().children()}

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program as `subprocess.run` does, with its output captured.

        Raises
        ------
        OSError
            If it cannot be executed, or the diagnosis is over.
        subprocess.TimeoutExpired
            If it takes too long; it and what it started are killed.
        """
        limit = self.limit if timeout is None else timeout
        process = self._begin(command, env, cwd)
        try:
            out, error = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise subprocess.TimeoutExpired(command, limit, *_last_words(process)) from None
        finally:
            with self._lock:
                self._running.discard(process)
        return subprocess.CompletedProcess(command, process.returncode, out, error)

    def _begin(
        self, command: Sequence[str], env: Mapping[str, str] | None, cwd: str | None
    ) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise OSError("the diagnosis is over")
            process = subprocess.Popen(
                command,
                # What is imported for the first time leaves nothing on the disk.
                env={**(os.environ if env is None else env), "PYTHONDONTWRITEBYTECODE": "1"},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that all that it starts can be killed with it
            )
            self._running.add(process)
            return process

    def close(self) -> None:
        """Kill what runs still, and start nothing more."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            _kill(process)
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LAST_WORDS)
        # Other modules have programs of their own, nvidia-smi say: a check that hangs has one.
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process().children():
                if child.pid not in self._others:
                    child.kill()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def _last_words(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    try:
        return process.communicate(timeout=LAST_WORDS)
    except subprocess.TimeoutExpired as error:
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        return error.stdout or b"", error.stderr or b""


class Check(Generic[Result]):
    """Something that is found out beside all else.

    In a thread that does not keep the process: a file system or a driver may hang in a place that
    nothing reaches.

    Parameters
    ----------
    ask
        Finds it out.
    limit
        How long that may take, in seconds.
    """

    def __init__(self, ask: Callable[[], Result], limit: float) -> None:
        self._ask = ask
        self._deadline = time.monotonic() + limit
        self._done = threading.Event()
        self._result: list[Result] = []
        self._error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._result.append(self._ask())
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def get(self) -> Result:
        """Return what was found; wait for it until the time limit.

        Raises
        ------
        HangsError
            If it takes longer.
        Exception
            What the check raised.
        """
        if not self._done.wait(max(0.0, self._deadline - time.monotonic())):
            raise HangsError
        if self._error is not None:
            raise self._error
        return self._result[0]
