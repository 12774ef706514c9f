"""What a server answers to the question whether it is ready."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pytest_mlc_server.guardian import probe

MODEL = "dist/M-MLC"
MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
TOKEN = {"choices": [{"text": "x"}], "usage": {"prompt_tokens": 2, "completion_tokens": 1}}

Answer = tuple[int, object]
Ask = Callable[..., dict[str, Any]]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {"GET": (200, MODELS), "POST": (200, TOKEN)}
        self.asked: list[tuple[str, dict[str, str], bytes]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((f"{self.command} {self.path}", dict(self.headers), body))
        status, answer = self.server.answers[self.command]
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.005,))
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture
def ask(server: Server) -> Ask:
    def ask(*, generate: bool = True, api_key: str | None = None) -> dict[str, Any]:
        address = ("127.0.0.1", server.server_port)
        expected: probe.Expected = {"model": MODEL, "api_key": api_key, "generate": generate}
        return probe.probe(address, expected, 60.0, lambda _: None)

    return ask


def test_the_list_is_asked_for_and_one_token(ask: Ask, server: Server) -> None:
    assert ask() == TOKEN["usage"]
    (listed, _, _), (completed, headers, body) = server.asked
    assert (listed, completed) == ("GET /v1/models", "POST /v1/completions")
    wanted = json.loads(body)
    assert (wanted["model"], wanted["max_tokens"]) == (MODEL, 1)
    assert headers["Content-Type"] == "application/json"


def test_without_generation_the_list_is_enough(ask: Ask, server: Server) -> None:
    assert ask(generate=False) == {}
    assert [what for what, _, _ in server.asked] == ["GET /v1/models"]


@pytest.mark.parametrize("key", [None, "sk-s3cret"])
def test_the_key_is_sent_where_there_is_one(ask: Ask, server: Server, key: str | None) -> None:
    ask(api_key=key)
    sent = [headers.get("Authorization") for _, headers, _ in server.asked]
    assert sent == [key and f"Bearer {key}"] * 2


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_no_proxy_is_asked(ask: Ask, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert ask() == TOKEN["usage"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("status", [404, 429, 502, 503, 504])
def test_an_answer_that_may_change_means_not_yet(
    ask: Ask, server: Server, method: str, status: int
) -> None:
    server.answers[method] = (status, {"detail": "loading"})
    with pytest.raises(probe.NotYetError, match=rf'{method} .* answers {status}: {{"detail": "lo'):
        ask()


@pytest.mark.parametrize(
    ("method", "answer", "text"),
    [
        ("GET", (401, {"detail": "Invalid API Key"}), "another API key"),
        ("GET", (403, b""), r"answers 403: \(empty\)"),
        ("GET", (500, b"Internal Server Error"), "GET /v1/models answers 500: Internal"),
        ("GET", (200, b"<html>"), "GET /v1/models is not JSON: <html>"),
        ("GET", (200, b"\xff\xfe"), "GET /v1/models is not JSON"),
        ("GET", (200, ["a"]), "is no list of models"),
        ("GET", (200, {"data": "a"}), "is no list of models"),
        ("GET", (200, {"data": []}), f"lists nothing, not {MODEL}"),
        ("GET", (200, {"data": [{"id": "a"}, {"id": "b"}]}), f"lists a, b, not {MODEL}"),
        ("POST", (401, b""), "another API key"),
        ("POST", (500, b"boom"), r"POST /v1/completions \(one token\) answers 500: boom"),
        ("POST", (400, {"message": "no"}), "answers 400"),
        ("POST", (200, b"<html>"), "POST /v1/completions is not JSON"),
        ("POST", (200, {}), "generated nothing"),
        ("POST", (200, {"choices": []}), "generated nothing"),
    ],
)
def test_an_answer_that_will_not_change_means_never(
    ask: Ask, server: Server, method: str, answer: Answer, text: str
) -> None:
    server.answers[method] = answer
    with pytest.raises(probe.NeverError, match=text):
        ask()


@pytest.mark.parametrize("usage", [None, "none", []])
def test_a_token_without_usage_is_a_token(ask: Ask, server: Server, usage: object) -> None:
    server.answers["POST"] = (200, {"choices": TOKEN["choices"], "usage": usage})
    assert ask() == {}


@pytest.mark.parametrize(
    "greeting", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]
)
def test_a_socket_that_speaks_no_http_means_not_yet(greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(greeting)
                connection.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        expected: probe.Expected = {"model": MODEL, "api_key": None, "generate": True}
        with pytest.raises(probe.NotYetError, match="GET /v1/models: "):
            probe.probe(listener.getsockname(), expected, 60.0, lambda _: None)
        thread.join()


def test_a_socket_that_never_answers_means_not_yet_and_says_what_was_waited_for() -> None:
    waited_for: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        expected: probe.Expected = {"model": MODEL, "api_key": None, "generate": True}
        with pytest.raises(probe.NotYetError, match="no answer within"):
            probe.probe(silent.getsockname(), expected, 0.1, waited_for.append)
    assert len(waited_for) == 1
    assert "GET /v1/models" in waited_for[0]
