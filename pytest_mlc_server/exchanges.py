"""The requests that tests made through the clients of this package, as this process saw them."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

#: How many requests are remembered. A record is for the test that runs: what is older was read.
LIMIT = 1000

#: Of an answer that is longer, the tokens are not looked for.
BODY_LIMIT = 4 << 20

_JSON = "application/json"
_EVENTS = "text/event-stream"


@dataclass
class Exchange:
    """One request and what came back.

    While it is under way, what is not known yet is None.
    """

    server: str
    """`base_url` of the server."""
    method: str
    path: str
    """With the query, as the server logs it."""
    status: int | None = None
    """None where no answer came."""
    start: float | None = None
    """When the request was sent, in seconds since the epoch."""
    seconds: float | None = None
    """How long it took until its end, be it the last byte or an error."""
    ttft_s: float | None = None
    """How long it took until the first byte of the answer's body: of a stream, the first token."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    """Tokens as the answer's `usage` has them, where it has one."""
    error: str = ""
    """What went wrong on the way; empty for an answer of any status."""


_exchanges: deque[Exchange] = deque(maxlen=LIMIT)


def since(base_url: str, epoch: float) -> list[Exchange]:
    """Return the requests to a server that were sent since a moment, in the order of sending.

    Parameters
    ----------
    base_url
        The server.
    epoch
        The moment, in seconds since the epoch.

    Returns
    -------
    list of Exchange
        Copies: a request that is still under way goes on without them.
    """
    # deque.copy and append are atomic: no lock, which a fork could leave held for ever.
    return [
        replace(one)
        for one in _exchanges.copy()
        if one.server == base_url and one.start is not None and one.start >= epoch
    ]


def begin(server: str, method: str, path: str) -> Observation:
    """Note a request that is being sent.

    Parameters
    ----------
    server
        `base_url` of the server.
    method, path
        What is asked.

    Returns
    -------
    Observation
        Tell it what comes back.
    """
    exchange = Exchange(server, method, path, start=time.time())
    _exchanges.append(exchange)
    return Observation(exchange)


def target(base_url: str, url: str) -> tuple[str, str]:
    """Return the server that a URL is at, and the path there with its query.

    Parameters
    ----------
    base_url
        The server that a client is bound to; it may be told to ask another one.
    url
        The whole URL.
    """
    rest = url[len(base_url) :]
    if url.startswith(base_url) and (not rest or rest[0] in "/?"):
        return base_url, rest or "/"
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}", f"/{path}"


class Observation:
    """Follows one request without touching it, and keeps its record.

    Parameters
    ----------
    exchange
        The record, just begun.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._began = time.perf_counter()
        self._kind = ""
        self._held = bytearray()
        self._last_usage = b""

    @property
    def ended(self) -> bool:
        """Whether the end was noted."""
        return self._exchange.seconds is not None

    def answered(self, status: int, content_type: str, encoding: str = "") -> None:
        """Take note of the answer's head.

        Parameters
        ----------
        status
            The status.
        content_type
            The header of that name.
        encoding
            How the bytes that `feed` gets are compressed, if they are.
        """
        self._exchange.status = status
        kind = content_type.partition(";")[0].strip().lower()
        self._kind = "" if encoding.strip().lower() not in ("", "identity") else kind

    def feed(self, data: bytes) -> None:
        """Take note of a part of the answer's body."""
        if not data or self.ended:
            return
        if self._exchange.ttft_s is None:
            self._exchange.ttft_s = time.perf_counter() - self._began
        if self._kind == _EVENTS:
            self._held += data
            lines = self._held.split(b"\n")
            self._held = lines.pop()
            for line in lines:
                self._look(line)
        elif self._kind == _JSON:
            self._held += data
        if len(self._held) > BODY_LIMIT:
            self._kind, self._held = "", bytearray()

    def end(self, error: BaseException | str = "") -> None:
        """Take note of the end; what comes after the first end changes nothing.

        Parameters
        ----------
        error
            What went wrong; empty for nothing.
        """
        exchange = self._exchange
        if self.ended:
            return
        exchange.seconds = time.perf_counter() - self._began
        exchange.error = error if isinstance(error, str) else describe(error)
        if self._kind == _EVENTS:
            self._look(self._held)
        usage = _usage(self._last_usage or (self._held if self._kind == _JSON else b""))
        exchange.prompt_tokens = _count(usage, "prompt_tokens")
        exchange.completion_tokens = _count(usage, "completion_tokens")
        self._held, self._last_usage = bytearray(), b""

    def _look(self, line: bytes | bytearray) -> None:
        # Only the last event with a usage is parsed, once: a stream may have thousands of events.
        if line.startswith(b"data:") and b'"usage"' in line and b'"usage":null' not in line:
            self._last_usage = bytes(line[5:])


def describe(error: BaseException) -> str:
    """Return one line on what went wrong: the kind of error and its words."""
    words = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _usage(data: bytes | bytearray) -> Mapping[str, Any]:
    if b'"usage"' not in data:
        return {}
    try:
        body = json.loads(data)
    except ValueError:
        return {}
    usage = body.get("usage") if isinstance(body, dict) else None
    return usage if isinstance(usage, dict) else {}


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    count = usage.get(name)
    return count if isinstance(count, int) and not isinstance(count, bool) else None
