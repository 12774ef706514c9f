"""Asking a server in one line: what is sent, what comes back, what is told if nothing does."""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import ConfigError, PopenServer, RequestError, exchanges, requesting
from pytest_mlc_server.answers import Answer
from tests.conftest import await_
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
from tests.support_server import Kin, linux
from tests.support_server import temporary as temporary

CHAT = "/v1/chat/completions"


@pytest.fixture
def scripted() -> Iterator[Server]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def server(scripted: Server) -> Iterator[PopenServer]:
    with attached(scripted) as server:
        yield server


@pytest.fixture(scope="module")
def sim() -> Iterator[PopenServer]:
    options: dict[str, Any] = {"engine": "sim", "port": "auto", "api_key": "sk-test-key"}
    with PopenServer(None, enable_tracing=True, **options) as server:
        yield server


# --- what is asked --------------------------------------------------------------------------------


def test_a_text_is_what_the_user_says(server: PopenServer, scripted: Server) -> None:
    answer = server.chat("How is the weather?", max_tokens=5, temperature=0)
    (seen,) = scripted.seen
    assert (seen.method, seen.path) == ("POST", CHAT)
    assert "authorization" not in seen.headers
    assert seen.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "How is the weather?"}],
        "max_tokens": 5,
        "temperature": 0,
    }
    assert answer == "It rains."
    assert (answer.finish_reason, answer.usage, answer.body) == ("stop", USAGE, ANSWER)


def test_a_conversation_and_another_model(server: PopenServer, scripted: Server) -> None:
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"})
    server.chat(messages, model="other")
    assert scripted.seen[0].body == {"model": "other", "messages": list(messages)}


@pytest.mark.parametrize("prompt", ["Once", [1, 2, 3]])
def test_a_completion(server: PopenServer, scripted: Server, prompt: Any) -> None:
    body = {"choices": [{"index": 0, "text": " upon", "finish_reason": "length"}]}
    scripted.answers["/v1/completions"] = said(body)
    answer = server.complete(prompt, max_tokens=2)
    assert scripted.seen[0].body == {"model": "m", "prompt": prompt, "max_tokens": 2}
    assert (answer, answer.finish_reason, answer.usage) == (" upon", "length", {})


def test_an_answer_without_a_text_is_empty(server: PopenServer, scripted: Server) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    scripted.answers[CHAT] = said({"choices": [{"message": message}]})
    answer = server.chat("Hello")
    assert (answer, answer.finish_reason) == ("", None)
    assert answer.body["choices"][0]["message"]["tool_calls"] == [call]


def test_an_answer_is_a_text_that_can_travel() -> None:
    answer = pickle.loads(pickle.dumps(Answer("It rains.", ANSWER, "stop")))
    assert (answer, answer.finish_reason, answer.usage) == ("It rains.", "stop", USAGE)
    assert isinstance(answer, str)
    assert f"{answer:.2}" == "It"


@pytest.mark.parametrize("ask", [PopenServer.chat, PopenServer.complete])
def test_a_stream_is_asked_for_by_another_name(
    server: PopenServer, scripted: Server, ask: Callable[..., Answer]
) -> None:
    with pytest.raises(TypeError, match="stream_chat"):
        ask(server, "Hello", stream=True)
    assert scripted.seen == []


def test_the_key_is_sent_and_a_proxy_is_not_asked(
    scripted: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with attached(scripted, api_key="sk-1") as server:
        server.chat("Hello")
    assert scripted.seen[0].headers["authorization"] == "Bearer sk-1"


# --- streams --------------------------------------------------------------------------------------


def test_pieces_come_as_they_are_sent(server: PopenServer, scripted: Server) -> None:
    gate = Gate()
    parts: list[bytes | Step] = [
        event(""),
        event("It "),
        gate.step,
        event("rains."),
        event(usage=USAGE),
        DONE,
    ]
    scripted.answers[CHAT] = Scripted(parts, kind=EVENTS)
    stream = server.stream_chat("Hello", max_tokens=5)
    assert scripted.seen == []  # nothing is sent before the first piece is asked for
    assert next(stream) == "It "
    gate.opened.set()
    assert list(stream) == ["rains."]
    assert scripted.seen[0].body["stream"] is True
    assert scripted.seen[0].body["max_tokens"] == 5


@pytest.mark.parametrize("chunked", [True, False])
def test_a_stream_that_is_closed_early_closes_its_connection(
    server: PopenServer, scripted: Server, chunked: bool
) -> None:
    hangup = Hangup()
    parts: list[bytes | Step] = [event("It "), hangup.step, event("rains.")]
    scripted.answers[CHAT] = Scripted(parts, kind=EVENTS, chunked=chunked)
    for piece in server.stream_chat("Hello"):
        assert piece == "It "
        break
    hangup.await_()


def test_only_the_first_choice_is_told(server: PopenServer, scripted: Server) -> None:
    second = event(choices=[{"index": 1, "delta": {"content": "Two"}}])
    scripted.answers[CHAT] = Scripted([second, event("One"), second, DONE], kind=EVENTS)
    assert list(server.stream_chat("Hello", n=2)) == ["One"]


def test_an_error_within_a_stream(server: PopenServer, scripted: Server) -> None:
    error = b'data: {"error":{"message":"out of memory","code":500}}\n\n'
    scripted.answers[CHAT] = Scripted([event("It "), error], kind=EVENTS)
    stream = server.stream_chat("Hello")
    assert next(stream) == "It "
    with pytest.raises(RequestError, match="the stream tells of an error: out of memory"):
        next(stream)


def test_a_stream_that_breaks_off(server: PopenServer, scripted: Server) -> None:
    scripted.answers[CHAT] = Scripted([event("It ")], kind=EVENTS, whole=False)
    stream = server.stream_chat("Hello")
    assert next(stream) == "It "
    with pytest.raises(RequestError, match=r"POST /v1/chat/completions: ChunkedEncodingError"):
        next(stream)


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'"{\\"object\\":\\"error\\",\\"message\\":\\"too long\\",\\"code\\":400}"', "too long"),
        (b'{"detail":"Invalid API Key"}', "Invalid API Key"),
        (b'{"error":{"message":"no such model","type":"x"}}', "no such model"),
        (b'{"error":"busy"}', "busy"),
        (b'{"detail":[{"loc":["body","n"]}]}', '[{"loc": ["body", "n"]}]'),
        (b"Internal Server Error", "Internal Server Error"),
        (b"{}", "{}"),
        (b"null", "null"),
        (b"", "nothing more"),
        (b"x" * 1000, "x" * 500),
    ],
)
def test_what_the_server_says_is_told(
    server: PopenServer, scripted: Server, body: bytes, told: str
) -> None:
    scripted.answers[CHAT] = Scripted([body] if body else [], 418, chunked=False)
    with pytest.raises(RequestError) as failed:
        server.chat("Hello")
    assert str(failed.value) == f"POST {CHAT} answers 418: {told}"
    assert (failed.value.status, failed.value.body) == (418, body.decode())
    with pytest.raises(RequestError, match="answers 418"):
        next(server.stream_chat("Hello"))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"<html>", "answers no JSON: <html>"),
        (b"[]", r"answers no completion: \[\]"),
        (b'{"choices":[]}', "answers no completion"),
        (b'{"choices":[{"message":null}]}', "answers no completion"),
    ],
)
def test_what_is_no_answer(server: PopenServer, scripted: Server, body: bytes, told: str) -> None:
    scripted.answers[CHAT] = Scripted([body], chunked=False)
    with pytest.raises(RequestError, match=told) as failed:
        server.chat("Hello")
    assert failed.value.status == 200


@pytest.mark.parametrize("begun", [False, True])
def test_a_server_that_takes_too_long(server: PopenServer, scripted: Server, begun: bool) -> None:
    hangup = Hangup()
    parts: list[bytes | Step] = [event("It "), hangup.step] if begun else [hangup.step]
    scripted.answers[CHAT] = Scripted(parts, kind=EVENTS)
    with pytest.raises(RequestError, match=r"(answered|answer came) within 0.1 s"):
        list(server.stream_chat("Hello", timeout=0.1))
    hangup.await_()


def test_a_server_that_is_not_there(server: PopenServer, scripted: Server) -> None:
    scripted.shutdown()
    scripted.server_close()
    with pytest.raises(RequestError, match=r"GET /metrics: .*Connection refused"):
        server.metrics()


def test_a_server_that_was_not_started(model_dir: str) -> None:
    server = PopenServer(model_dir)
    for ask in (lambda: server.chat("x"), server.metrics, lambda: next(server.stream_chat("x"))):
        with pytest.raises(RequestError, match="the server is not started: <PopenServer engine="):
            ask()


def test_a_server_that_dies_of_the_request(standin: Callable[..., PopenServer]) -> None:
    server = standin(api_key="sk-1")
    server.start()
    assert server.complete("Hello") == "x"
    with pytest.raises(RequestError, match=r"the server's process ended \(killed by SIGSEGV"):
        server.complete("crash")
    with pytest.raises(RequestError, match=r"POST /v1/completions: the server's process ended"):
        server.complete("Hello")


@linux
def test_a_server_that_dies_is_told_of_although_its_guardian_is_late(
    standin: Callable[..., PopenServer],
) -> None:
    server = standin()
    server.start()
    keeper = Kin.of(server).keeper
    os.kill(keeper, signal.SIGSTOP)
    late = threading.Timer(3 * requesting.HEARD_WITHIN, os.kill, (keeper, signal.SIGCONT))
    late.start()
    try:
        with pytest.raises(RequestError, match=r"the server's process ended \(killed by SIGSEGV"):
            server.complete("crash")
    finally:
        late.join()


def test_a_server_that_is_wedged(standin: Callable[..., PopenServer]) -> None:
    server = standin()
    server.start()
    # On a busy machine its guardian may be sooner than the time limit.
    with pytest.raises(RequestError, match=r"not answered within 0.1 s|the server is wedged: "):
        server.complete("wedge", timeout=0.1)
    await_(lambda: server.poll() == "wedged", "the guardian's word of it")
    with pytest.raises(RequestError, match=r"POST .*: the server is wedged: .*\n.*params_shard_0"):
        server.complete("Hello")


def test_a_server_that_works_has_its_log_named(standin: Callable[..., PopenServer]) -> None:
    server = standin()
    server.start()
    with pytest.raises(RequestError) as failed:
        server.complete("busy", timeout=0.1)
    assert f"the server works; its log: {server.log_path}" in str(failed.value)


# --- the rest -------------------------------------------------------------------------------------


def test_the_simulator_answers(sim: PopenServer) -> None:
    sim.reset()
    assert sim.metrics().prompt_tokens == 0
    answer = sim.chat("Hello", max_tokens=4)
    whole = sim.chat("Hello")
    assert whole.startswith(answer)
    assert (answer.finish_reason, answer.usage["completion_tokens"]) == ("length", 4)
    assert "".join(sim.stream_chat("Hello")) == whole
    assert sim.complete("Hello", max_tokens=8).usage["completion_tokens"] <= 8
    counted = sim.metrics()
    assert (counted.prompt_tokens or 0) > (counted.completion_tokens or 0) > 8
    assert counted["decode_time_by_batch_size_count{batch_size=1}"] > 0


def test_requests_of_generations_are_recorded(sim: PopenServer, tmp_path: Path) -> None:
    start = time.time()
    answer = sim.chat("Hello", max_tokens=4)
    list(sim.stream_chat("Hello", max_tokens=3))
    with pytest.raises(RequestError):
        sim.complete("Hello", n=0)
    sim.metrics()
    sim.dump_trace(tmp_path / "trace.json")
    sim.reset()
    found = exchanges.since(sim.base_url, start)
    assert [(one.path, one.status, one.completion_tokens) for one in found] == [
        (CHAT, 200, 4),
        (CHAT, 200, 3),
        ("/v1/completions", 500, None),
    ]
    assert found[0].prompt_tokens == answer.usage["prompt_tokens"]
    assert all(one.seconds is not None and one.error == "" for one in found)


def test_a_trace_has_a_line_for_each_request(sim: PopenServer, tmp_path: Path) -> None:
    answer = sim.chat("Hello", max_tokens=2)
    path = sim.dump_trace(tmp_path / "new" / "trace.json")
    assert path == tmp_path / "new" / "trace.json"
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    threads = {one["args"]["name"]: one["tid"] for one in events if one["ph"] == "M"}
    own = [one for one in events if one["ph"] != "M" and one["tid"] == threads[answer.body["id"]]]
    assert {"receive request (0)", "prefill (0)"} <= {one["name"] for one in own}
    assert all(isinstance(one["tid"], int) for one in events)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "dump_trace needs the event trace, and enable_tracing = False; --mlc-tracing"),
        (
            {"enable_debug": False, "enable_tracing": True},
            "dump_trace needs the server's debug endpoints, and enable_debug = False; --mlc-debug",
        ),
    ],
)
def test_a_trace_that_is_not_kept(
    tmp_path: Path, model_dir: str, options: dict[str, bool], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        PopenServer(model_dir, **options).dump_trace(tmp_path / "trace.json")  # type: ignore[arg-type]
    assert list(tmp_path.glob("*trace*")) == []


def test_an_external_server_itself_says_that_it_keeps_no_trace(
    server: PopenServer, scripted: Server, tmp_path: Path
) -> None:
    words = 'The requested model "m" does not enable tracing'
    text = json.dumps({"object": "error", "message": words, "code": 400})
    scripted.answers["/debug/dump_event_trace"] = said(text, 400)
    with pytest.raises(RequestError, match="answers 400: The requested model"):
        server.dump_trace(tmp_path / "trace.json")
    assert list(tmp_path.glob("*trace*")) == []


def test_a_reset_without_debug_endpoints(model_dir: str) -> None:
    with pytest.raises(ConfigError, match="reset needs the server's debug endpoints, and enable_"):
        PopenServer(model_dir, enable_debug=False).reset()
