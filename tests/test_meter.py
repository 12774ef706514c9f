"""A server is asked for its counters: whatever it answers, nobody waits long or gets an error."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest

from pytest_mlc_server import PopenServer, meter
from pytest_mlc_server.access_log import OWN_PATH
from pytest_mlc_server.meter import NO_COUNTERS, Meter
from tests.conftest import await_

BODY = "prompt_tokens_sum\t7\ncompletion_tokens_sum\t5\n"


class Fake:
    """A server of this process, and the little that a meter wants to know of its handle."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.connections: set[Any] = set()
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda one: reply(one, BODY)
        self.hold = threading.Event()
        self.pid, self.restarts, self.state = 1, 0, "ready"
        self.api_key: str | None = None
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake.requests.append((self.path, dict(self.headers)))
                fake.connections.add(self.client_address)
                fake.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def poll(self) -> str:
        return self.state

    def close(self) -> None:
        self.hold.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


def reply(
    handler: BaseHTTPRequestHandler,
    body: str | bytes,
    status: int = 200,
    length: int | None = None,
) -> None:
    data = body.encode() if isinstance(body, str) else body
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data) if length is None else length))
    handler.end_headers()
    handler.wfile.write(data)


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.close()


@pytest.fixture
def asking(fake: Fake) -> Iterator[Meter]:
    one = Meter(cast(PopenServer, fake))
    yield one
    one.close()


def test_the_counters_come_over_one_connection(fake: Fake, asking: Meter) -> None:
    fake.api_key = "secret"
    for _ in range(3):
        counters = asking.ask()
        assert counters is not None
        assert (counters.prompt_tokens, counters.completion_tokens) == (7, 5)
    assert len(fake.connections) == 1
    path, headers = fake.requests[0]
    assert path == OWN_PATH
    assert headers["Authorization"] == "Bearer secret"
    assert headers["User-Agent"] == "pytest-mlc-server-probe"


def test_no_proxy_is_asked(fake: Fake, asking: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert asking.ask() is not None
    assert len(fake.requests) == 1


def test_a_url_with_a_path(fake: Fake, asking: Meter) -> None:
    fake.base_url += "/llm"
    assert asking.ask() is not None
    assert fake.requests[0][0] == f"/llm{OWN_PATH}"


def test_a_connection_that_the_server_closed_is_opened_again(fake: Fake, asking: Meter) -> None:
    def close_after(handler: BaseHTTPRequestHandler) -> None:
        reply(handler, BODY)
        handler.close_connection = True  # without a word, as servers do after some idle seconds
        handler.connection.shutdown(socket.SHUT_RDWR)

    fake.answer = close_after
    assert asking.ask() is not None
    assert asking.ask() is not None
    assert len(fake.connections) == 2


@pytest.mark.parametrize(
    ("status", "body", "why", "asked"),
    [
        (404, "no", "GET /metrics answers 404", 1),
        (401, "no", "GET /metrics answers 401", 1),
        (200, "<html>hello</html>", NO_COUNTERS, 1),
        (200, b"\xff\x00\xfe", NO_COUNTERS, 1),
        (200, "n\t1\nseed\t5\n", NO_COUNTERS, 1),
        # A proxy whose server comes back may say so.
        (503, "later", "GET /metrics answers 503", 2),
    ],
)
def test_what_has_no_counters_is_asked_once(
    status: int, body: str | bytes, why: str, asked: int, fake: Fake, asking: Meter
) -> None:
    fake.answer = lambda handler: reply(handler, body, status)
    assert asking.ask() is None
    assert asking.ask() is None
    assert asking.why == why
    assert len(fake.requests) == asked
    fake.answer = lambda handler: reply(handler, BODY)
    fake.restarts += 1  # another server, which may have some
    assert asking.ask() is not None


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Le"])
def test_what_is_no_answer(answer: bytes, fake: Fake, asking: Meter) -> None:
    def broken(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(answer)
        handler.close_connection = True

    fake.answer = broken
    assert asking.ask() is None
    assert asking.why.startswith("GET /metrics")
    fake.answer = lambda handler: reply(handler, BODY)
    assert asking.ask() is not None


def test_an_answer_that_breaks_off_has_no_counters(fake: Fake, asking: Meter) -> None:
    def broken(handler: BaseHTTPRequestHandler) -> None:
        reply(handler, BODY, length=1000)
        handler.close_connection = True

    fake.answer = broken
    assert asking.ask() is None
    fake.answer = lambda handler: reply(handler, BODY)
    assert asking.ask() is not None


def test_of_an_endless_answer_only_the_beginning_is_read(
    fake: Fake, asking: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "LONGEST", 100)
    fake.answer = lambda handler: reply(handler, BODY + "x\t1\n" * 1000)
    assert asking.ask() is not None
    assert asking.ask() is not None
    assert len(fake.connections) == 2


def test_a_server_that_does_not_answer_is_not_asked_again_until_it_does(
    fake: Fake, asking: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "TIMEOUT", 0.05)
    answered = threading.Event()

    def late(handler: BaseHTTPRequestHandler) -> None:
        fake.hold.wait()
        reply(handler, BODY)
        answered.set()

    fake.answer = late
    for _ in range(3):
        assert asking.ask() is None
    assert asking.why == "GET /metrics was not answered within 0.05 s"
    await_(lambda: fake.requests, "the first question, and the only one")
    assert len(fake.requests) == 1
    monkeypatch.setattr(meter, "TIMEOUT", 60.0)
    fake.hold.set()
    assert answered.wait(60)
    # Its late answer has come, and is not taken for that to a new question.
    fake.answer = lambda handler: reply(handler, BODY.replace("7", "8"))
    counters = asking.ask()
    assert counters is not None
    assert counters.prompt_tokens == 8
    assert len(fake.connections) == 2


def test_one_that_is_started_again_is_asked_again(
    fake: Fake, asking: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "TIMEOUT", 0.05)
    fake.answer = lambda _: cast(None, fake.hold.wait())
    assert asking.ask() is None
    monkeypatch.setattr(meter, "TIMEOUT", 60.0)
    fake.answer = lambda handler: reply(handler, BODY)
    fake.pid = 2
    assert asking.ask() is not None


@pytest.mark.parametrize("state", ["wedged", "exited", "stopped", "starting"])
def test_one_that_is_known_not_to_work_is_not_asked(state: str, fake: Fake, asking: Meter) -> None:
    fake.state = state
    assert asking.ask() is None
    assert asking.why == f"the server is {state}"
    assert fake.requests == []


def test_nobody_is_there(fake: Fake, asking: Meter) -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        fake.base_url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        assert asking.ask() is None
    assert "refused" in asking.why


def test_a_test_that_forbids_sockets(
    fake: Fake, asking: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise RuntimeError("no sockets in this test")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "create_connection", forbidden)
        assert asking.ask() is None
        assert asking.why == "GET /metrics: RuntimeError: no sockets in this test"
    assert asking.ask() is not None
    with monkeypatch.context() as patch:
        patch.setattr(socket, "create_connection", forbidden)
        assert asking.ask() is not None  # over the connection that there is


def test_a_server_behind_https_is_asked_in_it(fake: Fake, asking: Meter) -> None:
    fake.base_url = fake.base_url.replace("http:", "https:")
    assert asking.ask() is None  # this one does not speak it
    assert "SSL" in asking.why
    assert fake.requests == []
