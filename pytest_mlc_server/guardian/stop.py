"""Stops a tree: SIGINT, then SIGTERM, then SIGKILL, until nothing of it is left."""

from __future__ import annotations

import os
import signal
import time

from pytest_mlc_server import process
from pytest_mlc_server.guardian import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    import psutil

    from pytest_mlc_server.guardian.forked import Forked

#: Shares of the time limit after which SIGTERM and SIGKILL follow. The real server takes 1.4 s to
#: close its engine after SIGINT; SIGTERM, when SIGINT did not help, needs 0.2 s.
TERM_AFTER, KILL_AFTER = 0.7, 0.9

#: Pause between two rounds of SIGKILL, in seconds: a tree that forks is rescanned until empty.
KILL_EVERY = 0.005

#: How long the reaper of a forked server may stay after its tree, in seconds.
REAPER_PATIENCE = 0.2

#: How long a process may survive SIGKILL (in uninterruptible sleep) before it is given up, seconds.
GIVE_UP_AFTER = 10.0


class Stop:
    """One stop in progress.

    Parameters
    ----------
    pid
        The serving process; 0 if there is none.
    mark
        The tree's mark, for platforms where orphans do not come to the keeper.
    timeout
        Total time limit in seconds; 0 kills at once.
    serving
        The process that serves, where `pid` only launched it: SIGINT is for that one.
    forked
        The server, where it is no child of this process.

    Attributes
    ----------
    by
        Name of the last signal sent to the serving process; empty if it ended by itself.
    left
        Process ids that survived everything.
    """

    def __init__(
        self,
        pid: int,
        mark: str,
        timeout: float,
        serving: psutil.Process | None = None,
        forked: Forked | None = None,
    ) -> None:
        self.by = ""
        self.left: list[int] = []
        self._pid = pid
        self._mark = mark
        self._serving = serving
        self._forked = forked
        self._began = time.monotonic()
        self._timeout = timeout
        self._killing_since = 0.0

    def hurry(self, timeout: float) -> None:
        """Shorten the time limit, counted from now."""
        self._timeout = min(self._timeout, time.monotonic() - self._began + timeout)

    def pause(self) -> float:
        """Return how long to wait for an event before `advance`, in seconds."""
        if self._killing_since:
            return KILL_EVERY
        share = TERM_AFTER if self.by == "SIGINT" else KILL_AFTER
        return max(0.0, self._began + share * self._timeout - time.monotonic())

    def advance(self, *, alive: bool) -> bool:
        """Do what is due; tell whether the stop is over.

        Parameters
        ----------
        alive
            Whether the serving process has not ended yet.
        """
        elapsed = time.monotonic() - self._began
        if alive and not self._killing_since:
            if not self.by and self._timeout > 0:
                self._signal(signal.SIGINT)
            if self.by == "SIGINT" and elapsed >= TERM_AFTER * self._timeout:
                self._signal(signal.SIGTERM)
                for child in self._tree():
                    if child.pid != self._pid:
                        _send(child, signal.SIGTERM)
            if elapsed < KILL_AFTER * self._timeout:
                return False
        if alive and not self._killing_since:
            self._signal(signal.SIGKILL)
            self._killing_since = time.monotonic()
            # Mostly this is all: the walk over the host's processes can wait for the next round.
            return False
        return self._kill_rest()

    def _signal(self, number: signal.Signals) -> None:
        self.by = number.name
        if number == signal.SIGINT and self._serving is not None:
            _send(self._serving, number)
            return
        if self._forked is not None:
            self._forked.signal(number)
            return
        try:
            os.kill(self._pid, number)  # not reaped yet: the number cannot be another's
        except ProcessLookupError:
            pass

    def _kill_rest(self) -> bool:
        if self._forked is not None:
            if self._forked.gone:
                return True
        elif system.SUBREAPER and not _has_children():
            return True  # every orphan of the tree is our child: no child, no tree
        now = time.monotonic()
        if self._forked is not None:
            self._forked.hang_up()
        self._killing_since = self._killing_since or now
        rest = self._tree()
        if not rest and not system.SUBREAPER:
            return True
        if self._forked is not None and not rest and now - self._killing_since > REAPER_PATIENCE:
            self._forked.end_reaper()
        process.kill(rest)
        if now - self._killing_since > GIVE_UP_AFTER:
            self.left = [one.pid for one in rest]
            return True
        return False

    def _tree(self) -> list[psutil.Process]:
        if self._forked is not None:
            return self._forked.tree()
        tree = process.descendants(os.getpid())
        if not system.SUBREAPER:
            tree += process.marked(self._mark)
        return tree


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _send(child: psutil.Process, number: signal.Signals) -> None:
    import psutil

    try:
        child.send_signal(number)
    except psutil.Error:
        pass
