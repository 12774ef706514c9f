"""``/debug/dump_event_trace``: the events of a real engine, in Chrome's format."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlc_server.sim.engine import Delta
from pytest_mlc_server.sim.trace import TraceRecorder
from tests.sim.simulator import DEADLINE_S, Simulator, SimulatorPool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pytest_mlc_server.sim.engine import Step

RECORDED: dict[str, list[list[str]]] = json.loads(
    (Path(__file__).parent.parent / "data" / "event-trace.json").read_text("utf-8")
)
CHAT = {"messages": [{"role": "user", "content": "Hello! Our project is MLC LLM."}]}
# What the thread of the HTTP interface records; the engine's own thread runs ahead of it.
OF_THE_INTERFACE = (
    "receive",
    "tokenization",
    "invoke",
    "callback",
    "detok",
    "yield",
    "skip",
    "(0)",
)
TRACING = ("--enable-debug", "--enable-tracing")


@pytest.fixture
def tracing(simulators: SimulatorPool) -> Simulator:
    return simulators.get(*TRACING)


@pytest.fixture
def user() -> str:
    """An id for a request that no other has: the simulator is shared."""
    return f"user-{uuid.uuid4()}"


def dump(simulator: Simulator, user: str | None = None) -> list[dict[str, Any]]:
    """Return the events, all of them or those of one request."""
    response = simulator.post("/debug/dump_event_trace", {"model": "any"})
    assert response.status_code == 200
    return [event for event in response.json() if user is None or event["tid"] == user]


def threads(events: list[list[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Split events by the thread that records them. What is delivered when depends on the run."""
    interface = [event for event in events if event[0].startswith(OF_THE_INTERFACE)]
    engine = [event for event in events if event not in interface]
    delivered = ("yield delta", "skip empty")
    return engine, [event for event in interface if not event[0].startswith(delivered)]


def named(events: list[dict[str, Any]]) -> list[list[str]]:
    return [[event["name"], event["ph"]] for event in events]


def test_chat_leaves_the_events_of_a_real_engine(tracing: Simulator, user: str) -> None:
    tracing.post("/v1/chat/completions", {**CHAT, "max_tokens": 4, "user": user})
    assert threads(named(dump(tracing, user))) == threads(RECORDED["chat of 4 tokens"])


def test_completion_leaves_the_events_of_a_real_engine(tracing: Simulator, user: str) -> None:
    prompt = "What is the meaning of life?" * 9
    tracing.post("/v1/completions", {"prompt": prompt, "max_tokens": 16, "user": user})
    engine, interface = threads(named(dump(tracing, user)))
    recorded_engine, recorded_interface = threads(RECORDED["completion of 16 tokens"])
    assert interface == recorded_interface
    # What happened within one microsecond is in no order there.
    assert sorted(engine) == sorted(recorded_engine)


def test_query_of_metrics_leaves_its_events(tracing: Simulator) -> None:
    before = {event["tid"] for event in dump(tracing)}
    tracing.get("/metrics")
    events = [event for event in dump(tracing) if event["tid"] not in before]
    assert named(events) == RECORDED["query of metrics"]
    assert re.fullmatch("chatcmpl-[0-9a-f]{32}", events[0]["tid"])


def test_mock_engine_leaves_none_of_its_own(simulators: SimulatorPool, user: str) -> None:
    mock = simulators.get(*TRACING, "--model-lib", "mock://echo")
    mock.post("/v1/chat/completions", {**CHAT, "max_tokens": 4, "user": user})
    recorded = RECORDED["chat of 4 tokens by the mock engine"]
    assert threads(named(dump(mock, user))) == threads(recorded)


def test_format(tracing: Simulator, user: str) -> None:
    first, second = f"{user}-1", f"{user}-2"
    tracing.post("/v1/completions", {"prompt": "a", "user": first})
    tracing.post("/v1/completions", {"prompt": "b", "user": second, "n": 2, "max_tokens": 1})
    events = [event for event in dump(tracing) if event["tid"] in (first, second)]
    assert {tuple(event) for event in events} == {("name", "ph", "ts", "pid", "tid")}
    assert {event["pid"] for event in events} == {1}
    assert [event["tid"] for event in events] == sorted(event["tid"] for event in events)
    for request in (first, second):
        times = [event["ts"] for event in events if event["tid"] == request]
        assert times == sorted(times)
    assert named(events)[-1] == ["(0)", "E"]


def test_stages_begin_and_end(tracing: Simulator, user: str) -> None:
    request = {"prompt": "abc" * 9, "n": 2, "max_tokens": 3, "user": user}
    tracing.post("/v1/completions", request)
    events = named(dump(tracing, user))
    begun = [name for name, phase in events if phase == "B"]
    ended = [name for name, phase in events if phase == "E"]
    # The last callback brings the usage, and its end is not recorded; the request only ends.
    assert set(begun) - set(ended) == {"callback (3)"}
    assert set(ended) - set(begun) == {"(0)"}
    assert "decode (3)" in begun


def test_refused_request_came_in(tracing: Simulator, user: str) -> None:
    request = {"prompt": "a", "best_of": 2, "user": user}
    assert tracing.post("/v1/completions", request).status_code == 400
    assert named(dump(tracing, user)) == [["receive request (0)", "i"]]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("{bad", 400, "Invalid request {bad"),
        ("", 400, "Invalid request "),
        ('{"no": 1}', 400, 'Invalid request {"no": 1}'),
        ("[]", 400, "Invalid request []"),
        ("1", 500, None),
        ('"a model"', 500, None),
        (b"\xff", 500, None),
    ],
)
def test_bodies_are_read_by_hand(
    tracing: Simulator, body: str | bytes, status: int, said: str | None
) -> None:
    # Behind a status 500 the connection is closed, and a client that had it kept would find it so.
    alone = {"Connection": "close"}
    url = f"{tracing.base_url}/debug/dump_event_trace"
    response = tracing.http.post(url, data=body, headers=alone, timeout=DEADLINE_S)
    assert response.status_code == status
    if said is None:
        assert response.text == "Internal Server Error"
    else:
        assert json.loads(response.json())["message"] == said


async def _steps(count: int) -> AsyncGenerator[Step, None]:
    for _ in range(count):
        yield [Delta("x")]


class _Exchange:
    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.steps = _steps(10)


def test_memory_is_bounded() -> None:
    async def follow(recorder: TraceRecorder) -> None:
        for number in range(100):
            exchange = _Exchange(f"request-{number}")
            recorder.received(exchange.request_id, 0)
            async for _ in recorder.follow(exchange, says_skips=False):
                pass

    recorder = TraceRecorder(max_events=1000)
    asyncio.run(follow(recorder))
    kept = recorder.as_chrome_events()
    assert 0 < len(kept) <= 1000
    # Requests go as a whole, and the newest stay.
    assert kept[0]["name"] == "receive request (0)"
    assert kept[-1]["tid"] == "request-99"
