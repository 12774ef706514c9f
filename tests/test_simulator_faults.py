"""What goes wrong on purpose: faults of rules, faults of all requests, latency, deaths."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

from pytest_mlc_server import MLCSim, PopenServer, Reply, SimulatorError
from pytest_mlc_server.simulator.faults import Faults
from tests.support_sim import ECHO, answer, chat, stream
from tests.support_sim import server as server
from tests.support_sim import sim as sim

LONG = "one two three four five six"


def outcome(ask: Callable[[], Any]) -> str:
    """Return what became of a request, in one word."""
    try:
        got = ask()
    except requests.exceptions.ChunkedEncodingError:
        return "cut off"
    except requests.exceptions.ConnectionError as error:
        text = str(error)
        return "refused" if "refused" in text else "reset" if "reset" in text else "closed"
    return str(got.status_code) if isinstance(got, requests.Response) else "whole"


# --- of one rule ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 500, 503])
def test_a_rule_answers_with_an_http_error(status: int, sim: MLCSim) -> None:
    rule = sim.when("a").fail(status)
    assert chat(sim.server, "a").status_code == status
    assert answer(sim.server, "b") == ECHO
    (request,) = rule.calls
    assert (request.status, request.fault) == (status, "status")


def test_an_http_error_has_the_headers_and_the_body_that_are_given(sim: MLCSim) -> None:
    sim.when("a").fail(503, headers={"Retry-After": "7"}, body={"error": "busy"})
    response = chat(sim.server, "a")
    assert response.headers["retry-after"] == "7"
    assert response.json() == {"error": "busy"}
    sim.when("b").fail(503, "out of cheese")
    assert "out of cheese" in chat(sim.server, "b").text


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda when: when.reset(after=2, reply=LONG), ("cut off", "reset")),
        (lambda when: when.disconnect(after=2, reply=LONG), ("cut off",)),
        (lambda when: when.disconnect(after=2), ("cut off",)),
        (lambda when: when.reset(), ("reset", "closed", "cut off")),
        (lambda when: when.malformed(after=2, reply=LONG), ("whole",)),
    ],
    ids=["reset-after", "disconnect-reply", "disconnect", "reset", "malformed"],
)
def test_a_stream_is_damaged(
    make: Callable[[Any], Any], expected: tuple[str, ...], sim: MLCSim
) -> None:
    make(sim.when("a"))
    events: list[str] = []
    assert outcome(lambda: events.extend(stream(sim.server, f"a {LONG}"))) in expected
    broken = [event for event in events if event[0] == "{" and event[-1] != "}"]
    assert len(broken) == (1 if expected == ("whole",) else 0)
    assert sim.last_request.fault is not None
    assert answer(sim.server, "b") == ECHO


def test_a_stalled_stream_goes_on_when_its_time_is_over(sim: MLCSim) -> None:
    sim.when("a").stall(after=2, seconds=0.3, reply=LONG)
    began = time.monotonic()
    assert list(stream(sim.server, "a"))[-1] == "[DONE]"
    assert time.monotonic() - began >= 0.3


def test_a_stream_that_stalls_for_ever_ends_with_its_client(sim: MLCSim) -> None:
    sim.when("a").stall(after=2, reply=LONG)
    events = stream(sim.server, "a")
    assert next(events)
    assert not sim.last_request.finished
    events.close()  # type: ignore[attr-defined]
    assert answer(sim.server, "b") == ECHO


def test_a_reply_of_a_sequence_may_fail(sim: MLCSim) -> None:
    sim.when("a").reply(Reply.fail(503), Reply.disconnect(after=1, reply=LONG), "well")
    got = [outcome(lambda: chat(sim.server, "a")) for _ in range(3)]
    assert got == ["503", "cut off", "200"]


def test_one_fault_at_a_time() -> None:
    with pytest.raises(ValueError, match="has a fault already, status"):
        Reply.disconnect(reply=Reply.fail(503))


# --- of all requests ------------------------------------------------------------------------------


def test_all_requests_fail_until_it_is_lifted(sim: MLCSim) -> None:
    sim.when("a").reply("b")
    sim.fail(503)
    assert [chat(sim.server, text).status_code for text in "aa"] == [503, 503]
    sim.faults.clear()
    assert answer(sim.server, "a") == "b"


def test_as_many_requests_fail_as_are_meant_to(sim: MLCSim) -> None:
    sim.fail(429, times=2)
    assert [chat(sim.server, "a").status_code for _ in range(4)] == [429, 429, 200, 200]


def test_only_requests_fail_that_are_meant_to(sim: MLCSim) -> None:
    sim.faults.fail(503, when={"containing": "a"})
    assert [chat(sim.server, text).status_code for text in "aba"] == [503, 200, 503]


def test_a_seeded_rate_hits_the_same_requests_each_time(sim: MLCSim) -> None:
    def run() -> list[int]:
        sim.clear()
        sim.fail(503, rate=0.5, seed=7)
        return [chat(sim.server, "a").status_code for _ in range(12)]

    first = run()
    assert run() == first
    assert set(first) == {200, 503}


def test_faults_come_one_after_the_other(sim: MLCSim) -> None:
    sim.faults.sequence(Reply.fail(503), None, Reply.disconnect())
    got = [outcome(lambda: chat(sim.server, "a")) for _ in range(4)]
    assert got == ["503", "200", "cut off", "200"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda faults: faults.sequence("a"), "number 1 of the sequence is no fault"),
        (lambda faults: faults.sequence(None, Reply.text("a")), "number 2"),
        (lambda faults: faults.sequence(Reply.disconnect(reply="a")), "number 1"),
        (lambda faults: faults.fail(503, rat=1), "no fault takes rat"),
        (lambda faults: faults.fail(200), "fault.*status"),
        (lambda faults: faults.fail(503, rate=2), "rate"),
    ],
)
def test_a_mistake_in_a_fault_is_an_error_at_once(
    wrong: Callable[[Faults], None], said: str, sim: MLCSim
) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        wrong(sim.faults)
    assert chat(sim.server, "a").status_code == 200


def test_connections_are_refused_until_it_is_lifted(sim: MLCSim) -> None:
    sim.when("f").reply_with(lambda _: "still here")
    sim.faults.refuse()
    assert outcome(lambda: chat(sim.server, "a")) == "refused"
    assert sim.requests == []
    sim.faults.clear()
    assert answer(sim.server, "a") == ECHO
    assert answer(sim.server, "f") == "still here"


def test_the_next_test_is_not_refused(server: PopenServer) -> None:
    with MLCSim(server) as sim:
        sim.faults.refuse()
    with MLCSim(server) as sim:
        assert answer(server, "a") == ECHO


def test_new_connections_are_reset(sim: MLCSim) -> None:
    sim.faults.reset_connections(times=1)
    assert outcome(lambda: chat(sim.server, "a")) in ("reset", "closed")
    assert outcome(lambda: chat(sim.server, "a")) == "200"


# --- latency --------------------------------------------------------------------------------------


def seconds(ask: Callable[[], Any]) -> float:
    began = time.monotonic()
    ask()
    return time.monotonic() - began


def test_answers_take_their_time(sim: MLCSim) -> None:
    sim.latency(ttft=0.2, itl=0.02)
    sim.when("slow").latency(ttft=0.4).reply("well")
    assert seconds(lambda: answer(sim.server, "a", max_tokens=1)) >= 0.2
    assert seconds(lambda: answer(sim.server, "slow")) >= 0.4
    sim.latency(prefill_per_token=0.004)  # the prompt has more than 75 tokens
    assert seconds(lambda: answer(sim.server, "a b c d", max_tokens=1)) >= 0.3


@pytest.mark.parametrize(
    ("latency", "said"), [({"ttft": -1}, "ttft"), ({"jitter": 2}, "jitter"), ({"itl": "1"}, "itl")]
)
def test_a_latency_that_cannot_be_is_an_error(
    latency: dict[str, Any], said: str, sim: MLCSim
) -> None:
    with pytest.raises(ValueError, match=said):
        sim.latency(**latency)


# --- deaths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["at once", "rule", "fault"])
@pytest.mark.parametrize(("death", "state"), [("crash", "exited"), ("wedge", "wedged")])
def test_the_server_dies_and_is_known_to_have_died_on_purpose(
    death: str, state: str, by: str, server: PopenServer
) -> None:
    sim = MLCSim(server)
    sim.clear()
    if by == "at once":
        getattr(sim, death)()
    else:
        if by == "rule":
            getattr(sim.when("a"), death)()
        else:
            sim.faults.sequence(getattr(Reply, death)())
        assert outcome(lambda: chat(server, "a")) in ("closed", "reset", "cut off")
    sim.end()
    assert server.check() == state
    assert "mlc_sim" in server.provoked
    with pytest.raises(SimulatorError, match="does not answer GET /sim/requests"):
        _ = sim.requests
    token = server.sim_token
    server.restart()
    assert (server.provoked, server.sim_token) == ("", token)
    with MLCSim(server) as again:
        again.when("a").reply("b")
        assert answer(server, "a") == "b"


def test_a_death_that_did_not_come_is_forgotten(server: PopenServer) -> None:
    with MLCSim(server) as sim:
        sim.when("never").crash()
        assert server.provoked
        answer(server, "a")
    assert server.provoked == ""


@pytest.mark.parametrize("signal", ["SIGABRT", "SIGKILL"])
def test_a_crash_is_by_the_signal_that_is_named(signal: str, server: PopenServer) -> None:
    MLCSim(server).crash(signal)
    assert signal in server.trouble
    server.restart()
    with pytest.raises(ValueError, match="signal"):
        MLCSim(server).crash("SIGFOO")
    assert server.check() == "ready"
