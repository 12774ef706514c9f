"""A terminal for runs of pytest: what is on its screen at each moment, and what is left there."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyte
import pytest

from tests.conftest import WATCHDOG


class Emulator:
    """What a terminal shows after some bytes, rows that were scrolled away included."""

    def __init__(self, columns: int, rows: int) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=100_000)
        self._stream = pyte.ByteStream(self.screen)

    def feed(self, data: bytes) -> None:
        self._stream.feed(data)

    @property
    def rows(self) -> list[str]:
        """The rows of the screen."""
        return [row.rstrip() for row in self.screen.display]

    @property
    def text(self) -> str:
        """All rows, from the first one that was ever written."""
        columns = range(self.screen.columns)
        past = ["".join(row[x].data for x in columns).rstrip() for row in self.screen.history.top]
        return "\n".join([*past, *self.rows]).rstrip()


class Terminal:
    """A program on a terminal of its own.

    Parameters
    ----------
    command
        The program.
    cwd, env
        Its directory, and variables on top of the environment.
    columns, rows
        The terminal's size.
    """

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        columns: int = 100,
        rows: int = 24,
    ) -> None:
        self.emulator = Emulator(columns, rows)
        self.raw = b""
        self._ours, theirs = pty.openpty()
        self.resize(columns, rows)
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **(env or {})},
            start_new_session=True,
        )
        os.close(theirs)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.emulator.screen.resize(rows, columns)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Read what the program writes until a condition holds."""
        deadline = time.monotonic() + WATCHDOG
        while not condition():
            if not self._read(deadline):
                pytest.fail(f"it ended before {what}:\n{self.emulator.text}")

    def finish(self) -> int:
        """Read all that the program writes, and return its exit code."""
        deadline = time.monotonic() + WATCHDOG
        while self._read(deadline):
            pass
        return self.process.wait(WATCHDOG)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def _read(self, deadline: float) -> bool:
        readable, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            pytest.fail(f"waited {WATCHDOG:g} s in vain:\n{self.emulator.text}")
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # Linux: everybody has closed the other end
            return False
        self.emulator.feed(data)
        self.raw += data
        return bool(data)
