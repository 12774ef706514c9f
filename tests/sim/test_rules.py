"""Which rule answers which request, with what."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim.scripted import CHAT, COMPLETIONS, TestDoor, content, conversation, events, streamed

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}},
}

DIALOGUE = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "up?"}],
    },
    {"role": "assistant", "content": "The sky."},
    {"role": "user", "content": "And the weather in Oslo?"},
]


@pytest.mark.parametrize(
    ("when", "matches"),
    [
        ({}, True),
        ({"endpoint": "chat"}, True),
        ({"endpoint": CHAT}, True),
        ({"endpoint": "completions"}, False),
        ({"model": "any-model"}, True),
        ({"model": "any"}, False),
        ({"last_message": "weather in Oslo"}, True),
        ({"last_message": "sky"}, False),
        ({"last_message_regex": "^And .* (Oslo|Bergen)"}, True),
        ({"last_message_regex": "oslo"}, False),
        ({"last_message_regex": "(?i)oslo"}, True),
        ({"conversation": "What is up?"}, True),
        ({"conversation": "assistant: The sky."}, True),
        ({"conversation": "Bergen"}, False),
        ({"conversation_regex": r"(?s)^system: Be brief\..*Oslo\?$"}, True),
        ({"conversation_regex": "^user"}, False),
        ({"tools": ["get_weather"]}, True),
        ({"tools": ["get_weather", "get_time"]}, False),
        ({"headers": {"X-Tenant": "a"}}, True),
        ({"headers": {"x-tenant": "b"}}, False),
        ({"headers": {"x-other": "a"}}, False),
        ({"last_message": "weather", "conversation": "sky", "headers": {"x-tenant": "a"}}, True),
        ({"last_message": "weather", "conversation": "sea"}, False),
    ],
)
def test_matching(door: TestDoor, when: dict[str, Any], matches: bool) -> None:
    door.rule({"text": "matched"}, when=when)
    body = {"messages": DIALOGUE, "model": "any-model", "tools": [TOOL]}
    assert door.post(CHAT, body, headers={"X-Tenant": "a"}).status_code == 200
    (request,) = door.requests
    assert request["rule"] == ("rule-1" if matches else None)
    assert (request["unmatched"] is None) is matches


@pytest.mark.parametrize(
    "prompt", ["the weather today", [116, 104, 101, 32, 119, 101, 97, 116, 104, 101, 114]]
)
def test_a_prompt_is_the_last_message_and_the_conversation(
    door: TestDoor, prompt: str | list[int]
) -> None:
    if isinstance(prompt, list):
        # Any ids: what text they are is for the tokenizer to say, and echo says it.
        echoed = content(door.post(COMPLETIONS, {"prompt": prompt, "echo": True, "max_tokens": 1}))
        text = echoed[:2]
    else:
        text = "weather"
    when = {"endpoint": "completions", "last_message": text, "conversation": f"user: {prompt}"}
    if isinstance(prompt, list):
        del when["conversation"]
    door.rule({"text": "matched"}, when=when)
    assert content(door.post(COMPLETIONS, {"prompt": prompt})) == "matched"


def test_tools_are_not_offered_where_the_choice_is_none(door: TestDoor) -> None:
    door.rule({"text": "matched"}, when={"tools": ["get_weather"]})
    assert content(door.chat(tools=[TOOL], tool_choice="none")) != "matched"
    assert door.requests[-1]["unmatched"] == [
        {"rule": "rule-1", "reason": "the tool get_weather is not offered, but none"}
    ]


def test_the_first_rule_that_matches_answers(door: TestDoor) -> None:
    door.rule({"text": "one"}, when={"last_message": "first"})
    door.rule({"text": "two"})
    door.rule({"text": "three"})
    assert content(door.chat("the first")) == "one"
    assert content(door.chat("another")) == "two"
    hits = [(rule["id"], rule["hits"]) for rule in door.tell("GET", "/rules")]
    assert hits == [("rule-1", 1), ("rule-2", 1), ("rule-3", 0)]


def test_a_rule_is_used_up(door: TestDoor) -> None:
    door.rule({"text": "twice"}, times=2)
    door.rule({"text": "then"})
    assert [content(door.chat()) for _ in range(4)] == ["twice", "twice", "then", "then"]


def test_a_sequence_of_replies_ends_in_its_last_one(door: TestDoor) -> None:
    door.rule(replies=[{"text": "a"}, {"fault": {"kind": "status", "status": 503}}, {"text": "b"}])
    assert content(door.chat()) == "a"
    assert door.chat().status_code == 503
    assert [content(door.chat()) for _ in range(2)] == ["b", "b"]


@pytest.mark.parametrize(
    ("call", "expected"), [(2, ["no", "yes", "no"]), ([1, 3], ["yes", "no", "yes"])]
)
def test_a_call_is_counted_among_those_that_match_otherwise(
    door: TestDoor, call: int | list[int], expected: list[str]
) -> None:
    door.rule({"text": "yes"}, when={"call": call, "last_message": "me"})
    door.rule({"text": "no"})
    assert content(door.chat("other")) == "no"
    assert [content(door.chat("me")) for _ in range(3)] == expected


def test_a_deleted_rule_answers_no_more(door: TestDoor) -> None:
    rule = door.rule({"text": "gone"})
    door.tell("DELETE", f"/rules/{rule}")
    assert content(door.chat()) != "gone"
    assert door.control("DELETE", f"/rules/{rule}").status_code == 404


# --- what a reply comes to ------------------------------------------------------------------------


def test_a_text_where_tools_are_on_offer_is_taken_for_a_call_as_by_the_real_server(
    door: TestDoor,
) -> None:
    door.rule({"text": "It is sunny."})
    choice = door.chat(tools=[TOOL]).json()["choices"][0]
    assert choice["finish_reason"] == "error"
    assert choice["message"]["content"] == "It is sunny."


def test_a_text_is_counted_and_cut_as_a_model_s(door: TestDoor) -> None:
    door.rule({"text": "one two three four"})
    whole = door.chat().json()
    tokens = whole["usage"]["completion_tokens"]
    assert tokens > 4
    assert whole["choices"][0]["finish_reason"] == "stop"
    cut = door.chat(max_tokens=3).json()
    assert cut["usage"]["completion_tokens"] == 3
    assert cut["choices"][0]["finish_reason"] == "length"
    assert "one two three four".startswith(cut["choices"][0]["message"]["content"])
    assert content(door.chat(stop=" three")) == "one two"
    both = door.chat(n=2).json()["choices"]
    assert [choice["message"]["content"] for choice in both] == ["one two three four"] * 2


def test_a_text_is_streamed(door: TestDoor) -> None:
    door.rule({"text": "Grüße aus Tromsø 🐟"})
    answer = door.chat(stream=True, stream_options={"include_usage": True})
    *said, usage = events(answer.text)
    text = "".join(event["choices"][0]["delta"]["content"] for event in said)
    assert text == "Grüße aus Tromsø 🐟"
    assert usage["usage"] == door.chat().json()["usage"]


def test_chunks_are_the_events_of_a_stream(door: TestDoor) -> None:
    chunks = ["Sun", "ny, with", " a chance", " of rain"]
    door.rule({"chunks": chunks})
    found = events(door.chat(stream=True).text)
    said = [event["choices"][0]["delta"]["content"] for event in found]
    assert [text for text in said if text] == chunks
    assert content(door.chat()) == "".join(chunks)


def test_json_is_written_as_text(door: TestDoor) -> None:
    door.rule({"json": {"city": "Tromsø", "degrees": [-3, 1.5, None, True]}})
    assert content(door.chat()) == '{"city": "Tromsø", "degrees": [-3, 1.5, null, true]}'


def test_an_explicit_text_is_given_whatever_the_response_format(door: TestDoor) -> None:
    door.rule({"text": "this is not JSON"}, when={"last_message": "rule"})
    form = {"type": "json_object", "schema": '{"type": "object"}'}
    assert content(door.chat("rule", response_format=form)) == "this is not JSON"
    assert content(door.chat("no such", response_format=form)).startswith("{")


def test_a_file_s_text(door: TestDoor, tmp_path: Any) -> None:
    path = tmp_path / "answer.txt"
    path.write_text("from a file\n", encoding="utf-8")
    door.rule({"file": str(path)})
    path.unlink()
    assert content(door.chat()) == "from a file\n"


def test_echo_and_random(door: TestDoor) -> None:
    door.rule({"random": {"seed": 3}}, when={"last_message": "random"})
    door.rule({"random": {"seed": 4}}, when={"last_message": "again: random"})
    door.rule({"echo": True}, when={"last_message": "echo"})
    assert "echo this" in content(door.chat("echo this"))
    first = door.chat("random", max_tokens=20).json()
    assert first["usage"]["completion_tokens"] == 20
    assert first["choices"] == door.chat("random", max_tokens=20).json()["choices"]
    assert first["choices"] != door.chat("random!", max_tokens=20).json()["choices"]


def test_random_has_the_length_it_is_told(door: TestDoor) -> None:
    door.rule({"random": {"tokens": 7}})
    # The token by which a model ends its reply is counted as well, as by the real server.
    assert door.chat().json()["usage"]["completion_tokens"] == 7 + 1


def test_a_seed_of_the_request_counts_before_the_rule_s(door: TestDoor) -> None:
    door.rule(replies=[{"random": {"seed": 1}}, {"random": {"seed": 2}}])
    said = [content(door.chat(max_tokens=20, seed=9)) for _ in range(2)]
    assert said[0] == said[1]


# --- tool calls -----------------------------------------------------------------------------------


def test_tool_calls(door: TestDoor) -> None:
    arguments = {"city": "Oslo", "days": [1, 2], "exact": True, "unit": None, "at": {"hour": 7.5}}
    door.rule({"tool_calls": [{"name": "get_weather", "arguments": arguments}]})
    choice = door.chat(tools=[TOOL]).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert call["function"] == {"name": "get_weather", "arguments": arguments}


def test_several_tool_calls(door: TestDoor) -> None:
    names = ["get_weather", "get_time"]
    door.rule({"tool_calls": [{"name": name} for name in names]})
    choice = door.chat(tools=[TOOL]).json()["choices"][0]
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == names


def test_a_stream_says_tool_calls_as_text_as_the_real_server_does(door: TestDoor) -> None:
    door.rule({"tool_calls": [{"name": "get_weather", "arguments": {"city": "Oslo"}}]})
    answer = door.chat(tools=[TOOL], stream=True)
    assert streamed(answer) == "get_weather(city='Oslo')"
    assert events(answer.text)[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_without_tools_on_offer_a_call_is_only_text(door: TestDoor) -> None:
    door.rule({"tool_calls": [{"name": "get_weather", "arguments": {"city": "Oslo"}}]})
    assert content(door.chat()) == "get_weather(city='Oslo')"


# --- what no rule changes -------------------------------------------------------------------------


def test_a_rule_makes_no_wrong_request_right(door: TestDoor) -> None:
    door.rule({"text": "never"})
    assert door.post(CHAT, {"messages": "x"}).status_code == 422
    assert door.chat(n=0).status_code == 500
    wrong = {"messages": [{"role": "user", "content": "a", "tool_calls": []}]}
    assert door.post(CHAT, wrong).status_code == 400


def test_text_is_not_for_lists_of_models(door: TestDoor) -> None:
    door.rule({"text": "only"}, times=1)
    assert door.sim.http.get(f"{door.url}/v1/models").json()["object"] == "list"
    assert door.sim.http.get(f"{door.url}/metrics").status_code == 200
    assert content(door.chat()) == "only"


def test_a_path_can_fail(door: TestDoor) -> None:
    door.rule({"fault": {"kind": "status", "status": 429}}, when={"endpoint": "models"})
    assert door.sim.http.get(f"{door.url}/v1/models").status_code == 429
    assert door.chat().status_code == 200


def test_the_default_is_echo_and_can_be_random(door: TestDoor) -> None:
    assert "Hello" in content(door.chat())
    door.tell("PUT", "/default", {"default": "random", "seed": 5})
    said = content(door.chat(max_tokens=8))
    assert "Hello" not in said
    assert said == content(door.chat(max_tokens=8))


def test_a_default_that_fails_says_why_no_rule_matched(door: TestDoor) -> None:
    door.tell("PUT", "/default", {"default": "fail"})
    door.rule({"text": "x"}, when={"last_message": "weather"}, name="sun")
    door.rule({"text": "y"}, times=1, when={"endpoint": "chat"})
    assert content(door.chat()) == "y"
    answer = door.chat("What time is it?")
    assert answer.status_code == 500
    assert answer.json() == {
        "object": "error",
        "message": 'The simulator has no rule for POST /v1/chat/completions: "What time is it?"\n'
        "- rule-1 (sun): 'weather' is not in the last message, 'What time is it?'\n"
        "- rule-2: it is used up (times = 1)",
        "code": 500,
    }
    assert door.sim.http.get(f"{door.url}/v1/models").status_code == 200


def test_a_complaint_about_half_a_character(door: TestDoor) -> None:
    door.tell("PUT", "/default", {"default": "fail"})
    answer = door.post(COMPLETIONS, {"prompt": "\ud83d"})
    assert answer.json()["message"] == (
        'The simulator has no rule for POST /v1/completions: "\\ud83d"\nThere are no rules.'
    )


def test_a_rule_may_be_for_a_request_that_the_server_refuses(door: TestDoor) -> None:
    door.rule({"text": "long"}, when={"last_message_regex": "needle$"})
    assert door.post(CHAT, conversation("x" * 5000 + "needle")).status_code == 400
