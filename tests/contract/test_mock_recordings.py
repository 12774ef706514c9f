"""The simulator, asked what the real server was asked, answers the same.

The recordings are of the real server with its mock engine, which is deterministic: apart from ids,
times and seeds the answers are compared whole, texts, headers, the order of keys and all.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.replaying import (
    comparable,
    flags_of,
    head_differences,
    lay_out_model,
    load,
    names,
    send,
    sse_lines,
)
from tests.sim.simulator import SimulatorPool

if TYPE_CHECKING:
    from collections.abc import Iterator

KIND = "mock"

# What the simulator is known to answer differently. Each of these is expected to fail.
KNOWN_DIFFERENCES = {
    "013-chat-max-tokens-0": "the real mock engine never answers; the simulator says so",
    "062-err-max-tokens-negative": "the real mock engine never answers; the simulator says so",
}


def recordings() -> list[Any]:
    return [
        pytest.param(
            name,
            id=name,
            marks=[pytest.mark.xfail(reason=KNOWN_DIFFERENCES[name])]
            if name in KNOWN_DIFFERENCES
            else [],
        )
        for name in names(KIND)
    ]


@pytest.fixture(scope="session")
def simulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorPool]:
    """Simulators that serve the recorded model under the path that it had."""
    directory = tmp_path_factory.mktemp("contract")
    pool = SimulatorPool(model=lay_out_model(directory, KIND), cwd=directory)
    yield pool
    pool.stop()


@pytest.mark.parametrize("name", recordings())
def test_answers_as_the_real_server_did(simulators: SimulatorPool, name: str) -> None:
    recording = load(KIND, name)
    expected = recording["response"]
    assert "client_error" not in expected, "the real server did not answer"
    simulator = simulators.get(*flags_of(recording))

    response = send(simulator.base_url, recording["request"])
    response.encoding = "utf-8"

    assert not list(head_differences(response, expected))
    if recording["request"]["path"] == "/debug/dump_event_trace" and response.ok:
        # It holds what was asked before: here, whatever tests came earlier.
        known = {(*event, event["ph"]) for event in json.loads(expected["body"])}
        assert {(*event, event["ph"]) for event in response.json()} <= known
    elif expected.get("sse_lines") is not None:
        assert sse_lines(response.text) == sse_lines("".join(expected["sse_lines"]))
    else:
        assert comparable(response.text) == comparable(expected["body"])


def test_known_differences_are_recordings() -> None:
    assert set(KNOWN_DIFFERENCES) <= set(names(KIND))
