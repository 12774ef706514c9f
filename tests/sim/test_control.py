"""The control endpoints: who may use them, and what they do to the doors."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.conftest import await_
from tests.sim import scripted
from tests.sim.scripted import CHAT, TOKEN, TestDoor, content, open_door
from tests.sim.simulator import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sim.simulator import Simulator

NOT_FOUND = (404, '{"detail":"Not Found"}')


@pytest.fixture
def second(told: Simulator) -> Iterator[TestDoor]:
    """A second door."""
    opened = open_door(told)
    yield opened
    opened.tell("DELETE", f"/doors/{opened.port}")


# --- who may --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/requests", "/rules", "/no-such", ""])
@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", "ä"])
def test_without_the_token_nothing_is_there(door: TestDoor, path: str, token: str | None) -> None:
    headers = {} if token is None else {"X-MLC-Sim-Token": token.encode()}
    answer = requests.get(f"{door.url}/sim{path}", headers=headers, timeout=DEADLINE_S)
    assert (answer.status_code, answer.text) == NOT_FOUND


def test_a_simulator_without_a_token_has_no_control(sim: Simulator) -> None:
    for token in ("", TOKEN):
        answer = sim.get("/sim/requests", headers={"X-MLC-Sim-Token": token})
        assert (answer.status_code, answer.text) == NOT_FOUND


def test_an_empty_token_is_none() -> None:
    with scripted.start(token="") as sim:
        answer = sim.get("/sim/requests", headers={"X-MLC-Sim-Token": ""})
        assert answer.status_code == 404


def test_the_token_is_in_no_environment_and_no_log() -> None:
    with scripted.start() as sim:
        door = TestDoor(sim, sim.port)
        door.tell("GET", "/requests")
        door.tell("POST", "/reset")
        assert sim.get("/v1/models").status_code == 200
        assert sim.get("/sim/requests").status_code == 404
    log = "".join(sim.stdout + sim.stderr)
    assert TOKEN not in log
    # Who knows the token leaves no line; who does not is a stranger as any other.
    assert [line.split('"')[1] for line in sim.stdout if '"' in line] == [
        "GET /v1/models HTTP/1.1",
        "GET /sim/requests HTTP/1.1",
    ]


def test_control_is_not_described_and_not_recorded(door: TestDoor) -> None:
    described = requests.get(f"{door.url}/openapi.json", timeout=DEADLINE_S).json()
    assert not [path for path in described["paths"] if path.startswith("/sim")]
    assert [record["path"] for record in door.requests] == ["/openapi.json"]


# --- doors ----------------------------------------------------------------------------------------


def test_doors_do_not_see_each_other(door: TestDoor, second: TestDoor) -> None:
    door.rule({"text": "one"})
    second.rule({"text": "two"})
    second.fault(fault={"kind": "status", "status": 503}, times=1)
    assert content(door.chat("to the first")) == "one"
    assert second.chat("to the second").status_code == 503
    assert content(second.chat("to the second")) == "two"
    assert len(door.requests) == 1
    assert len(second.requests) == 2
    assert door.tell("POST", "/reset") == {"epoch": 1}
    assert content(second.chat()) == "two"


def test_a_closed_door_is_gone_and_the_others_stay(told: Simulator, door: TestDoor) -> None:
    closed = open_door(told)
    closed.tell("DELETE", f"/doors/{closed.port}")
    with pytest.raises(ConnectionRefusedError):
        closed.connect()
    assert closed.control("GET", "/requests").status_code == 404
    assert closed.control("DELETE", f"/doors/{closed.port}").status_code == 404
    assert door.chat().status_code == 200


@pytest.mark.parametrize(("port", "status"), [("first", 400), ("1", 404), ("x", 404)])
def test_doors_that_cannot_be_closed(told: Simulator, port: str, status: int) -> None:
    first = TestDoor(told, told.port)
    number = str(told.port) if port == "first" else port
    answer = first.control("DELETE", f"/doors/{number}")
    assert answer.status_code == status
    assert number in answer.json()["detail"]


def test_a_request_is_about_the_door_it_comes_through(door: TestDoor) -> None:
    headers = {"X-MLC-Sim-Token": TOKEN}
    rule = {"reply": {"text": "mine"}}
    requests.post(f"{door.url}/sim/rules", json=rule, headers=headers, timeout=DEADLINE_S)
    assert content(door.chat()) == "mine"


def test_doors_are_closed_with_the_server() -> None:
    with scripted.start() as sim:
        doors = [open_door(sim) for _ in range(3)]
        kept = requests.Session()
        assert kept.get(f"{doors[0].url}/v1/models", timeout=DEADLINE_S).status_code == 200
        assert sim.stop(signal.SIGINT) == 0
        for door in doors:
            with pytest.raises(ConnectionRefusedError):
                door.connect()
        kept.close()


# --- resets and records ---------------------------------------------------------------------------


def test_a_reset_forgets_everything(door: TestDoor) -> None:
    door.rule({"text": "old"})
    door.fault(fault={"kind": "malformed"})
    door.tell("PUT", "/default", {"default": "fail"})
    door.tell("PUT", "/latency", {"ttft": 60.0})
    assert door.tell("POST", "/reset") == {"epoch": 1}
    assert door.tell("GET", "/requests") == {
        "epoch": 1,
        "dropped": 0,
        "requests": [],
        "unmatched": [],
        "refused": [],
    }
    assert door.tell("GET", "/rules") == []
    assert "Hello" in content(door.chat())
    assert door.rule({"text": "new"}) == "rule-1"


def test_a_request_that_ends_after_the_reset_belongs_to_the_test_before(door: TestDoor) -> None:
    door.rule({"text": "slow", "fault": {"kind": "stall", "after": 0}})
    with door.send_chat("late", stream=True) as channel:
        await_(lambda: door.requests and door.requests[0]["status"], "the answer begins")
        door.tell("POST", "/reset")
        assert door.requests == []
        channel.close()
    assert door.chat("next").status_code == 200
    assert [record["body"]["messages"][0]["content"] for record in door.requests] == ["next"]


def test_a_record_is_all_that_was_sent(door: TestDoor) -> None:
    rule = door.rule({"text": "Sunny"})
    body = {"messages": [{"role": "user", "content": "Ærlig?"}], "extra": [1, None]}
    door.post(f"{CHAT}?a=1&b=%20", body, headers={"X-Tenant": "A"})
    (record,) = door.requests
    assert record["body"] == body
    assert record["headers"]["x-tenant"] == "A"
    wanted = {
        "method": "POST",
        "path": CHAT,
        "query": "a=1&b=%20",
        "status": 200,
        "rule": rule,
        "fault": None,
        "reply": "Sunny",
        "finished": True,
        "truncated": False,
        "unmatched": None,
    }
    assert {name: record[name] for name in wanted} == wanted


@pytest.mark.parametrize("stream", [True, False])
def test_what_was_answered_is_there_when_the_application_has_it(
    door: TestDoor, stream: bool
) -> None:
    door.rule({"text": "a b c"})
    for count in range(20):
        door.chat(stream=stream)
        records = door.requests
        assert len(records) == count + 1
        assert (records[-1]["reply"], records[-1]["finished"]) == ("a b c", True)


@pytest.mark.parametrize(
    ("content_type", "data", "body"),
    [
        ("application/json", b"{", None),
        ("text/plain", b"\xff", None),
        ("a/b", b"[1]", [1]),
        ("application/json", b'{"prompt": "\\ud800"}', {"prompt": "\ud800"}),
        ("application/json", b'{"prompt": Infinity}', {"prompt": float("inf")}),
    ],
)
def test_bodies_of_any_kind_are_recorded(
    door: TestDoor, content_type: str, data: bytes, body: object
) -> None:
    headers = {"Content-Type": content_type}
    requests.post(f"{door.url}{CHAT}", data=data, headers=headers, timeout=DEADLINE_S)
    (record,) = door.requests
    assert record["body"] == body
    assert record["text"] == data.decode("utf-8", "replace")


def test_a_large_body_is_cut_in_the_record_and_answered_all_the_same(door: TestDoor) -> None:
    door.rule({"fault": {"kind": "status", "status": 429}}, when={"last_message": "end"})
    assert door.chat("x" * 1_100_000 + "end").status_code == 429
    (record,) = door.requests
    assert record["truncated"]
    assert (len(record["text"]), record["body"]) == (2**20, None)


def test_unmatched_requests_are_listed_with_the_reasons(door: TestDoor) -> None:
    door.rule({"text": "x"}, when={"last_message": "weather"}, name="sun")
    door.chat("the time")
    door.chat("the weather")
    requests.get(f"{door.url}/v1/models", timeout=DEADLINE_S)
    (record,) = door.tell("GET", "/requests")["unmatched"]
    assert record["body"]["messages"][0]["content"] == "the time"
    assert record["unmatched"] == [
        {"rule": "rule-1 (sun)", "reason": "'weather' is not in the last message, 'the time'"}
    ]


def test_the_guardian_s_probe_is_no_request_of_the_application(door: TestDoor) -> None:
    door.tell("PUT", "/default", {"default": "fail"})
    door.fault(fault={"kind": "status", "status": 503})
    agent = {"User-Agent": "pytest-mlc-server-probe"}
    assert door.post(CHAT, scripted.conversation("x"), headers=agent).status_code == 200
    assert door.requests == []


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "where"),
    [
        ("POST", "/rules", {"reply": {"txt": "x"}}, ["body", "reply", "txt"]),
        ("POST", "/rules", {"reply": {"text": "x", "echo": True}}, ["body", "reply"]),
        ("POST", "/rules", {}, ["body"]),
        ("POST", "/rules", {"reply": {"file": "relative.txt"}}, ["body", "reply", "file"]),
        ("POST", "/faults", {"fault": {"kind": "status"}}, ["body", "fault", "status", "status"]),
        ("PUT", "/latency", {"ttft": -1}, ["body", "ttft"]),
        ("PUT", "/default", {"default": "no"}, ["body", "default"]),
    ],
)
def test_mistakes_say_where_they_are(
    door: TestDoor, method: str, path: str, body: object, where: list[str]
) -> None:
    answer = door.control(method, path, body)
    assert answer.status_code == 422
    places: list[Any] = [problem["loc"] for problem in answer.json()["detail"]]
    assert where in places


# --- functions ------------------------------------------------------------------------------------


class Asking(threading.Thread):
    """A chat that is being answered."""

    def __init__(self, door: TestDoor, text: str = "Hello") -> None:
        super().__init__(daemon=True)
        self._door = door
        self._text = text
        self.answers: list[requests.Response] = []
        self.start()

    def run(self) -> None:
        self.answers.append(self._door.chat(self._text))

    def answer(self) -> requests.Response:
        self.join(DEADLINE_S)
        return self.answers[0]


def test_a_function_answers(door: TestDoor) -> None:
    rule = door.rule({"function": True})
    asking = Asking(door, "What now?")
    call = door.tell("GET", "/calls?wait=60")
    assert call["rule_id"] == rule
    assert call["request"]["body"]["messages"][0]["content"] == "What now?"
    door.tell("POST", f"/calls/{call['call_id']}", {"reply": {"text": "Tea."}})
    assert content(asking.answer()) == "Tea."
    again = door.control("POST", f"/calls/{call['call_id']}", {"reply": {"text": "Cake."}})
    assert again.status_code == 404


def test_a_function_may_let_things_go_wrong(door: TestDoor) -> None:
    door.rule({"function": True})
    asking = Asking(door)
    call = door.tell("GET", "/calls?wait=60")
    fault = {"kind": "status", "status": 503}
    door.tell("POST", f"/calls/{call['call_id']}", {"reply": {"fault": fault}})
    assert asking.answer().status_code == 503


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("error", "the function of rule-1 failed:\nZeroDivisionError"),
        ("timeout", "the function of rule-1 did not answer within 0.01 s"),
        ("reset", "the test that would have answered with a function has ended"),
    ],
)
def test_a_function_that_gives_no_answer_is_an_error(door: TestDoor, end: str, says: str) -> None:
    door.rule({"function": True, **({"timeout": 0.01} if end == "timeout" else {})})
    asking = Asking(door)
    if end != "timeout":
        call = door.tell("GET", "/calls?wait=60")
        if end == "error":
            door.tell("POST", f"/calls/{call['call_id']}", {"error": "ZeroDivisionError"})
        else:
            door.tell("POST", "/reset")
    answer = asking.answer()
    assert answer.status_code == 500
    assert says in answer.json()["message"]


def test_no_call_is_there_to_be_answered(door: TestDoor) -> None:
    assert door.control("GET", "/calls?wait=0").status_code == 204
    assert door.control("GET", "/calls").status_code == 204
    assert door.control("GET", "/calls?wait=-1").status_code == 422


def test_a_poll_ends_with_the_epoch_and_with_the_server() -> None:
    with scripted.start() as sim:
        door = TestDoor(sim, sim.port)
        results: list[int | str] = []

        def poll() -> None:
            headers = {"X-MLC-Sim-Token": TOKEN}
            try:
                url = f"{door.url}/sim/calls?wait=300"
                results.append(requests.get(url, headers=headers, timeout=310).status_code)
            except requests.RequestException:
                results.append("closed")

        for end in ("reset", "stop"):
            poller = threading.Thread(target=poll, daemon=True)
            poller.start()
            assert door.control("GET", "/calls?wait=0.2").status_code == 204
            if end == "stop":
                sim.stop(signal.SIGINT)
            deadline = time.monotonic() + DEADLINE_S  # sooner than the poll ends by itself
            while poller.is_alive() and time.monotonic() < deadline:
                if end == "reset":  # again: the poll may not have come before the first time
                    door.tell("POST", "/reset")
                poller.join(0.1)
            assert not poller.is_alive()
        assert results[0] == 204


def test_a_call_is_not_lost_to_a_poll_whose_client_has_gone(door: TestDoor) -> None:
    door.rule({"function": True})
    for _ in range(3):
        with door.connect() as channel:
            head = f"GET /sim/calls?wait=60 HTTP/1.1\r\nHost: x\r\nX-MLC-Sim-Token: {TOKEN}\r\n\r\n"
            channel.sendall(head.encode())
    assert door.control("GET", "/calls?wait=0.1").status_code == 204
    asking = Asking(door)
    call = door.tell("GET", "/calls?wait=60")
    door.tell("POST", f"/calls/{call['call_id']}", {"reply": {"text": "found"}})
    assert content(asking.answer()) == "found"
