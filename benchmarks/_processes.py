"""Processes that bear a word in their command line or environment, and the end of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress


def bearing(word: str) -> list[int]:
    """Return the living processes, without this one, whose command line or environment has it."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with suppress(OSError):
            for name in ("cmdline", "environ"):
                with open(f"/proc/{entry}/{name}", "rb") as file:
                    if word.encode() in file.read():
                        found.append(int(entry))
                        break
    return found


def kill(pids: list[int]) -> None:
    """Kill processes."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def kill_all(word: str, seconds: float = 10.0) -> list[int]:
    """Kill all processes that bear a word, until there is none; return those there were."""
    seen: set[int] = set()
    deadline = time.monotonic() + seconds
    while (left := bearing(word)) and time.monotonic() < deadline:
        seen |= {*left}
        kill(left)
        time.sleep(0.02)
    return sorted(seen)


def wait_until(condition: Callable[[], bool], seconds: float, every: float = 0.005) -> bool:
    """Wait for a condition; return whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
