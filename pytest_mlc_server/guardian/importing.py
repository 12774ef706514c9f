"""The guardian of a warm parent: its process is ready when it has imported all, and answers."""

from __future__ import annotations

import json
import selectors
import socket
import time

from pytest_mlc_server import logs
from pytest_mlc_server.guardian.forked import ForkError, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import psutil

#: What holders hear of a warm parent that is starting.
PHASE = "importing"

#: How often time limits are looked at, in seconds.
LOOK_EVERY = 0.1


class Importing:
    """The start of a warm parent, and what it says afterwards.

    It has what `start.Start` has.

    Parameters
    ----------
    order
        What the holder ordered: ``forks``, the time limits.
    log
        Its log.
    began
        When the process was executed, on the monotonic clock.
    selector
        Where to wait for news.
    on_retired
        Called with a message when it forks nothing any more.
    """

    serving: psutil.Process | None = None

    def __init__(
        self,
        order: dict[str, Any],
        log: str,
        began: float,
        selector: selectors.BaseSelector,
        on_retired: Callable[[dict[str, Any]], None],
    ) -> None:
        self.phases: dict[str, float] = {}
        self.outcome: dict[str, Any] | None = None
        self._order = order
        self._log = log
        self._began = began
        self._selector = selector
        self._on_retired = on_retired
        self._refusal, self._stale = "", False
        self._inbox = b""
        try:
            self._connection: socket.socket | None = connect(order["forks"])
            self._connection.sendall(b"watch\n")
        except (OSError, ForkError) as error:
            self._connection = None
            self.fail("exited", str(error))
            return
        self._connection.setblocking(False)
        selector.register(self._connection, selectors.EVENT_READ, self._on_news)

    @property
    def seconds(self) -> float:
        """How long the start has taken so far."""
        return time.monotonic() - self._began

    def pause(self) -> float:
        """Return how long to wait for an event before `look`, in seconds."""
        return LOOK_EVERY

    def look(self) -> None:
        """Look at the time limit."""
        if self.outcome is None and self.seconds > self._order["startup_timeout"]:
            self.fail("timeout", "its imports take longer than a start may")

    def fail(self, reason: str, detail: str) -> None:
        """End the start as failed."""
        # The process may have ended before its last words were read, or before it was asked.
        self._on_news()
        detail = self._refusal or logs.tail(self._log, 1) or detail
        self._end("failed", reason=reason, detail=detail, phase=PHASE, stale=self._stale)

    def close(self) -> None:
        """Let go of nothing: what it says later is heard as well."""

    def _end(self, event: str, **more: Any) -> None:
        self.phases = {PHASE: self.seconds}
        self.outcome = {"event": event, "seconds": self.seconds, "phases": self.phases, **more}

    def _on_news(self) -> None:
        if self._connection is None:
            return
        try:
            data = self._connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(self._connection)
            self._connection.close()
            self._connection = None
            return  # the process ends: the loop hears of it
        *lines, self._inbox = (self._inbox + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        if message["event"] in ("refused", "status") and message["reason"]:
            # It answers the others, and then it ends.
            self._refusal, self._stale = str(message["reason"]), bool(message["stale"])
        elif message["event"] == "status" and self.outcome is None:
            self._end("ready", address="", port=0, usage={})
        elif message["event"] == "retired" and self.outcome is not None:
            self._on_retired(message)
