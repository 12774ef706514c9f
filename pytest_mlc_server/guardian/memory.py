"""How much memory a server's tree holds: sampled as it runs, kept in a bounded history."""

from __future__ import annotations

import os
import sys
import time

from pytest_mlc_server import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: How often the memory is looked at, in seconds, while the server is in use and while it waits for
#: its next user. A look reads one small file for each process of the tree: some 20 µs.
SAMPLE_EVERY, SAMPLE_IDLE_EVERY = 1.0, 10.0

#: How often the tree is listed anew, in seconds, and which share of a core that may take at most:
#: listing reads every process of the host.
LIST_EVERY, LIST_SHARE = 5.0, 0.002

#: Points of the history. When there are more, each two become one, and the next ones take twice as
#: long.
MAX_POINTS = 300

#: Shared pages count in each process that has them, as in what ``ps`` and ``top`` show.
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Memory:
    """The resident memory of a server and of all below it, over all its starts.

    Attributes
    ----------
    peak
        The most that was seen, in bytes; 0 while nothing was.
    """

    def __init__(self) -> None:
        self.peak = 0
        self.root: Callable[[], int] = os.getpid
        """Returns the process below which the server's tree is."""
        self._points: list[tuple[float, int]] = []
        self._every = SAMPLE_EVERY
        self._next_look = 0.0
        self._next_list = time.monotonic() + SAMPLE_EVERY
        self._pid = 0
        self._below: list[int] = []

    def look(self, pid: int, *, idle: bool) -> None:
        """Take a sample, if one is due.

        Parameters
        ----------
        pid
            The server.
        idle
            Whether it waits for its next user.
        """
        now = time.monotonic()
        if now < self._next_look or not pid:
            return
        self._next_look = now + (SAMPLE_IDLE_EVERY if idle else SAMPLE_EVERY)
        self._follow(pid)
        if now >= self._next_list:
            self._list(now)
        self.sample(pid)

    def sample(self, pid: int) -> None:
        """Take a sample now; who belongs to the tree is what was found last."""
        self._follow(pid)
        own = resident(pid)
        if not own:
            return  # it has ended: that is no figure
        self.add(time.time(), own + sum(resident(one) for one in self._below))

    def _follow(self, pid: int) -> None:
        if pid != self._pid:
            self._pid, self._below = pid, []
            self._next_list = min(self._next_list, time.monotonic() + SAMPLE_EVERY)

    def add(self, at: float, size: int) -> None:
        """Take a figure into the history.

        Parameters
        ----------
        at
            When, in seconds since 1970.
        size
            In bytes.
        """
        self.peak = max(self.peak, size)
        if self._points and at - self._points[-1][0] < self._every - SAMPLE_EVERY / 2:
            began, before = self._points[-1]
            self._points[-1] = began, max(before, size)
            return
        self._points.append((round(at, 2), size))
        if len(self._points) > MAX_POINTS:
            pairs = [self._points[n : n + 2] for n in range(0, len(self._points), 2)]
            self._points = [(pair[0][0], max(size for _, size in pair)) for pair in pairs]
            self._every *= 2

    def told(self) -> dict[str, Any]:
        """Return what the holders are told."""
        return {"peak": self.peak or None, "points": self._points}

    def _list(self, now: float) -> None:
        found = process.descendants(self.root())
        self._below = [child.pid for child in found if child.pid != self._pid]
        cost = time.monotonic() - now
        self._next_list = now + max(LIST_EVERY, cost / LIST_SHARE)


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it is not there."""
    if sys.platform.startswith("linux"):
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * _PAGE
        except (OSError, ValueError, IndexError):
            return 0
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
