"""What a test tells the simulator, and what it learns from it: rules, replies, records."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import MLCSim, PopenServer, Reply
from tests.conftest import WATCHDOG
from tests.support_sim import ECHO, TOOL, answer, chat, post, stream
from tests.support_sim import server as server
from tests.support_sim import sim as sim

# --- which requests a rule is for -----------------------------------------------------------------

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Is it warm?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": [{"type": "text", "text": "Will it rain in Oslo?"}]},
]


@pytest.mark.parametrize(
    "conditions",
    [
        {"containing": "rain"},
        {"regex": r"rain in (Oslo|Bergen)\?$"},
        {"conversation": "Be brief."},
        {"conversation_regex": r"user: Is it warm\?\nassistant: Yes"},
        {"endpoint": "chat"},
        {"endpoint": "/v1/chat/completions"},
        {"model": "m"},
        {"tools": ["get_weather"]},
        {"tools": "get_weather"},
        {"headers": {"X-Tenant": "a"}},
        {"call": 1},
        {"call": [2, 1]},
        {"containing": "rain", "endpoint": "chat", "tools": ["get_weather"], "call": 1},
        {},
    ],
)
def test_a_rule_is_for_requests_with_which_its_conditions_hold(
    conditions: dict[str, Any], sim: MLCSim
) -> None:
    rule = sim.when(**conditions, name="mine").reply("matched")
    body = {"model": "m", "messages": CONVERSATION, "tools": [TOOL], "tool_choice": "auto"}
    got = post(sim.server, "chat/completions", body, headers={"X-Tenant": "a"})
    assert got.status_code == 200, got.text
    (request,) = rule.assert_called(times=1)
    assert request.rule == rule.id


@pytest.mark.parametrize(
    "conditions",
    [
        {"containing": "snow"},
        {"regex": "^snow"},
        {"conversation": "snow"},
        {"endpoint": "completions"},
        {"model": "other"},
        {"tools": ["get_time"]},
        {"headers": {"X-Tenant": "a"}},
        {"call": 2},
    ],
)
def test_it_is_for_no_others(conditions: dict[str, Any], sim: MLCSim) -> None:
    rule = sim.when(**conditions).reply("matched")
    assert answer(sim.server, "rain", model="m") == ECHO
    rule.assert_not_called()
    with pytest.raises(AssertionError, match=r"at least one request with rule-1, when\("):
        rule.assert_called()


def test_the_first_rule_that_fits_counts_as_often_as_it_may(sim: MLCSim) -> None:
    first = sim.when("weather", times=2).reply("first")
    sim.when("weather").reply("second")
    assert [answer(sim.server, "weather") for _ in range(3)] == ["first", "first", "second"]
    assert len(first.calls) == 2


def test_a_rule_that_is_removed_answers_nothing_more(sim: MLCSim) -> None:
    rule = sim.when("weather").reply("Sunny")
    assert answer(sim.server, "weather") == "Sunny"
    rule.remove()
    assert answer(sim.server, "weather") == ECHO
    assert len(rule.calls) == 1


# --- what is answered -----------------------------------------------------------------------------


def test_replies_come_one_after_the_other_and_the_last_goes_on(sim: MLCSim) -> None:
    sim.when("a").reply("1", {"b": 2}, Reply.text("3"))
    got = [answer(sim.server, "a") for _ in range(4)]
    assert [got[0], json.loads(got[1]), *got[2:]] == ["1", {"b": 2}, "3", "3"]
    sim.when("x").reply_sequence(Reply.fail(503), "then")
    assert [chat(sim.server, "x").status_code for _ in range(2)] == [503, 200]


def test_chunks_are_the_events_of_a_stream(sim: MLCSim) -> None:
    sim.when("weather").reply(chunks=["Sun", "ny, ", "mostly"])
    deltas = [
        json.loads(data)["choices"] for data in stream(sim.server, "weather") if data[0] == "{"
    ]
    texts = [choices[0]["delta"].get("content") for choices in deltas if choices]
    assert [text for text in texts if text] == ["Sun", "ny, ", "mostly"]
    assert answer(sim.server, "weather") == "Sunny, mostly"


def test_a_files_text_and_a_value_as_json(sim: MLCSim, tmp_path: Path) -> None:
    (tmp_path / "answer.txt").write_text("Grüße\n")
    sim.when("file").reply_file(tmp_path / "answer.txt")
    sim.when("json").reply_json({"city": "Oslo"})
    assert answer(sim.server, "file") == "Grüße\n"
    assert json.loads(answer(sim.server, "json")) == {"city": "Oslo"}
    with pytest.raises(FileNotFoundError):
        sim.when("none").reply_file(tmp_path / "none.txt")


def test_a_tool_is_called(sim: MLCSim) -> None:
    rule = sim.when("weather", tools=["get_weather"]).call_tool("get_weather", city="Oslo")
    got = chat(sim.server, "weather", tools=[TOOL]).json()["choices"][0]
    (call,) = got["message"]["tool_calls"]
    assert got["finish_reason"] == "tool_calls"
    assert call["function"]["name"] == "get_weather"
    arguments = call["function"]["arguments"]
    assert (json.loads(arguments) if isinstance(arguments, str) else arguments) == {"city": "Oslo"}
    assert rule.calls[0].tools == ["get_weather"]


def test_random_text_follows_from_its_seed(sim: MLCSim) -> None:
    sim.when("a").reply_random(seed=3, tokens=12)
    first, again = (answer(sim.server, "a") for _ in range(2))
    sim.default("random", seed=3)
    assert first == again != "a"
    assert answer(sim.server, "b", max_tokens=4) == answer(sim.server, "b", max_tokens=4) != "b"


def test_what_is_unsaid_is_echoed(sim: MLCSim) -> None:
    sim.default("random")
    sim.when("e").reply_echo()
    assert answer(sim.server, "e") == ECHO


# --- functions ------------------------------------------------------------------------------------


def test_a_function_of_the_test_answers(sim: MLCSim) -> None:
    sim.when("text").reply_with(lambda request: request.last_message.upper())
    sim.when("json").reply_with(lambda request: {"stream": request.stream})
    sim.when("fail").reply_with(lambda _: Reply.fail(429, headers={"retry-after": "1"}))
    sim.when("tool").reply_with(lambda request: Reply.tool_call(request.tools[0], city="Oslo"))
    assert answer(sim.server, "text") == "TEXT"
    assert json.loads(answer(sim.server, "json")) == {"stream": False}
    failed = chat(sim.server, "fail")
    assert (failed.status_code, failed.headers["retry-after"]) == (429, "1")
    message = chat(sim.server, "tool", tools=[TOOL]).json()["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["name"] == "get_weather"


def test_functions_answer_at_the_same_time(sim: MLCSim) -> None:
    both = threading.Barrier(2, timeout=WATCHDOG)

    def meet(_request: object) -> str:
        return f"met {both.wait() in (0, 1)}"

    sim.when("a").reply_with(meet)
    with ThreadPoolExecutor(2) as executor:
        got = list(executor.map(lambda _: answer(sim.server, "a"), range(2)))
    assert got == ["met True", "met True"]


def test_an_exception_in_a_function_fails_the_test_with_its_traceback(server: PopenServer) -> None:
    def wrong(_request: object) -> str:
        raise LookupError("no such city")

    sim = MLCSim(server)
    sim.clear()
    sim.when("a").reply_with(wrong)
    response = chat(server, "a")
    assert response.status_code == 500
    assert "no such city" in response.text
    with pytest.raises(AssertionError, match="LookupError: no such city") as caught:
        sim.end()
    assert "in wrong" in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "TypeError: no answer is None"),
        ({"a": float("nan")}, "JSON"),
        (Reply({"txt": "a"}), "txt"),
        (Reply.fail(200), "status"),
    ],
)
def test_a_function_that_returns_no_answer_fails_the_test(
    returned: object, said: str, server: PopenServer
) -> None:
    sim = MLCSim(server)
    sim.clear()
    sim.when("a").reply_with(lambda _: returned)
    assert chat(server, "a").status_code == 500
    with pytest.raises(AssertionError, match=said):
        sim.end()


def test_a_function_whose_caller_has_gone_is_no_error(server: PopenServer) -> None:
    going = threading.Event()
    with MLCSim(server) as sim:
        sim.when("a").reply_with(lambda _: str(going.wait(WATCHDOG)), timeout=0.05)
        assert chat(server, "a").status_code == 500  # it took too long
        going.set()


# --- what was asked -------------------------------------------------------------------------------


def test_requests_are_parsed(sim: MLCSim) -> None:
    sim.when("weather").reply("Sunny")
    body = {"model": "m", "messages": CONVERSATION, "tools": [TOOL], "stream": False}
    post(sim.server, "chat/completions?a=b", body, headers={"X-Tenant": "A"})
    post(sim.server, "completions", {"prompt": "Once", "max_tokens": 2})
    chat(sim.server, "the weather?")
    first, second, third = sim.requests
    assert (first.method, first.path, first.query) == ("POST", "/v1/chat/completions", "a=b")
    assert (first.endpoint, first.model, first.stream) == ("chat", "m", False)
    assert first.messages == CONVERSATION
    assert first.last_message == "Will it rain in Oslo?"
    assert first.conversation.startswith("system: Be brief.\nuser: Is it warm?\nassistant: Yes.\n")
    assert first.tools == ["get_weather"]
    assert first.json == body == json.loads(first.body)
    assert first.headers["X-Tenant"] == first.headers["x-tenant"] == "A"
    assert first.headers.get("x-TENANT") == "A"
    assert "X-Tenant" in first.headers
    assert "X-Other" not in first.headers
    assert (second.endpoint, second.prompt, second.last_message) == ("completions", "Once", "Once")
    assert second.messages == second.tools == []
    assert (third.status, third.reply, third.rule, third.finished) == (200, "Sunny", "rule-1", True)
    assert sim.last_request == third
    assert (first.rule, first.unmatched) == (
        None,
        (("rule-1", "'weather' is not in the last message, 'Will it rain in Oslo?'"),),
    )


def test_what_is_no_json_is_recorded_too(sim: MLCSim) -> None:
    import requests

    url = f"{sim.server.openai_v1_base_url}/completions"
    requests.post(url, data=b"{nonsense", timeout=WATCHDOG)
    requests.post(url, json=["list"], timeout=WATCHDOG)
    first, second = sim.requests
    assert (first.json, first.body, first.status) == (None, "{nonsense", 422)
    assert (second.json, second.prompt, second.messages, second.stream) == (
        ["list"],
        None,
        [],
        False,
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_a_record_is_complete_before_the_answer_ends(streaming: bool, sim: MLCSim) -> None:
    sim.when().reply("a b c")
    for number in range(1, 21):
        if streaming:
            assert list(stream(sim.server, "a b c"))[-1] == "[DONE]"
        else:
            answer(sim.server, "a b c")
        assert [(one.finished, one.reply) for one in sim.requests] == [(True, "a b c")] * number


def test_requests_of_other_processes_and_threads_are_seen(sim: MLCSim) -> None:
    code = "import sys, requests; requests.post(sys.argv[1], json={'prompt': 'child'}, timeout=60)"
    url = f"{sim.server.openai_v1_base_url}/completions"
    subprocess.run([sys.executable, "-c", code, url], check=True, timeout=WATCHDOG)
    with ThreadPoolExecutor(8) as executor:
        rules = list(executor.map(lambda n: sim.when(f"<{n}>").reply(f"={n}"), range(40)))
        texts = list(executor.map(lambda n: answer(sim.server, f"<{n}>"), range(40)))
    assert texts == [f"={n}" for n in range(40)]
    assert all(len(rule.calls) == 1 for rule in rules)
    assert sim.requests[0].prompt == "child"
    assert len(sim.requests) == 41


@pytest.mark.parametrize(
    ("criteria", "count"),
    [
        ({}, 3),
        ({"containing": "Oslo"}, 2),
        ({"regex": "^Oslo"}, 1),
        ({"conversation": "user: in"}, 1),
        ({"endpoint": "chat"}, 2),
        ({"endpoint": "/v1/completions"}, 1),
        ({"model": "m"}, 1),
        ({"tools": ["get_weather"]}, 1),
        ({"tools": "get_weather"}, 1),
        ({"headers": {"Content-Type": "application/json"}}, 3),
        ({"stream": True}, 1),
        ({"status": 200}, 3),
        ({"endpoint": "chat", "containing": "weather"}, 0),
    ],
)
def test_calls_are_found_and_counted(criteria: dict[str, Any], count: int, sim: MLCSim) -> None:
    answer(sim.server, "in Oslo", model="m", tools=[TOOL])
    list(stream(sim.server, "Oslo"))
    post(sim.server, "completions", {"prompt": "weather"})
    assert len(sim.calls(**criteria)) == count
    assert len(sim.assert_called(times=count, **criteria)) == count
    with pytest.raises(AssertionError, match=r"\nwhat was asked:\n  1\. POST /v1/chat/comple"):
        sim.assert_called(times=count + 1, **criteria)
    if count:
        sim.assert_called(**criteria)
        with pytest.raises(AssertionError, match=f"expected no request.*there were {count}"):
            sim.assert_not_called(**criteria)
    else:
        sim.assert_not_called(**criteria)
        with pytest.raises(AssertionError, match="at least one request with containing='weather'"):
            sim.assert_called(**criteria)


def test_the_error_shows_what_was_asked_instead(sim: MLCSim) -> None:
    sim.when("rain").reply("Wet")
    answer(sim.server, "Will it rain?", tools=[TOOL])
    with pytest.raises(AssertionError) as caught:
        sim.assert_called("snow", times=1, endpoint="chat")
    assert str(caught.value) == (
        "expected 1 request with containing='snow', endpoint='chat'; there were none\n"
        "what was asked:\n"
        "  1. POST /v1/chat/completions 'Will it rain?', tools get_weather -> 200 (rule-1)"
    )
    sim.clear()
    with pytest.raises(AssertionError, match="what was asked: nothing at all"):
        sim.assert_called("snow")
    with pytest.raises(AssertionError, match="asked nothing yet"):
        _ = sim.last_request


# --- nothing unexpected ---------------------------------------------------------------------------


def test_what_no_rule_is_for_fails_where_it_must_not_be(server: PopenServer) -> None:
    sim = MLCSim(server)
    sim.clear()
    sim.default("fail")
    sim.when("weather", name="forecast").reply("Sunny")
    assert answer(server, "weather") == "Sunny"
    sim.verify()
    assert chat(server, "snow").status_code == 500
    sim.default("echo")
    answer(server, "rain")  # now it may be
    with pytest.raises(AssertionError) as caught:
        sim.end()
    assert str(caught.value).splitlines()[1:] == [
        "  POST /v1/chat/completions 'snow' -> 500 (no rule)",
        "    rule-1 (forecast): 'weather' is not in the last message, 'snow'",
    ]


def test_a_fault_that_was_asked_for_is_nothing_unexpected(sim: MLCSim) -> None:
    sim.default("fail")
    sim.fail(503)
    assert chat(sim.server, "a").status_code == 503


def test_clear_forgets_everything(sim: MLCSim) -> None:
    sim.default("fail")
    sim.when("a").reply("b")
    sim.fail(503)
    sim.latency(ttft=WATCHDOG)
    chat(sim.server, "a")
    sim.clear()
    assert sim.requests == []
    assert answer(sim.server, "a") == ECHO
