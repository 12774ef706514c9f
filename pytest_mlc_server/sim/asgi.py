"""What the gate does with ASGI messages: reading a body and giving it on, keeping an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pytest_mlc_server.sim.records import Entry

    Receive = Callable[[], Awaitable[Any]]
    Send = Callable[[Any], Awaitable[None]]


def headers_of(scope: Any) -> dict[str, str]:
    """Return the headers of a request; the values of one that was sent twice are joined."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


async def read_body(receive: Receive) -> bytes | None:
    """Return the body of a request, None when the client went away before its end."""
    content = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        content += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(content)


def replaying(content: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body which was read already."""
    messages = [{"type": "http.request", "body": content, "more_body": False}]

    async def replayed() -> Any:
        return messages.pop() if messages else await receive()

    return replayed


def recording(entry: Entry, send: Send) -> Send:
    """Return a `send` that keeps what it sends."""

    async def recorded(message: Any) -> None:
        # Before it is sent: a test that got its answer finds it in the records.
        entry.answered(message)
        await send(message)

    return recorded
