"""The parts that need no running server: templates, JSON replies, function calls, metrics."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_mlc_server.sim.conversation import Conversation
from pytest_mlc_server.sim.json_reply import json_reply
from pytest_mlc_server.sim.metrics import EngineMetrics, RequestMetrics, prometheus_text
from pytest_mlc_server.sim.tools import parse_calls


def conversation(**fields: Any) -> Conversation:
    template = {"roles": {"user": "U", "assistant": "A"}, "seps": ["|", "/"], "name": "ignored"}
    return Conversation.from_config({**template, "role_content_sep": ":", **fields})


def test_turns_are_separated_and_the_assistant_goes_on() -> None:
    chat = conversation(role_empty_sep=":", system_template="S {system_message};")
    prompt = chat.render([("user", "1"), ("assistant", "2"), ("user", "3")])
    assert prompt == "S ;U:1|A:2/U:3|A:"


def test_first_role_may_belong_to_the_system_message() -> None:
    chat = conversation(system_message="S", add_role_after_system_message=False)
    assert chat.render([("user", "1"), ("user", "2")]) == "S1|U:2|A"


def test_functions_take_the_last_place_for_them() -> None:
    chat = conversation(role_templates={"user": "{function_string}{user_message}"})
    assert chat.render([("user", "1"), ("user", "2")], "F") == "U:1|U:F2|A"


def test_earlier_thoughts_are_left_out() -> None:
    chat = conversation(strip_reasoning_in_history=True)
    assert chat.render([("assistant", "<think>x</think>\n2"), ("user", "3")]) == "A:2/U:3|A"


@pytest.mark.parametrize("message", [("tool", "x"), ("user", [{"type": "image_url"}])])
def test_what_a_template_cannot_write_is_an_error(message: Any) -> None:
    with pytest.raises(ValueError, match=r"supported|Unsupported"):
        conversation().render([message])


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"a": 0}),
        ({"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 2}, ["x", "x"]),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"const": 5}}}, 5),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, False),
        ({"type": ["null", "string"]}, None),
        ({"$ref": "#"}, {}),
    ],
)
def test_reply_fits_the_schema(schema: dict[str, Any], value: Any) -> None:
    assert json.loads(json_reply(json.dumps(schema))) == value


def test_without_a_schema_the_reply_is_an_object() -> None:
    assert isinstance(json.loads(json_reply(None)), dict)


def test_calls_are_read() -> None:
    (call,) = parse_calls('f(a=1, b="x")')
    assert call["function"] == {"name": "f", "arguments": {"a": 1, "b": "x"}}
    assert [c["function"]["name"] for c in parse_calls('["f()", "g()", "1"]')] == ["f", "g"]


def test_metrics_are_written_level_by_level() -> None:
    metrics = EngineMetrics()
    cost = RequestMetrics(3, 3, 2, ttft_s=0.5, end_to_end_latency_s=1.5)
    metrics.add(cost, decode_steps=2)
    lines = prometheus_text(metrics.as_json()).splitlines()
    assert "prompt_tokens_sum\t3" in lines
    assert "last_finished_request_decode_tokens_per_s\t2.0" in lines
    assert "decode_time_by_batch_size_count{batch_size=1}\t1" in lines
    assert lines.index("# /last_finished_request") > lines.index("decode_tokens_per_s\t2.0")
