"""The simulator, asked what a real engine was asked, answers in the same form.

Each server of the recordings is started once, and asked in the recorded order, so that what it
counts adds up as it did.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract import shapes
from tests.contract.replaying import (
    comparable,
    flags_of,
    head_differences,
    lay_out_model,
    load,
    names,
    probe,
    send,
)
from tests.sim.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import requests

KIND = "mlc"

# Requests that a real engine never answered, or died of. By default the simulator answers them.
SPARED = {
    "016-chat-top-logprobs-20": 500,
    "025-chat-json-schema-invalid-schema-string": 500,
    "161-key-micro-start-generate-NO-KEY": 500,
    "163-key-micro-prep-recv-NO-KEY": 500,
    "173-cmpl-long-prompt-2040": 500,
    "175-cmpl-prompt-2047": 500,
    "187-chat-logit-bias-negative-id": 500,
    "191-chat-json-schema-type-bad": 500,
}

# What else is answered differently on purpose.
KNOWN_DIFFERENCES = {
    "127-dbg-cuda-profiler-start": "a real engine dies of it, which is imitated when asked for",
    "130-dbg-cuda-profiler-stop": "a real engine dies of it, which is imitated when asked for",
    "169-key-cuda-profiler-start-missing-key": "as the two before",
    "196-chat-duplicate-user-while-running": "needs two requests at a time: see the test of it",
}

# Requests that stand for those which were sent before a recording and are not recorded themselves.
_PROBE = ("/v1/completions", {"prompt": [72], "max_tokens": 1})
_LONGER = ("/v1/completions", {"prompt": [72, 73, 74], "max_tokens": 3})
_RESET = ("/debug/reset_engine", {"model": "any"})
BEFORE: dict[str, list[tuple[str, Any]]] = {
    "109-metrics-end": [_LONGER, _PROBE],
    "125-dbg-metrics-after-reset": [_RESET, _PROBE],
    "136-dbgnotrace-dump-engine-metrics": [_PROBE],
}


def servers() -> dict[str, list[str]]:
    """Return the recordings of each server."""
    by_server: dict[str, list[str]] = {}
    for name in names(KIND):
        by_server.setdefault(load(KIND, name)["server"]["name"], []).append(name)
    return by_server


@pytest.mark.parametrize("server", servers())
def test_answers_in_the_form_of_the_real_server(server: str, tmp_path: Path) -> None:
    model = lay_out_model(tmp_path, KIND)
    recorded = servers()[server]
    differences: list[str] = []
    with Simulator(*flags_of(load(KIND, recorded[0])), model=model, cwd=tmp_path) as simulator:
        for name in recorded:
            recording = load(KIND, name)
            if name in KNOWN_DIFFERENCES:
                continue
            for path, body in BEFORE.get(name, []):
                assert simulator.post(path, body).status_code == 200
            response = send(simulator.base_url, recording["request"])
            response.encoding = "utf-8"
            differences += [f"{name}: {found}" for found in differences_in(response, name)]
            probe(simulator.base_url, recording)
    assert not differences, "\n".join(differences)


def differences_in(response: requests.Response, name: str) -> Iterator[str]:
    recording = load(KIND, name)
    expected = recording["response"]
    if "client_error" in expected:
        if response.status_code != SPARED[name]:
            yield f"status {response.status_code} is not {SPARED[name]}"
        return
    yield from head_differences(response, expected)
    if expected.get("sse_lines") is not None:
        yield from stream_differences(response.text, "".join(expected["sse_lines"]), recording)
    elif response.status_code >= 300 or recording["request"]["path"].startswith("/openapi"):
        if response.text != expected["body"]:
            yield f"body {response.text[:300]} is not {expected['body'][:300]}"
    elif recording["request"]["path"] == "/metrics":
        if shapes.metric_names(response.text) != shapes.metric_names(expected["body"]):
            yield f"metrics {response.text} have not the names of {expected['body']}"
    else:
        yield from body_differences(response.text, expected["body"], recording)


def body_differences(text: str, expected: str, recording: dict[str, Any]) -> Iterator[str]:
    if not text.startswith(("{", "[")):
        if comparable(text) != comparable(expected):
            yield f"body {text[:300]} is not {expected[:300]}"
        return
    given, wanted = json.loads(text), json.loads(expected)
    if isinstance(wanted, list):
        # A trace: all that happened to the first request.
        given, wanted = shapes.first_request(given), shapes.first_request(wanted)
    given_shape, wanted_shape = (json.dumps(shapes.shape(value)) for value in (given, wanted))
    if given_shape != wanted_shape:
        yield f"form {given_shape} is not {wanted_shape}"
    yield from shapes.usage_differences(given, recording["request"]["body"])


def stream_differences(text: str, expected: str, recording: dict[str, Any]) -> Iterator[str]:
    given, wanted = shapes.events_of(text), shapes.events_of(expected)
    if shapes.outline(given) != shapes.outline(wanted):
        yield f"events {shapes.outline(given)} are not {shapes.outline(wanted)}"
    more = shapes.text_shapes(given) ^ shapes.text_shapes(wanted)
    if shapes.text_shapes(given) and shapes.text_shapes(wanted) and more:
        yield f"text comes in other forms: {more}"
    yield from shapes.usage_differences(given[-1], recording["request"]["body"])


def test_lists_name_recordings() -> None:
    unanswered = {n for n in names(KIND) if "client_error" in load(KIND, n)["response"]}
    assert set(SPARED) == unanswered
    assert set(KNOWN_DIFFERENCES) <= set(names(KIND))
