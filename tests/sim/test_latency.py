"""How long answers take. A lower limit can be checked on any machine, an upper one on none."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pytest_mlc_server.sim.latency import RequestLatency, request_latency
from pytest_mlc_server.sim.rules import Latency
from tests.sim.scripted import COMPLETIONS, TestDoor

CHUNKS: dict[str, Any] = {"chunks": ["a", "b", "c", "d", "e"]}


def times(latency: Latency, number: int = 1, tokens: int = 50, running: int = 1) -> list[float]:
    of_request = RequestLatency(latency, number)
    first = of_request.first_token(10, running)
    return [first, *(of_request.next_token(running) for _ in range(tokens - 1))]


def test_the_first_token_waits_for_the_prompt() -> None:
    latency = Latency(ttft=1.0, itl=0.25, prefill_per_token=0.125)
    assert times(latency, tokens=3) == [1.0 + 10 * 0.125, 0.25, 0.25]


def test_jitter_follows_from_the_seed_the_request_and_the_token() -> None:
    latency = Latency(ttft=1.0, itl=0.5, jitter=0.2, seed=7)
    drawn = times(latency)
    assert drawn == times(latency)
    assert len(set(drawn)) == len(drawn)
    assert 0.8 <= drawn[0] <= 1.2
    assert all(0.4 <= time <= 0.6 for time in drawn[1:])
    assert drawn != times(latency, number=2)
    assert drawn != times(latency.model_copy(update={"seed": 8}))


@pytest.mark.parametrize(("running", "factor"), [(0, 1.0), (1, 1.0), (2, 1.5), (5, 3.0)])
def test_others_slow_it_down(running: int, factor: float) -> None:
    latency = Latency(ttft=1.0, itl=0.5, slowdown=0.5)
    assert times(latency, tokens=2, running=running) == [factor, 0.5 * factor]


def test_what_takes_no_time_is_not_waited_for() -> None:
    assert request_latency(Latency(jitter=1.0, slowdown=2.0), 1) is None
    assert request_latency(Latency(itl=0.1), 1) is not None


# --- in a running simulator -----------------------------------------------------------------------


def seconds(door: TestDoor, **more: Any) -> float:
    began = time.monotonic()
    assert door.chat(**more).status_code == 200
    return time.monotonic() - began


@pytest.mark.parametrize("stream", [True, False])
def test_a_door_s_latency(door: TestDoor, stream: bool) -> None:
    door.rule(CHUNKS)
    door.tell("PUT", "/latency", {"ttft": 0.2, "itl": 0.05})
    assert seconds(door, stream=stream) >= 0.2 + 4 * 0.05


def test_a_rule_s_latency_goes_before_the_door_s(door: TestDoor) -> None:
    door.tell("PUT", "/latency", {"ttft": 60.0})
    door.rule({"text": "x"}, latency={"ttft": 0.1})
    assert 0.1 <= seconds(door) < 60


def test_a_rule_can_be_without_latency(door: TestDoor) -> None:
    door.tell("PUT", "/latency", {"ttft": 600.0})
    door.rule({"text": "x"}, latency={})
    assert seconds(door) < 600


def test_each_token_of_the_prompt_takes_its_time(door: TestDoor) -> None:
    door.tell("PUT", "/latency", {"prefill_per_token": 0.002})
    began = time.monotonic()
    answer = door.post(COMPLETIONS, {"prompt": "x " * 50, "max_tokens": 1})
    took = time.monotonic() - began
    tokens = answer.json()["usage"]["prompt_tokens"]
    assert tokens >= 50
    assert took >= tokens * 0.002


@pytest.mark.parametrize(
    ("reply", "endpoint", "status"),
    [
        ({"fault": {"kind": "status", "status": 503}}, "chat", 503),
        ({"fault": {"kind": "none"}}, "models", 200),
    ],
)
def test_an_answer_without_tokens_takes_the_time_of_a_first_one(
    door: TestDoor, reply: dict[str, Any], endpoint: str, status: int
) -> None:
    door.rule(reply, when={"endpoint": endpoint}, latency={"ttft": 0.1})
    began = time.monotonic()
    answer = door.chat() if endpoint == "chat" else door.sim.http.get(f"{door.url}/v1/models")
    assert answer.status_code == status
    assert time.monotonic() - began >= 0.1


def test_latency_shows_in_the_metrics(door: TestDoor) -> None:
    door.rule(CHUNKS, latency={"ttft": 0.1})
    door.chat()
    lines = door.sim.http.get(f"{door.url}/metrics").text.splitlines()
    (sum_of_prefills,) = [line for line in lines if line.startswith("engine_prefill_time_sum")]
    assert float(sum_of_prefills.split()[1]) >= 0.1
