"""The clients by themselves: what they send, what their users see, and what is recorded of it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from pytest_mlc_server import PopenServer, clients, exchanges, transports
from pytest_mlc_server.exchanges import Exchange
from pytest_mlc_server.http_session import ServerSession
from tests.support_clients import (
    ANSWER,
    DONE,
    EVENTS,
    USAGE,
    Gate,
    Hangup,
    Scripted,
    Server,
    Step,
    attached,
    event,
    said,
    scripted_server,
)

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def scripted() -> Iterator[Server]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def server(scripted: Server) -> Iterator[PopenServer]:
    with attached(scripted, api_key="sk-1") as server:
        yield server


@pytest.fixture
def session(server: PopenServer) -> Iterator[ServerSession]:
    yield from clients.session(server)


@pytest.fixture
def openai() -> Any:
    return pytest.importorskip("openai")


@pytest.fixture
def client(openai: Any, server: PopenServer) -> Iterator[Any]:
    yield from clients.client(server)


def recorded(server: Server) -> list[Exchange]:
    return exchanges.since(server.url, 0)


def last(server: Server) -> Exchange:
    return recorded(server)[-1]


# --- the session of requests ----------------------------------------------------------------------


@pytest.mark.parametrize("url", ["/v1/models", "v1/models", "/v1/models?u=http://x/"])
def test_relative_urls_are_the_servers(session: ServerSession, scripted: Server, url: str) -> None:
    assert session.get(url).status_code == 200
    assert scripted.seen[0].path == "/" + url.lstrip("/")
    assert scripted.seen[0].headers["authorization"] == "Bearer sk-1"
    assert (last(scripted).method, last(scripted).path) == ("GET", "/" + url.lstrip("/"))


def test_whole_urls_stay_and_other_servers_get_no_key(
    session: ServerSession, scripted: Server
) -> None:
    with scripted_server() as other:
        session.get(f"{scripted.url}/v1/models")
        session.get(f"{other.url}/v1/models")
        session.get(f"{other.url}/v1/models", headers={"Authorization": "Bearer own"})
        keys = [seen.headers.get("authorization") for seen in (*scripted.seen, *other.seen)]
        assert keys == ["Bearer sk-1", None, "Bearer own"]
        assert (len(recorded(scripted)), len(recorded(other))) == (1, 2)


def test_a_netrc_does_not_take_the_keys_place(
    scripted: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1\nlogin a\npassword b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with ServerSession(scripted.url, "sk-1", timeout=60) as session:
        session.get("/v1/models")
        session.trust_env = True  # as for a server elsewhere
        monkeypatch.delenv("http_proxy")
        session.get("/v1/models")
    keys = [seen.headers["authorization"] for seen in scripted.seen]
    assert keys == ["Bearer sk-1", "Bearer sk-1"]


@pytest.mark.parametrize(
    ("base_url", "trusts"), [("http://127.0.0.1:1", False), ("https://mlc.invalid", True)]
)
def test_the_environments_proxies_are_for_servers_elsewhere(base_url: str, trusts: bool) -> None:
    with ServerSession(base_url, timeout=60) as session:
        assert session.trust_env is trusts


def test_requests_have_a_time_limit(session: ServerSession, scripted: Server) -> None:
    assert session.timeout == clients.TIMEOUT == 60
    session.timeout = 1.0  # the headers come in time, also on a busy machine; the body never
    hangup = Hangup()
    scripted.answers["/hang"] = Scripted([hangup.step])
    with pytest.raises(requests.ConnectionError, match="Read timed out"):
        session.get("/hang")
    hangup.await_()
    assert last(scripted).error.startswith("ConnectionError: ")
    assert (last(scripted).status, last(scripted).ttft_s) == (200, None)
    gate = Gate()
    gate.opened.set()
    scripted.answers["/wait"] = Scripted([gate.step, b"x"])
    assert session.get("/wait", timeout=None).text == "x"
    assert session.request("GET", "/wait", *[None] * 6, 60).text == "x"


def test_the_session_says_what_it_got(session: ServerSession, scripted: Server) -> None:
    response = session.post(CHAT, json=HELLO)
    assert response.json() == ANSWER
    assert isinstance(response, requests.Response)
    assert pickle.loads(pickle.dumps(response)).json() == ANSWER
    found = last(scripted)
    assert (found.status, found.prompt_tokens, found.completion_tokens) == (200, 7, 2)
    assert found.seconds is not None
    assert found.ttft_s is not None
    assert b"".join(response.iter_content(7)) == response.content  # read again, noted once


@pytest.mark.parametrize("text", [False, True])
def test_a_sessions_stream_is_one(session: ServerSession, scripted: Server, text: bool) -> None:
    gate = Gate()
    parts: list[bytes | Step] = [event("It "), gate.step, event("rains."), event(usage=USAGE), DONE]
    scripted.answers[CHAT] = Scripted(parts, kind=EVENTS)
    response = session.post(CHAT, json=HELLO, stream=True)
    lines = response.iter_lines(decode_unicode=text)
    assert "It " in str(next(lines))
    assert (last(scripted).ttft_s is not None, last(scripted).seconds) == (True, None)
    gate.opened.set()
    assert [bool(line) for line in lines].count(True) == 3
    found = last(scripted)
    assert (found.completion_tokens, found.error) == (2, "")
    assert found.seconds is not None


@pytest.mark.parametrize("read", [False, True])
def test_a_sessions_stream_may_be_left(
    session: ServerSession, scripted: Server, read: bool
) -> None:
    hangup = Hangup()
    scripted.answers[CHAT] = Scripted([event("It "), hangup.step], kind=EVENTS)
    with session.post(CHAT, json=HELLO, stream=True) as response:
        if read:
            next(response.iter_content(4))
    hangup.await_()
    assert last(scripted).seconds is not None
    assert last(scripted).error == ""


def test_an_answer_that_is_cut_off_is_an_error(session: ServerSession, scripted: Server) -> None:
    scripted.answers["/cut"] = Scripted([b"x"], whole=False)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        session.get("/cut")
    assert last(scripted).error.startswith("ChunkedEncodingError: ")


def test_a_server_that_is_gone_is_an_error(session: ServerSession, scripted: Server) -> None:
    scripted.shutdown()
    scripted.server_close()
    with pytest.raises(requests.ConnectionError):
        session.get("/v1/models")
    assert (last(scripted).status, last(scripted).error[:16]) == (None, "ConnectionError:")


# --- OpenAI's client ------------------------------------------------------------------------------


def test_the_client_is_bound_to_the_server(
    client: Any, scripted: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    answer = client.chat.completions.create(**HELLO)
    assert answer.choices[0].message.content == "It rains."
    seen = scripted.seen[0]
    assert (seen.path, seen.headers["authorization"]) == (CHAT, "Bearer sk-1")
    assert (client.max_retries, client.timeout) == (0, 60)
    found = last(scripted)
    assert (found.method, found.path, found.status) == ("POST", CHAT, 200)
    assert (found.prompt_tokens, found.completion_tokens, found.error) == (7, 2, "")
    assert found.seconds is not None


def test_the_environment_does_not_reach_the_client(
    scripted: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "BASE_URL", "ORG_ID", "PROJECT_ID", "ORGANIZATION"):
        monkeypatch.setenv(f"OPENAI_{name}", "wrong")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with attached(scripted) as server, contextmanager(clients.client)(server) as client:
        client.models.list()
    headers = scripted.seen[0].headers
    assert headers["authorization"] == "Bearer none"
    assert not [value for value in headers.values() if "wrong" in value]


def test_an_error_is_seen_at_once(openai: Any, client: Any, scripted: Server) -> None:
    scripted.answers[CHAT] = said("sorry", 503)
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**HELLO)
    assert len(scripted.seen) == 1
    assert (last(scripted).status, last(scripted).error) == (503, "")


def test_the_clients_stream_is_one(client: Any, scripted: Server) -> None:
    gate = Gate()
    parts: list[bytes | Step] = [event("It "), gate.step, event("rains."), event(usage=USAGE), DONE]
    scripted.answers[CHAT] = Scripted(parts, kind=EVENTS)
    stream = client.chat.completions.create(**HELLO, stream=True)
    assert next(stream).choices[0].delta.content == "It "
    assert (last(scripted).ttft_s is not None, last(scripted).seconds) == (True, None)
    gate.opened.set()
    assert [len(chunk.choices) for chunk in stream] == [1, 0]
    assert (last(scripted).prompt_tokens, last(scripted).completion_tokens) == (7, 2)
    assert last(scripted).seconds is not None


@pytest.mark.parametrize("by", ["stream", "client"])
def test_a_clients_stream_may_be_left(
    openai: Any, server: PopenServer, scripted: Server, by: str
) -> None:
    hangup = Hangup()
    scripted.answers[CHAT] = Scripted([event("It "), hangup.step], kind=EVENTS)
    with contextmanager(clients.client)(server) as client:
        stream = client.chat.completions.create(**HELLO, stream=True)
        next(stream)
        if by == "stream":
            stream.close()
            assert last(scripted).seconds is not None
    hangup.await_()
    assert (last(scripted).seconds is not None, last(scripted).error) == (True, "")


def test_a_clients_answer_that_is_cut_off(openai: Any, client: Any, scripted: Server) -> None:
    scripted.answers[CHAT] = Scripted([event("It ")], kind=EVENTS, whole=False)
    # Newer versions of the client make it an error of their own.
    broken = (openai.APIConnectionError, transports.http_library().TransportError)
    with pytest.raises(broken):
        list(client.chat.completions.create(**HELLO, stream=True))
    assert last(scripted).error.startswith("RemoteProtocolError: ")


def test_a_clients_server_that_is_gone(openai: Any, client: Any, scripted: Server) -> None:
    scripted.shutdown()
    scripted.server_close()
    with pytest.raises(openai.APIConnectionError):
        client.models.list()
    assert last(scripted).error.startswith("ConnectError: ")


def test_a_client_is_closed_with_its_test(server: PopenServer) -> None:
    with contextmanager(clients.client)(server) as client:
        assert not client.is_closed()
    assert client.is_closed()


@pytest.mark.parametrize(
    ("url", "proxy", "asked"),
    [
        ("http://127.0.0.1:1", "http://proxy:9", None),
        ("http://mlc.invalid", "http://proxy:9", "proxy"),
        ("http://mlc.invalid", None, None),
    ],
)
def test_a_proxy_is_asked_for_servers_elsewhere_alone(
    openai: Any, monkeypatch: pytest.MonkeyPatch, url: str, proxy: str | None, asked: str | None
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if proxy:
        monkeypatch.setenv("http_proxy", proxy)
    found = transports._reaching(transports.http_library(), url).get("proxy")
    assert (found.url.host if found else None) == asked
