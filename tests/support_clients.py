"""An HTTP server that answers as a test says, step by step, in this process."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pytest_mlc_server import PopenServer
from tests.conftest import WATCHDOG


def lacks(*modules: str) -> bool:
    """Tell whether one of these modules is not installed."""
    return any(importlib.util.find_spec(module) is None for module in modules)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Import what runs inside this process would, in every module that imports this fixture.

    pytester forgets what they import: the next import is another copy, with classes of its own.
    """
    http = ("requests", "httpcore", "httpcore2", "httpx", "httpx2", "openai")
    for module in (*http, "anyio", "trio", "pytest_asyncio"):
        if not lacks(module):
            importlib.import_module(module)


EVENTS = "text/event-stream; charset=utf-8"

USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "It rains."},
        }
    ],
    "usage": USAGE,
}


@dataclass
class Step:
    """What the server waits for before it goes on."""

    wait: Callable[[Handler], None]


@dataclass
class Scripted:
    """An answer: parts of a body, sent as they stand here, and what comes between them."""

    parts: Sequence[bytes | Step]
    status: int = 200
    kind: str = "application/json"
    chunked: bool = True
    whole: bool = True
    """Whether the end of the body is told, before the connection is closed."""


def event(content: str | None = None, **more: Any) -> bytes:
    """Return an event of a stream."""
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}}]
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": choices,
        **more,
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def said(body: Any, status: int = 200) -> Scripted:
    """Return an answer that is JSON."""
    return Scripted([json.dumps(body).encode()], status, chunked=False)


@dataclass
class Seen:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = json.loads(data) if data else None
        self.server.seen.append(Seen(self.command, self.path, headers, body))
        answer = self.server.answers.get(self.path) or self.server.answers[""]
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            size = sum(len(part) for part in answer.parts if isinstance(part, bytes))
            self.send_header("Content-Length", str(size))
        self.end_headers()
        for part in answer.parts:
            if isinstance(part, Step):
                part.wait(self)
            else:
                chunk = b"%x\r\n%b\r\n" % (len(part), part) if answer.chunked else part
                self.wfile.write(chunk)
        if answer.chunked and answer.whole:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = self.close_connection or not answer.whole

    do_POST = do_GET  # noqa: N815 - the base class's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - of the base class
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Answers each path as `answers` has it; ``""`` stands for every other path."""

    daemon_threads = True
    #: A request that is never read to its end leaves its thread.
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Scripted] = {
            "": said(ANSWER),
            "/v1/models": said({"object": "list", "data": [{"id": "m", "object": "model"}]}),
        }
        self.seen: list[Seen] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that a client closed."""


@contextmanager
def scripted_server() -> Iterator[Server]:
    """Run a server in a thread."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def attached(server: Server, **options: Any) -> Iterator[PopenServer]:
    """Attach a handle to a server."""
    with PopenServer(None, engine="external", url=server.url, ready="http", **options) as handle:
        server.seen.clear()
        yield handle


@dataclass
class Gate:
    """A step that holds an answer until the test has seen what came before."""

    opened: threading.Event = field(default_factory=threading.Event)

    @property
    def step(self) -> Step:
        def wait(handler: Handler) -> None:
            assert self.opened.wait(WATCHDOG)

        return Step(wait)


@dataclass
class Hangup:
    """A step that waits until the client closes the connection."""

    seen: threading.Event = field(default_factory=threading.Event)

    @property
    def step(self) -> Step:
        def wait(handler: Handler) -> None:
            handler.connection.settimeout(WATCHDOG)
            try:
                gone = handler.connection.recv(1) == b""
            except ConnectionError:
                gone = True
            if gone:
                self.seen.set()

        return Step(wait)

    def await_(self) -> None:
        assert self.seen.wait(WATCHDOG), "the client did not close its connection"
