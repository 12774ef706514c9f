"""``/metrics``: the real format, and numbers that add up."""

from __future__ import annotations

import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlc_server.sim.metrics import EngineMetrics, RequestMetrics
from tests.sim.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

DEBUG = ("--enable-debug",)
QUERY = {
    "messages": [{"role": "user", "content": "a"}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "debug_config": {"special_request": "query_engine_metrics"},
}
EMPTY = """\
# NOTE: these metrics count token in the unit of serving model's tokenization
# be careful when comparing them to client-side metrics that may use
# different tokenization to standardize across models.

engine_prefill_time_sum\t0.0
engine_decode_time_sum\t0.0
engine_jump_forward_time_sum\t0.0
prompt_tokens_sum\t0
completion_tokens_sum\t0
prefill_tokens_sum\t0
decode_tokens_sum\t0
jump_forward_tokens_sum\t0

# /last_finished_request
last_finished_request_prompt_tokens\t0
last_finished_request_completion_tokens\t0
last_finished_request_prefill_tokens\t0
last_finished_request_decode_tokens\t0
last_finished_request_jump_forward_tokens\t0
last_finished_request_end_to_end_latency_s\t0.0
last_finished_request_ttft_s\t0.0
last_finished_request_inter_token_latency_s\t0.0"""


@pytest.fixture
def counting() -> Iterator[Simulator]:
    """A simulator of its own: what others ask for would be counted, too."""
    with Simulator(*DEBUG) as simulator:
        yield simulator


def numbers(simulator: Simulator) -> dict[str, float]:
    lines = simulator.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (li.partition("\t") for li in lines) if value}


def complete(simulator: Simulator, **request: Any) -> dict[str, Any]:
    usage: dict[str, Any] = simulator.post("/v1/completions", request).json()["usage"]
    return usage


def test_before_any_request_and_after_a_reset(counting: Simulator) -> None:
    assert counting.get("/metrics").text == EMPTY
    complete(counting, prompt="abc", max_tokens=3)
    assert counting.get("/metrics").text != EMPTY
    assert counting.post("/debug/reset_engine", {"model": "any"}).text == "null"
    assert counting.get("/metrics").text == EMPTY


def test_numbers_add_up(counting: Simulator) -> None:
    requests = [
        {"prompt": "one two three", "max_tokens": 3},
        {"prompt": "a", "max_tokens": 1},
        {"prompt": "one two three", "max_tokens": 4, "n": 2},
        {"prompt": "one two three", "max_tokens": 2, "stream": False},
    ]
    with ThreadPoolExecutor(4) as pool:
        used = list(pool.map(lambda request: complete(counting, **request), requests))
    counted = numbers(counting)
    for name in ("prompt_tokens", "completion_tokens"):
        assert counted[f"{name}_sum"] == sum(usage[name] for usage in used)
    for name in ("prefill_tokens", "decode_tokens", "jump_forward_tokens"):
        assert counted[f"{name}_sum"] == sum(usage["extra"][name] for usage in used)
    seconds = counted["engine_decode_time_sum"]
    assert counted["decode_tokens_per_s"] == pytest.approx(counted["decode_tokens_sum"] / seconds)


def test_last_request_is_shown(counting: Simulator) -> None:
    complete(counting, prompt="one two three", max_tokens=3)
    usage = complete(counting, prompt="abc", max_tokens=2)
    counted = numbers(counting)
    for name, value in usage["extra"].items():
        assert counted[f"last_finished_request_{name}"] == value


def test_steps_are_counted_by_batch_size(counting: Simulator) -> None:
    complete(counting, prompt="one two three", max_tokens=4)
    complete(counting, prompt="one two three", max_tokens=5, n=3)
    text = counting.get("/metrics").text
    # The first step of each size warms up; labels have no quotes. So the real engine does it.
    assert "\n# /decode_time_by_batch_size\n" in text
    assert "\ndecode_time_by_batch_size_count{batch_size=1}\t2\n" in text
    assert text.endswith("\ndecode_time_by_batch_size_count{batch_size=3}\t3")


def test_three_ways_to_ask(counting: Simulator) -> None:
    complete(counting, prompt="abc", max_tokens=3)
    dumped = counting.post("/debug/dump_engine_metrics", {}).json()["metrics"]
    event, done, _ = counting.post("/v1/chat/completions", QUERY).text.split("\n\n")
    assert done == "data: [DONE]"
    chunk = json.loads(event.removeprefix("data: "))
    assert chunk["choices"] == []
    assert {key: chunk["usage"][key] for key in list(chunk["usage"])[:3]} == {
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "total_tokens": 0,
    }
    assert chunk["usage"]["extra"] == dumped
    assert list(chunk["usage"]["extra"]) == list(dumped)
    assert numbers(counting)["prompt_tokens_sum"] == dumped["prompt_tokens_sum"]


@pytest.mark.parametrize("body", ["1", "[]", '"model"'])
def test_dump_of_what_is_no_object(counting: Simulator, body: str) -> None:
    url = counting.base_url + "/debug/dump_engine_metrics"
    assert counting.http.post(url, data=body).status_code == 500


def test_memory_is_flat() -> None:
    metrics = EngineMetrics()

    def count(requests: int) -> None:
        for number in range(requests):
            cost = RequestMetrics(3, number % 7, 2, ttft_s=0.5, end_to_end_latency_s=1.0)
            metrics.add(cost, decode_steps=2, batch_size=1 + number % 80)

    count(1000)
    tracemalloc.start()
    count(1)
    before, _ = tracemalloc.get_traced_memory()
    count(20_000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 10_000
    assert len(metrics.as_json()["decode_time_by_batch_size"]) <= 2 * 64
