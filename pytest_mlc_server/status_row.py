"""The last row of a terminal, kept for one line while everything else is written above it.

The rows above are made the terminal's scrolling region: whatever writes to the terminal meanwhile,
in this process or in another, cannot touch the line, nor the line it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess

from pytest_mlc_server import progress

#: Smaller terminals have no row to spare.
LEAST_COLUMNS, LEAST_ROWS = 30, 4

# Scroll up by one where the cursor is in the last row, and keep it where it is otherwise; then the
# region, which moves the cursor unless it is kept.
_RESERVE = "\x1bD\x1b[A\x1b7\x1b[1;{above}r\x1b8"
_DRAW = "\x1b7\x1b[{row};1H\x1b[0m{text}\x1b[K\x1b8"
# Below the cursor there is nothing but the line, wherever a change of the size has put it.
_CLEAR = "\x1b7\x1b[r\x1b8\x1b[J"

# Gives the row back when it reads a line, or when nobody is there any more who could write one: a
# process that is killed would leave the terminal with a row that nothing scrolls.
_KEEPER = r"""trap '' HUP; read -r _; printf '\0337\033[r\033[999;1H\033[2K\0338'"""


def possible(descriptor: int) -> bool:
    """Tell whether a descriptor is a terminal with a row to spare."""
    if os.environ.get("TERM", "dumb") in ("", "dumb", "unknown"):
        return False
    try:
        if not os.isatty(descriptor):
            return False
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        return False
    return columns >= LEAST_COLUMNS and rows >= LEAST_ROWS


class StatusRow:
    """The last row of a terminal; reserved with the first text that is shown.

    Parameters
    ----------
    descriptor
        The terminal. It stays open.
    encoding
        The terminal's.
    """

    def __init__(self, descriptor: int, encoding: str = "utf-8") -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        self._size: os.terminal_size | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self.fine = _has(encoding, progress.FINE_SPINNER + "…")
        """Whether the terminal has all characters of the spinner."""

    def show(self, text: str) -> None:
        """Show a text in place of the one before."""
        if not self._in_foreground():
            return
        try:
            size = os.get_terminal_size(self._descriptor)
            if size != self._size:
                self._reserve(size)
            # The last column stays free: a terminal may wrap there.
            text = progress.cut(text, size.columns - 1, self.fine)
            self._write(_DRAW.format(row=size.lines, text=text))
        except OSError:  # the terminal is gone
            return

    def close(self) -> None:
        """Give the row back, empty."""
        keeper, self._keeper, self._size = self._keeper, None, None
        if keeper is not None:
            # A line, not the end of the pipe: a child that was forked meanwhile has that as well.
            with contextlib.suppress(OSError):
                keeper.communicate(b"\n")
            keeper.wait()

    def _reserve(self, size: os.terminal_size) -> None:
        if self._keeper is None:
            self._keeper = subprocess.Popen(
                ["/bin/sh", "-c", _KEEPER],
                stdin=subprocess.PIPE,
                stdout=self._descriptor,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,  # Ctrl-C is not for it
            )
        else:
            self._write(_CLEAR)
        self._write(_RESERVE.format(above=size.lines - 1))
        self._size = size

    def _in_foreground(self) -> bool:
        """Tell whether this is not a job in the background of somebody's shell."""
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:
            return True  # not this process's own terminal: no shell has a say

    def _write(self, text: str) -> None:
        data = text.encode(self._encoding, "replace")
        while data:
            data = data[os.write(self._descriptor, data) :]


def _has(encoding: str, characters: str) -> bool:
    try:
        characters.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True
