"""Requests that kill a real engine: told of by default, and died of when that is asked for."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import requests

from pytest_mlc_server.sim.schema_check import schema_death
from tests.sim.simulator import Simulator, SimulatorPool

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMPT = {"prompt": "What is it?", "max_tokens": 2}
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return CHAT, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **fields}


def with_schema(schema: Any) -> tuple[str, dict[str, Any]]:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    return chat(response_format={"type": "json_object", "schema": text})


# What each of them makes a real engine say last.
WEDGES = {
    "top_logprobs": (
        chat(logprobs=True, top_logprobs=20),
        "tvm.error.InternalError: Check failed: num_top_probs <= 5 (20 vs. 5) : \n",
    ),
    "schema is no JSON": (
        with_schema("not json"),
        (
            "Check failed: (err.empty()) is false: Failed to parse JSON: syntax error at line 1"
            " near: ot json. The JSON string is:not json\n"
        ),
    ),
    "unknown type": (
        with_schema({"type": "banana"}),
        'json_schema_converter.cc:556: Unsupported type banana in schema {"type":"banana"}\n',
    ),
    "empty stop string": (
        chat(stop=""),
        (
            "tvm.error.InternalError: Check failed: (!stop_str.empty()) is false: Stop string"
            " cannot be empty.\n"
        ),
    ),
    "prompt near the window": (
        (COMPLETIONS, {"prompt": [70] * 2040}),
        (
            "tvm.error.InternalError: Check failed: num_rsentries > 0 (0 vs. 0) : There should be"
            " at least one request state entry that can run decode. Possible failure reason: none"
            " of the prefill phase of the running requests is finished\n"
        ),
    ),
}

CRASHES = {
    "unknown token": (
        (COMPLETIONS, {"prompt": [70, 512]}),
        signal.SIGSEGV,
        "!!!!!!! Segfault encountered !!!!!!!\n",
    ),
    "negative logit bias": (
        chat(logit_bias={"-1": 5}),
        signal.SIGABRT,
        "free(): invalid next size (fast)\n",
    ),
}

REQUESTS = {**{n: r for n, (r, _) in WEDGES.items()}, **{n: r for n, (r, *_) in CRASHES.items()}}


@pytest.fixture
def mortal() -> Iterator[Simulator]:
    """A simulator that dies as a real engine does."""
    with Simulator("--sim-imitate", "wedge,crash") as simulator:
        yield simulator
        # With a request that waits for a dead engine, nothing less ends it.
        simulator.stop(signal.SIGKILL)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", REQUESTS)
def test_by_default_the_request_fails_and_the_log_tells_what_was_spared(
    simulators: SimulatorPool, name: str, streamed: bool
) -> None:
    path, body = REQUESTS[name]
    # Alone: its log is read.
    simulator = simulators.get("--mode", "local")
    response = simulator.post(path, {**body, "stream": streamed}, headers={"Connection": "close"})
    assert (response.status_code, response.text) == (500, "Internal Server Error")
    assert simulator.post(COMPLETIONS, PROMPT).status_code == 200
    kind = "crash" if name in CRASHES else "wedge"
    log = "".join(simulator.stderr)
    assert "A real engine dies of this request" in log
    assert f"Imitate it with: --sim-imitate {kind}" in log


@pytest.mark.parametrize("name", WEDGES)
def test_a_wedged_engine_answers_nothing_and_its_server_lives_on(
    mortal: Simulator, name: str
) -> None:
    (path, body), last_words = WEDGES[name]
    with ThreadPoolExecutor(3) as pool:
        killing = pool.submit(ask, mortal, path, body)
        mortal.await_log(last_words)
        later = [pool.submit(ask, mortal, COMPLETIONS, PROMPT) for _ in range(2)]
        assert mortal.get("/v1/models").status_code == 200
        mortal.stop(signal.SIGKILL)
        # None of them was ever answered.
        assert [future.result() for future in [killing, *later]] == [None] * 3
    assert "Exception in thread Thread-1:\nTraceback (most recent call last):\n" in "".join(
        mortal.stderr
    )


@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_ends_the_process(mortal: Simulator, name: str) -> None:
    (path, body), number, last_words = CRASHES[name]
    assert ask(mortal, path, body) is None
    assert mortal.stop() == -number
    assert "".join(mortal.stderr).endswith(last_words)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (None, None),
        ('{"type": "object", "properties": {"a": {"type": "integer"}}}', None),
        ('{"type": "array", "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {}}}', None),
        ('{"$ref": "#/definitions/a"}', None),
        ('{"anyOf": [{"type": "string"}, {"type": "null"}]}', None),
        ('{"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}', None),
        ("true", None),
        ("false", "schema.get<bool>()"),
        ("[]", "type mismatch"),
        ('{"type": ["string", "null"]}', "type mismatch"),
        ('{"$ref": "#/$defs/missing", "$defs": {}}', "type mismatch"),
        ('{"type": "object", "properties": {"a": {"type": "int"}}}', "Unsupported type int"),
        ("{", "Failed to parse JSON"),
    ],
)
def test_schemas_that_kill(schema: str | None, said: str | None) -> None:
    death = schema_death(schema)
    assert death is None if said is None else said in (death or "")


def ask(simulator: Simulator, path: str, body: dict[str, Any]) -> int | None:
    """Return the status, None if the connection ends without one."""
    with requests.Session() as http:
        http.trust_env = False
        try:
            return http.post(simulator.base_url + path, json=body, timeout=60).status_code
        except requests.ConnectionError:
            return None
