"""What of an answer does not depend on what a model says.

The real model's weights are random, so that its text says nothing. Compared are therefore, of each
body and of each event: the names of all members and their order, the types of all values, the
values of all members but those that follow from the text, the number of tokens of the prompt, that
the usage adds up, and that the reason to finish is one that fits the number of tokens. Of a stream:
its framing, and the kinds of its events in their order; runs of events that only add text count as
one, of any length.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from tests.contract.replaying import without_run

if TYPE_CHECKING:
    from collections.abc import Iterator

# What the model says, or what follows from it.
_SAID = {"content", "text", "token", "tokens", "bytes", "logprob", "finish_reason"}
_MEASURED = re.compile(r".*(_s|_sum|_tokens|batch_size=\d+})$")
_FINISHED = {"length", "stop", "tool_calls", "error"}


def shape(value: Any, key: str = "") -> Any:
    """Return what is left of a JSON value without what the model says and the clock measures."""
    if key in _SAID and not (key == "content" and isinstance(value, list)):
        return _kind(value)
    if key in ("top_logprobs", "token_logprobs") and isinstance(value, list):
        return [_kind(item) for item in value[:1]]
    if isinstance(value, dict):
        return {name: shape(member, name) for name, member in value.items()}
    if isinstance(value, list) and key == "content":
        # The entries of as many tokens as have text of their own.
        return [shape(item) for item in value[:1]]
    if isinstance(value, list):
        return [shape(item) for item in value]
    if _MEASURED.match(key) and key != "prompt_tokens":
        return _kind(value)
    return without_run(value, key)


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def usage_differences(body: Any, request: Any) -> Iterator[str]:
    """Yield what does not add up in a body with a usage."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return
    if usage["prompt_tokens"] + usage["completion_tokens"] != usage["total_tokens"]:
        yield f"usage does not add up: {usage}"
    reasons = [choice["finish_reason"] for choice in body["choices"]]
    limit = int(request.get("max_tokens") or 0) if isinstance(request, dict) else 0
    if not set(reasons) <= _FINISHED:
        yield f"unknown reasons to finish: {reasons}"
    if limit > 0 and usage["completion_tokens"] > limit * max(1, len(reasons)):
        yield f"{usage['completion_tokens']} tokens are more than {limit} for each choice"
    cut = 0 < limit < 2**31 and set(reasons) == {"length"}
    if cut and usage["completion_tokens"] != limit * len(reasons):
        yield f"{usage['completion_tokens']} tokens are not {limit} for each choice"


def events_of(text: str) -> list[Any]:
    """Take a stream apart; what is not framed as it should be is an error."""
    *events, done, end = text.split("\n\n")
    assert (done, end) == ("data: [DONE]", ""), text[-200:]
    assert all(event.startswith("data: {") and "\n" not in event for event in events), text
    bodies = [json.loads(event.removeprefix("data: ")) for event in events]
    for event, body in zip(events, bodies, strict=True):
        # Compact and not escaped, as pydantic writes it.
        assert event == f"data: {to_json(body).decode()}"
    return bodies


def kind_of(event: Any) -> str:
    if not event["choices"]:
        return "usage"
    if any(choice["finish_reason"] for choice in event["choices"]):
        return "end"
    return "text"


def outline(events: list[Any]) -> list[tuple[str, str]]:
    """Return the kinds of events in their order, each with its shape; runs count as one.

    A run of text may be empty: a stop string may end the reply with its first token.
    """
    described = [(kind_of(event), json.dumps(shape(event))) for event in events]
    return [entry for entry, _ in groupby(described) if entry[0] != "text"]


def text_shapes(events: list[Any]) -> set[str]:
    return {json.dumps(shape(event)) for event in events if kind_of(event) == "text"}


def metric_names(text: str) -> list[str]:
    """Return the lines of ``/metrics`` without their values."""
    names = [line.partition("\t")[0] for line in text.splitlines()]
    names = [re.sub(r"batch_size=\d+", "batch_size=N", name) for name in names]
    return [name for name, _ in groupby(names)]


def first_request(trace: list[Any]) -> list[Any]:
    """Return what a trace says of its first request; threads of a real engine race each other."""
    events = [
        without_run(event)
        for event in trace
        # Whether a token is text at once or waits for the next one depends on what is said.
        if event["tid"] == trace[0]["tid"] and not event["name"].startswith(("skip", "yield delta"))
    ]
    return sorted(events, key=json.dumps)
