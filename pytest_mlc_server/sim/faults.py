"""Faults of answers: what goes wrong on the way from the application to the client."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.sim.rule_faults import (
    DisconnectFault,
    MalformedFault,
    ResetFault,
    StallFault,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pytest_mlc_server.sim.connection import Connection
    from pytest_mlc_server.sim.rule_faults import Fault

    Send = Callable[[Any], Awaitable[None]]

_EVENT_END = b"\n\n"


class FaultySend:
    """Sends an answer on, until the fault happens.

    Parameters
    ----------
    send : Callable
        Where the ASGI messages go.
    fault : Fault
        What happens; it is one that happens within an answer.
    connection : Connection
        Where it happens.
    """

    def __init__(self, send: Send, fault: Fault, connection: Connection) -> None:
        self._send = send
        self._fault = fault
        self._connection = connection
        self._start: Any = None
        self._is_stream = False
        self._events = 0
        self._held = b""
        self._done = False
        self.cut = False

    async def __call__(self, message: Any) -> None:
        """Take an ASGI message."""
        if self.cut:
            return
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._is_stream:
            await self._stream(message)
        else:
            await self._in_one_piece(message)

    async def _begin(self, message: Any) -> None:
        content_type = dict(message["headers"]).get(b"content-type", b"")
        self._is_stream = content_type.startswith(b"text/event-stream")
        if isinstance(self._fault, MalformedFault) and not self._is_stream:
            self._start = message  # its content-length is not known yet
        else:
            await self._send(message)

    async def _stream(self, message: Any) -> None:
        """Send events one by one; several may come in one message, and one in several."""
        more = message.get("more_body", False)
        *events, self._held = (self._held + message.get("body", b"")).split(_EVENT_END)
        for event in events:
            await self._send_event(event + _EVENT_END)
            if self.cut:
                return
        if not more:
            await self._send({**message, "body": self._held})

    async def _send_event(self, event: bytes) -> None:
        if not self._done and self._events == getattr(self._fault, "after", None):
            self._done = True
            if isinstance(self._fault, MalformedFault):
                event = _cut_in_half(event.removesuffix(_EVENT_END)) + _EVENT_END
            else:
                await self._happen()
        self._events += 1
        if not self.cut:
            await self._send({"type": "http.response.body", "body": event, "more_body": True})

    async def _in_one_piece(self, message: Any) -> None:
        if isinstance(self._fault, MalformedFault):
            self._held += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_malformed()
            return
        if not self._done:
            self._done = True
            await self._happen()
        if not self.cut:
            await self._send(message)

    async def _send_malformed(self) -> None:
        body = _cut_in_half(self._held)
        headers = [item for item in self._start["headers"] if item[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def _happen(self) -> None:
        if isinstance(self._fault, StallFault):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._connection.ended.wait(), self._fault.seconds)
                self._connection.disconnect()
                self.cut = True
        elif isinstance(self._fault, DisconnectFault):
            self._connection.disconnect()
            self.cut = True
        elif isinstance(self._fault, ResetFault):
            self._connection.reset()
            self.cut = True


def _cut_in_half(content: bytes) -> bytes:
    return content[: len(content) // 2]
