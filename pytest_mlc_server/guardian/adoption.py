"""A server that a warm parent forks, in the loop of its keeper: asked for, followed, lost."""

from __future__ import annotations

import json
import os
import select
import selectors
import socket
import time

from pytest_mlc_server import process
from pytest_mlc_server.guardian import forked
from pytest_mlc_server.guardian.forked import LOST, WAITING, Forked, ForkError
from pytest_mlc_server.guardian.spawn import SpawnError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_mlc_server.guardian.loop import Loop

#: What is said of a server whose reaper, or whose warm parent, is gone.
PARENT_ENDED = "the warm parent that it was forked from has ended, or the server's reaper has"

#: How long a reaper may take to report the end of its server, in seconds.
REPORT_WITHIN = 1.0


class Adoption:
    """Hears of one forked server, and tells the loop.

    Parameters
    ----------
    loop
        The loop.
    selector
        Where to wait for news.
    """

    def __init__(self, loop: Loop, selector: selectors.BaseSelector) -> None:
        self.server: Forked | None = None
        """The server that is forked, or asked for; None for one that was executed."""
        self.awaited = False
        """Whether the warm parent has not answered yet."""
        self._loop = loop
        self._selector = selector
        self._lease: socket.socket | None = None
        self._held = ""
        self._asked_at = 0.0
        self._watched: list[int] = []

    @property
    def root(self) -> int:
        """The process below which the server's tree is."""
        return (self.server and self.server.reaper) or os.getpid()

    def begin(self, server: Forked) -> None:
        """Take a server that has been asked for; the answer is heard from `follow` on."""
        self.end()
        self.server, self.awaited, self._asked_at = server, True, time.monotonic()

    def end(self) -> None:
        """Forget a server that is gone."""
        server, self.server, self.awaited = self.server, None, False
        self._watch_no_more()
        if server is not None:
            self._unregister(server)
            server.close()

    def hold_parent(self) -> None:
        """Hold the warm parent, until this process ends: it must not end under its server."""
        told = self._loop.told["parent"]
        if not told or told["door"] == self._held:
            return
        self.let_parent_go()
        message = {
            "op": "attach",
            "holders": [(os.getpid(), process.start_time(os.getpid()))],
            "exclusive": False,
            "linger": told["linger"],
            "runs": [],
            "server": True,
        }
        try:
            self._lease = forked.connect(told["door"])
            self._lease.sendall(json.dumps(message).encode() + b"\n")
        except (OSError, ForkError):
            return  # it is going: the next answer says so
        self._lease.setblocking(False)
        self._held = told["door"]

    def let_parent_go(self) -> None:
        """Need the warm parent no more."""
        if self._lease is not None:
            self._lease.close()
            self._lease, self._held = None, ""

    def follow(self) -> None:
        """Wait for the server, once it is known what for; tell so."""
        assert self.server is not None  # noqa: S101 - it was begun
        self.hold_parent()
        self._selector.register(self.server.connection, selectors.EVENT_READ, self._on_news)
        self._loop.holders.tell(event="phase", phase=WAITING)

    def pause(self) -> float:
        """Return how long to wait for an answer, in seconds."""
        limit = float(self._loop.told.get("startup_timeout", forked.ORDER_WITHIN))
        return max(0.0, self._asked_at + limit - time.monotonic())

    def look(self) -> None:
        """Launch directly if the answer takes too long."""
        if self.awaited and self._loop.told and not self.pause():
            self._refused("it was not ready within the time limit of a start")

    # --- news -------------------------------------------------------------------------------------

    def _on_news(self) -> None:
        server = self.server
        if server is None:
            return
        try:
            messages = server.read()
        except (ValueError, KeyError, TypeError):
            messages = [{"event": "closed"}]
        for message in messages:
            if self.server is server:
                self._take(server, message)

    def _take(self, server: Forked, message: dict[str, Any]) -> None:
        event = message["event"]
        if event == "closed":
            self._unregister(server)
            if self.awaited:
                self._refused("it ended before it answered")
            else:
                self._loop.lost(LOST, PARENT_ENDED)
        elif event == "refused":
            self._refused(str(message["reason"]))
        elif event == "failed":
            self.awaited = False
            self._answered(0, str(message["problem"]))
        elif event == "forked":
            self.awaited = False
            self._watched = server.pidfd
            for descriptor in self._watched:
                self._selector.register(descriptor, selectors.EVENT_READ, self._on_end)
            self._answered(server.pid, "")
        elif event == "exited":
            self._watch_no_more()
            self._loop.lost(int(message["returncode"]), "")

    def _on_end(self) -> None:
        """Hear from the kernel of the server's end: a reaper that was stopped does not tell."""
        server = self.server
        if server is None or not self._watched:
            return
        self._watch_no_more()
        poll = select.poll()
        poll.register(server.connection, select.POLLIN)
        poll.poll(REPORT_WITHIN * 1000)
        self._on_news()
        self._loop.lost(LOST, PARENT_ENDED)

    def _watch_no_more(self) -> None:
        for descriptor in self._watched:
            self._selector.unregister(descriptor)
        self._watched.clear()

    def _refused(self, reason: str) -> None:
        self.end()
        self.let_parent_go()
        if self._loop.stopping is not None:
            return  # nobody needs it any more
        problem, pid = "", 0
        try:
            pid = forked.execute(self._loop.order, reason)
        except SpawnError as error:
            problem = str(error)
        self._answered(pid, problem)

    def _answered(self, pid: int, problem: str) -> None:
        waited = time.monotonic() - self._asked_at
        self._loop.starter.follow_fork(pid, self._asked_at, problem, waited)

    def _unregister(self, server: Forked) -> None:
        try:
            self._selector.unregister(server.connection)
        except (KeyError, ValueError):
            pass
