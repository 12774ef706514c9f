"""Requests that are wrong, or nearly: what the real server's own source makes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sim.simulator import Simulator, SimulatorPool

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}},
}


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return CHAT, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **fields}


def completion(**fields: Any) -> tuple[str, dict[str, Any]]:
    return COMPLETIONS, {"prompt": "hi", "max_tokens": 2, **fields}


def said(*messages: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return chat(messages=list(messages))


USER = {"role": "user", "content": "hi"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}
OPENAI_FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (completion(prompt=[]), "Invalid request prompt []"),
        (completion(best_of=3), 'Request fields "best_of" are not supported right now.'),
        (
            said(USER, {"role": "system", "content": "x"}),
            "System prompt at position 1 in the message list is invalid.",
        ),
        (
            said({**USER, "tool_call_id": "x"}),
            "Non-tool message having `tool_call_id` is invalid.",
        ),
        (
            said({"role": "system", "content": [{"type": "text", "text": "x"}]}),
            "Non-user message having a list of content is invalid.",
        ),
        (
            said({**USER, "tool_calls": [CALL]}),
            "Non-assistant message having `tool_calls` is invalid.",
        ),
        (
            said(USER, {"role": "assistant", "tool_calls": [CALL]}),
            "Assistant message having `tool_calls` is not supported yet.",
        ),
        (
            chat(tools=[TOOL], tool_choice={"type": "x", "function": {"name": "get_weather"}}),
            "Only 'function' tool choice is supported",
        ),
        (
            chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}}),
            "The tool_choice function f is not found in the tools list",
        ),
        (
            chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f", "a": 1}}),
            "Only one tool is supported when tool_choice is specified",
        ),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_refused_with_a_message(
    sim: Simulator, request_: tuple[str, dict[str, Any]], message: str, streamed: bool
) -> None:
    path, body = request_
    response = sim.post(path, {**body, "stream": streamed})
    assert response.status_code == 400
    assert json.loads(response.json()) == {"object": "error", "message": message, "code": 400}


@pytest.mark.parametrize(
    "request_",
    [
        completion(prompt=""),
        completion(n=0),
        completion(n=2**32),
        completion(n=2**32, echo=True),
        completion(temperature=-0.1),
        completion(top_p=-0.1),
        completion(top_p=1.1),
        completion(max_tokens=2**63),
        completion(seed=2**63),
        completion(logit_bias={str(2**31): 1}),
        said({"role": "system"}),
        said(USER, {"role": "tool", "content": "42", "tool_call_id": "x"}),
        said({"role": "user", "content": [{"type": "image_url", "image_url": "data:,"}]}),
        said({"role": "user", "content": [{"type": "audio"}]}),
        said({"role": "user", "content": [{"text": "no type"}]}),
        chat(tools=[TOOL], tool_choice={"function": {"name": "get_weather"}}),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_fails(sim: Simulator, request_: tuple[str, dict[str, Any]], streamed: bool) -> None:
    path, body = request_
    # Behind a status 500 the connection is closed.
    alone = {"Connection": "close"}
    response = sim.post(path, {**body, "stream": streamed}, headers=alone)
    assert (response.status_code, response.text) == (500, "Internal Server Error")


@pytest.mark.parametrize(
    ("request_", "places"),
    [
        (chat(response_format=OPENAI_FORM), [["response_format", "type"]]),
        (
            chat(response_format={"type": "json_object", "schema": {"type": "object"}}),
            [["response_format", "schema"]],
        ),
        (chat(top_logprobs=21, logprobs=True), [[]]),
        (chat(top_logprobs=-1, logprobs=True), [[]]),
        (chat(stream_options={"include_usage": True}), [[]]),
        (chat(debug_config={"special_request": "query_engine_metrics"}), [[]]),
        (chat(frequency_penalty=-2.1), [["frequency_penalty"]]),
        (chat(messages=[{"role": "developer", "content": "x"}]), [["messages", 0, "role"]]),
        (chat(max_tokens=1.5), [["max_tokens"]]),
        (chat(max_tokens="many"), [["max_tokens"]]),
        (
            chat(tool_choice="required"),
            [["tool_choice", "literal['none','auto']"], ["tool_choice", "dict[any,any]"]],
        ),
        (chat(tools=[{"type": "x", "function": {}}]), None),
        (completion(logprobs=6), [[]]),
        (completion(logprobs=-1), [[]]),
        (completion(logit_bias={"1": -101}), [["logit_bias"]]),
        (completion(prompt=[["a"]]), None),
        (completion(stop=5), None),
    ],
)
def test_not_even_a_request(
    sim: Simulator, request_: tuple[str, dict[str, Any]], places: list[Any] | None
) -> None:
    response = sim.post(*request_)
    assert response.status_code == 422
    found = [problem["loc"] for problem in response.json()["detail"]]
    assert places is None or found == [["body", *place] for place in places]


@pytest.mark.parametrize(
    "request_",
    [
        chat(model="another"),
        chat(user=""),
        chat(tools=[TOOL], tool_choice="none"),
        chat(tool_choice="auto"),
        chat(logit_bias={"100000": 1}),
        chat(seed=-1, temperature=1),
        chat(stop=[]),
        chat(messages=[]),
        chat(messages=[{"role": "assistant", "content": "x"}]),
        chat(messages=[{"role": "user"}]),
        completion(prompt=[-5, 5]),
        completion(stream_options={"include_usage": False}),
        completion(logprobs=0),
        completion(frequency_penalty=0),
        completion(debug_config={"ignore_eos": True}),
    ],
)
def test_answered(sim: Simulator, request_: tuple[str, dict[str, Any]]) -> None:
    path, body = request_
    reply = sim.post(path, body).json()
    assert reply["model"] == body.get("model")
    assert reply["choices"][0]["finish_reason"] in ("length", "stop")
    assert reply["usage"]["extra"] is None


def test_text_that_is_no_call_of_a_function(sim: Simulator) -> None:
    path, body = chat(tools=[TOOL], tool_choice="auto")
    choice = sim.post(path, body).json()["choices"][0]
    assert choice["finish_reason"] == "error"
    assert choice["message"]["content"] == "<|im_start|>s"
    streamed = sim.post(path, {**body, "stream": True}).text
    assert '"finish_reason":"tool_calls"' in streamed


def test_the_functions_on_offer_are_in_the_prompt_where_the_template_has_a_place_for_them(
    sim: Simulator,
) -> None:
    # The built-in template has none: with tools or without, the prompt is the same.
    path, body = chat()
    counts = {
        sim.post(path, {**body, **more}).json()["usage"]["prompt_tokens"]
        for more in ({}, {"tools": [TOOL]})
    }
    assert len(counts) == 1


def test_what_fails_behind_an_echo_cuts_the_stream(sim: Simulator) -> None:
    """The prompt is echoed before the engine is asked: by then the status is 200."""
    path, body = completion(echo=True, stream=True, temperature=-1)
    response = sim.post(path, body, stream=True, headers={"Connection": "close"})
    assert response.status_code == 200
    lines = response.iter_lines()
    assert b'"text":"hi"' in next(lines)
    with pytest.raises(Exception, match=r"[Ii]ncomplete|[Pp]rematurely|InvalidChunk"):
        list(lines)


def test_usage_of_the_engine_is_shown_under_debug_alone(simulators: SimulatorPool) -> None:
    path, body = chat(stream=True, stream_options={"include_usage": True})
    for flags, shown in (((), False), (("--enable-debug",), True)):
        events = simulators.get(*flags).post(path, body).text.split("\n\n")
        usage = json.loads(events[-3].removeprefix("data: "))["usage"]
        assert (usage["extra"] is not None) == shown


def test_choices_of_a_stream_come_together(sim: Simulator) -> None:
    path, body = completion(n=2, stream=True)
    events = sim.post(path, body).text.split("\n\n")[:-2]
    indices = [
        [choice["index"] for choice in json.loads(event.removeprefix("data: "))["choices"]]
        for event in events
    ]
    assert indices == [[0, 1], [0, 1]]
