"""The simulator's log lines, in the form of the real server's own."""

from __future__ import annotations

import sys
import time


def log(level: str, place: str, message: str) -> None:
    """Write a line in the form of the real server's own log lines.

    Parameters
    ----------
    level : str
        ``INFO`` or ``ERROR``.
    place : str
        The file and line of the real server that would have said it, or the one here that does.
    message : str
        What to say.
    """
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    sys.stderr.write(f"[{now}] {level} {place}: {message}\n")
    sys.stderr.flush()
