"""What goes wrong when it is told to, seen from the other end of the socket."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import requests

from tests.sim import scripted
from tests.sim.scripted import CHAT, TestDoor, content, conversation, read_all
from tests.sim.simulator import DEADLINE_S

CHUNKS: dict[str, Any] = {"chunks": ["a", "b", "c", "d", "e"]}


def statuses(door: TestDoor, count: int) -> list[int]:
    return [door.chat().status_code for _ in range(count)]


# --- HTTP errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (400, "application/json", json.dumps('{"object":"error","message":"M","code":400}')),
        (401, "application/json", '{"detail":"M"}'),
        (404, "application/json", '{"detail":"M"}'),
        (405, "application/json", '{"detail":"M"}'),
        (
            422,
            "application/json",
            '{"detail":[{"type":"value_error","loc":["body"],"msg":"M","input":null}]}',
        ),
        (429, "application/json", '{"object":"error","message":"M","code":429}'),
        (500, "text/plain; charset=utf-8", "M"),
        (503, "application/json", '{"object":"error","message":"M","code":503}'),
        (599, "application/json", '{"object":"error","message":"M","code":599}'),
    ],
)
def test_http_errors_have_the_real_server_s_bodies(
    door: TestDoor, status: int, content_type: str, body: str
) -> None:
    fault = {"kind": "status", "status": status, "message": "M", "headers": {"Retry-After": "7"}}
    door.rule({"fault": fault})
    answer = door.chat()
    assert (answer.status_code, answer.text) == (status, body)
    assert answer.headers["content-type"] == content_type
    assert answer.headers["retry-after"] == "7"


@pytest.mark.parametrize("path", ["/nowhere", CHAT])
def test_an_error_without_a_message_reads_as_the_real_one(door: TestDoor, path: str) -> None:
    real = {"/nowhere": (404, '{"detail":"Not Found"}'), CHAT: (500, "Internal Server Error")}
    status, text = real[path]
    body = conversation("Hello", n=0)
    answers = [door.post(path, body)]
    door.rule({"fault": {"kind": "status", "status": status}}, when={"endpoint": path})
    answers.append(door.post(path, body))
    assert [(answer.status_code, answer.text) for answer in answers] == [(status, text)] * 2
    types = {answer.headers["content-type"] for answer in answers}
    assert len(types) == 1


@pytest.mark.parametrize(("body", "text"), [({"a": [1]}, '{"a":[1]}'), ("plain", "plain")])
def test_an_error_with_a_body_of_its_own(door: TestDoor, body: object, text: str) -> None:
    door.rule({"fault": {"kind": "status", "status": 502, "body": body}})
    assert door.chat().text == text


@pytest.mark.parametrize(("status", "has_cors"), [(503, True), (400, True), (500, False)])
def test_errors_have_cors_headers_where_the_real_server_s_have(
    door: TestDoor, status: int, has_cors: bool
) -> None:
    door.rule({"fault": {"kind": "status", "status": status}})
    answer = door.post(CHAT, conversation("x"), headers={"Origin": "http://example.org"})
    assert ("access-control-allow-origin" in answer.headers) is has_cors


def test_an_error_precedes_what_the_server_finds_wrong(door: TestDoor) -> None:
    door.fault(fault={"kind": "status", "status": 503})
    assert door.post(CHAT, {"messages": 3}).status_code == 503


# --- how often ------------------------------------------------------------------------------------


def test_a_fault_happens_so_many_times(door: TestDoor) -> None:
    door.fault(fault={"kind": "status", "status": 503}, times=2)
    assert statuses(door, 3) == [503, 503, 200]


def test_a_sequence_of_faults(door: TestDoor) -> None:
    error = {"kind": "status", "status": 503}
    door.fault(sequence=[None, error, {"kind": "none"}, {**error, "status": 429}])
    assert statuses(door, 5) == [200, 503, 200, 429, 200]


def test_a_rate_is_drawn_from_the_seed_alone(door: TestDoor) -> None:
    fault = {"fault": {"kind": "status", "status": 503}, "rate": 0.5, "seed": 7}
    runs = []
    for _ in range(2):
        door.fault(**fault)
        runs.append(statuses(door, 20))
        door.tell("POST", "/reset")
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 503}
    door.fault(**{**fault, "seed": 8})
    assert statuses(door, 20) != runs[0]


@pytest.mark.parametrize(("rate", "expected"), [(0, 200), (1, 503)])
def test_certain_rates(door: TestDoor, rate: float, expected: int) -> None:
    door.fault(fault={"kind": "status", "status": 503}, rate=rate)
    assert statuses(door, 5) == [expected] * 5


def test_a_fault_of_the_door_happens_to_those_it_is_for(door: TestDoor) -> None:
    door.fault(fault={"kind": "status", "status": 503}, when={"last_message": "bad"}, times=1)
    assert door.chat("good").status_code == 200
    assert requests.get(f"{door.url}/v1/models", timeout=DEADLINE_S).status_code == 200
    assert door.chat("bad").status_code == 503
    assert door.chat("bad").status_code == 200


@pytest.mark.parametrize("by", ["rule", "door"])
def test_a_fault_that_names_no_endpoint_is_for_embeddings_too(door: TestDoor, by: str) -> None:
    fault = {"kind": "status", "status": 503}
    if by == "rule":
        door.rule({"fault": fault})
    else:
        door.fault(fault=fault)
    assert door.post("/v1/embeddings", {"input": "x"}).status_code == 503
    assert door.post("/v1/completions", {"prompt": "x"}).status_code == 503


def test_a_fault_before_the_answer_uses_up_no_rule(door: TestDoor) -> None:
    door.rule({"text": "kept"}, times=1)
    door.fault(fault={"kind": "status", "status": 503}, times=1)
    assert door.chat().status_code == 503
    assert content(door.chat()) == "kept"


def test_a_fault_is_recorded(door: TestDoor) -> None:
    door.fault(fault={"kind": "status", "status": 503}, times=1)
    door.chat("first")
    door.chat("second")
    found = [(record["status"], record["fault"]) for record in door.requests]
    assert found == [(503, "status"), (200, None)]


# --- connections ----------------------------------------------------------------------------------


def test_a_reset_comes_before_any_answer(door: TestDoor) -> None:
    door.rule({"fault": {"kind": "reset"}}, times=1)
    with door.send_chat() as channel, pytest.raises(ConnectionResetError):
        read_all(channel)
    assert door.chat().status_code == 200
    assert door.requests[0]["status"] is None


def test_connections_are_reset_as_soon_as_they_are_accepted(door: TestDoor) -> None:
    door.fault(fault={"kind": "reset", "accept": True}, times=2)
    for _ in range(2):
        # Nothing is sent: the reset waits for no request. It may even come before `connect` ends.
        with pytest.raises(ConnectionResetError), door.connect() as channel:
            read_all(channel)
    assert door.chat().status_code == 200
    assert len(door.requests) == 1


def test_connections_are_reset_in_a_sequence(door: TestDoor) -> None:
    door.fault(sequence=[None, {"kind": "reset", "accept": True}])
    assert door.chat().status_code == 200
    with pytest.raises(requests.ConnectionError):
        door.chat()
    assert door.chat().status_code == 200


def test_connections_are_refused_until_the_door_is_told_otherwise(door: TestDoor) -> None:
    with requests.Session() as kept:
        kept.trust_env = False
        url = f"{door.url}/v1/models"
        assert kept.get(url, timeout=DEADLINE_S).status_code == 200
        door.fault(fault={"kind": "refuse"})
        with pytest.raises(ConnectionRefusedError):
            door.connect()
        # A connection that was kept is closed: nobody listens there any more.
        with pytest.raises(requests.ConnectionError):
            kept.get(url, timeout=DEADLINE_S)
    door.tell("DELETE", "/faults")
    assert door.chat().status_code == 200


@pytest.mark.parametrize("how", ["reset", "again", "seconds"])
def test_a_door_that_refuses_listens_again(door: TestDoor, how: str) -> None:
    door.fault(fault={"kind": "refuse", "seconds": 0.05 if how == "seconds" else None})
    if how == "again":
        door.fault(fault={"kind": "refuse"})
    if how != "seconds":
        with pytest.raises(ConnectionRefusedError):
            door.connect()
        door.tell("POST", "/reset")
    tries = 0
    while True:
        try:
            door.connect().close()
            break
        except ConnectionRefusedError:
            tries += 1
            assert how == "seconds", "it listens as soon as the control request is answered"
            threading.Event().wait(0.01)
    assert tries < DEADLINE_S / 0.01
    assert door.chat().status_code == 200


def test_a_rule_takes_the_port_down(door: TestDoor) -> None:
    door.rule({"fault": {"kind": "refuse"}}, when={"last_message": "poison"})
    assert door.chat("fine").status_code == 200
    with pytest.raises(requests.ConnectionError):
        door.chat("poison")
    with pytest.raises(ConnectionRefusedError):
        door.connect()
    door.tell("POST", "/reset")
    assert door.chat("poison").status_code == 200


# --- answers that break off -----------------------------------------------------------------------


def said(stream: bytes) -> list[str]:
    """Return what the whole events of a stream say, which may be cut off anywhere."""
    _, _, body = stream.partition(b"\r\n\r\n")
    found = []
    for line in body.decode().splitlines():
        if line.startswith("data: {"):
            (choice,) = json.loads(line.removeprefix("data: "))["choices"]
            found.append(choice["delta"]["content"])
    return found


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_stream_is_disconnected_within_its_chunks(door: TestDoor, after: int) -> None:
    door.rule({**CHUNKS, "fault": {"kind": "disconnect", "after": after}})
    with door.send_chat(stream=True) as channel:
        received = read_all(channel)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"transfer-encoding: chunked" in received.lower()
    assert said(received) == CHUNKS["chunks"][:after]
    # The chunked encoding has no end, and the stream has no [DONE].
    assert not received.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in received


def test_a_stream_is_reset_within_its_chunks(door: TestDoor) -> None:
    door.rule({**CHUNKS, "fault": {"kind": "reset", "after": 2}})
    received: list[bytes] = []
    with door.send_chat(stream=True) as channel, pytest.raises(ConnectionResetError):
        received.extend(iter(lambda: channel.recv(65536), b""))
    assert said(b"".join(received)) == ["a", "b"]


def test_an_answer_in_one_piece_ends_after_its_headers(door: TestDoor) -> None:
    door.rule({"text": "never", "fault": {"kind": "disconnect", "after": 3}})
    with door.send_chat() as channel:
        received = read_all(channel)
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-length: " in head.lower()
    assert body == b""


@pytest.mark.parametrize("stream", [True, False])
def test_a_stalled_answer_goes_on_after_its_time(door: TestDoor, stream: bool) -> None:
    door.rule({**CHUNKS, "fault": {"kind": "stall", "after": 2, "seconds": 0.2}})
    answer = door.chat(stream=stream)
    assert answer.elapsed.total_seconds() < DEADLINE_S
    text = scripted.streamed(answer) if stream else content(answer)
    assert text == "abcde"
    assert door.requests[0]["fault"] == "stall"


@pytest.mark.parametrize("stream", [True, False])
def test_a_stall_for_ever_ends_when_the_client_goes_away(door: TestDoor, stream: bool) -> None:
    door.rule({**CHUNKS, "fault": {"kind": "stall", "after": 2}}, times=1)
    channel = door.send_chat(stream=stream)
    received = channel.recv(65536)
    while stream and len(said(received)) < 2:
        received += channel.recv(65536)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert said(received) == (["a", "b"] if stream else [])
    (record,) = door.requests
    assert not record["finished"]
    assert record["reply"] == ("ab" if stream else None)
    channel.close()
    assert door.chat().status_code == 200


def test_a_malformed_event_is_followed_by_the_others(door: TestDoor) -> None:
    door.rule({**CHUNKS, "fault": {"kind": "malformed", "after": 1}})
    *found, end, rest = door.chat(stream=True).text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    parsed: list[Any] = []
    for event in found:
        assert event.startswith("data: {")
        try:
            body = json.loads(event.removeprefix("data: "))
        except ValueError:
            parsed.append(None)
        else:
            parsed.append(body["choices"][0]["delta"]["content"])
    assert parsed[:5] == ["a", None, "c", "d", "e"]


def test_a_malformed_answer_in_one_piece_is_cut_json(door: TestDoor) -> None:
    door.rule({"text": "x", "fault": {"kind": "malformed"}})
    answer = door.chat()
    assert answer.status_code == 200
    assert len(answer.content) == int(answer.headers["content-length"])
    with pytest.raises(ValueError, match=r"line 1 column"):
        json.loads(answer.text)


def test_a_fault_of_the_door_happens_within_a_rule_s_reply(door: TestDoor) -> None:
    door.rule(CHUNKS)
    door.fault(fault={"kind": "disconnect", "after": 1}, times=1)
    with door.send_chat(stream=True) as channel:
        assert said(read_all(channel)) == ["a"]
    assert scripted.streamed(door.chat(stream=True)) == "abcde"


def test_a_stream_that_is_cut_off_leaves_its_place_to_others(door: TestDoor) -> None:
    door.rule({**CHUNKS, "fault": {"kind": "disconnect", "after": 1}}, times=8)
    for _ in range(8):
        with door.send_chat(stream=True) as channel:
            read_all(channel)
    assert content(door.chat()) != "abcde"


def test_many_faults_leave_no_connection_open(door: TestDoor) -> None:
    kinds: list[dict[str, Any]] = [
        {"kind": "reset"},
        {"kind": "disconnect"},
        {"kind": "reset", "after": 1},
        {"kind": "status", "status": 503},
    ]
    door.fault(sequence=kinds * 5)

    def ask() -> None:
        for _ in range(5):
            with door.send_chat(stream=True) as channel:
                try:
                    read_all(channel)
                except ConnectionResetError:
                    continue

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert door.chat().status_code == 200
    assert len(door.requests) == 21
