"""What is kept of requests, and that it does not grow without end."""

from __future__ import annotations

import json

import pytest

from pytest_mlc_server.sim import records
from pytest_mlc_server.sim.matching import Question
from pytest_mlc_server.sim.records import Entry, Records, reply_text


def entry(number: int, content: bytes = b"{}") -> Entry:
    question = Question("POST", "/v1/completions", {}, content, str)
    return Entry(number, "", question)


def test_the_newest_records_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_RECORDS", 3)
    kept = Records()
    for number in range(5):
        kept.add(entry(number))
    assert [item.id for item in kept] == [2, 3, 4]
    assert kept.dropped == 2


def test_bodies_of_requests_and_answers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_BYTES", 100)
    kept = Records()
    first, second, third = (entry(number, b"x" * 30) for number in range(3))
    for item in (first, second, third):
        kept.add(item)
    assert len(list(kept)) == 3
    third.answer += b"y" * 30
    kept.end(third)
    assert [item.id for item in kept] == [1, 2]
    # One that was dropped while it was answered makes no room a second time.
    first.answer += b"y" * 1000
    kept.end(first)
    assert [item.id for item in kept] == [1, 2]
    assert kept.dropped == 1


def test_nothing_parsed_is_kept() -> None:
    kept = Records()
    item = entry(1, b'{"prompt": "a"}')
    kept.add(item)
    assert item.question.last_message == "a"
    assert {"body", "messages"} <= set(vars(item.question))
    kept.end(item)
    assert not {"body", "messages"} & set(vars(item.question))
    assert item.as_record().body == {"prompt": "a"}


@pytest.mark.parametrize("size", [10, records.MAX_BODY + 10])
def test_an_answer_is_kept_in_part(size: int) -> None:
    item = entry(1)
    headers = [(b"content-type", b"text/plain")]
    item.answered({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(2):
        item.answered({"type": "http.response.body", "body": b"x" * size, "more_body": True})
    assert len(item.answer) == min(2 * size, records.MAX_BODY)
    assert not item.finished


CHUNK = json.dumps({"choices": [{"index": 0, "delta": {"content": "a"}}]})
OTHER = json.dumps({"choices": [{"index": 1, "delta": {"content": "no"}}]})
CALLS = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {}}}]


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("application/json", {"choices": [{"index": 0, "text": "t"}]}, "t"),
        ("application/json", {"choices": [{"index": 0, "message": {"content": "m"}}]}, "m"),
        (
            "application/json",
            {"choices": [{"index": 0, "message": {"content": None, "tool_calls": CALLS}}]},
            json.dumps(CALLS),
        ),
        ("application/json", {"detail": "Not Found"}, None),
        ("application/json", [], None),
        ("application/json", {"choices": []}, None),
        ("text/plain", "text", None),
        ("text/event-stream; charset=utf-8", f"data: {CHUNK}\n\n" * 3 + "data: [DONE]\n\n", "aaa"),
        ("text/event-stream", f"data: {CHUNK}\n\ndata: {OTHER}\n\ndata: {CHUNK[:20]}", "a"),
        ("text/event-stream", "data: [DONE]\n\n", None),
    ],
)
def test_the_text_of_an_answer(content_type: str, body: object, text: str | None) -> None:
    sent = body if isinstance(body, str) else json.dumps(body)
    assert reply_text(content_type, sent.encode()) == text


def test_the_newest_of_a_time_are_listed_in_short() -> None:
    kept = Records()
    for number in range(5):
        item = entry(number)
        item.came = 100.0 + number
        kept.add(item)
    assert [item.id for item in kept.since(102.0, 10)] == [2, 3, 4]
    assert [item.id for item in kept.since(0.0, 2)] == [3, 4]
    assert kept.since(105.0, 10) == []


@pytest.mark.parametrize("kind", [b"text/event-stream; charset=utf-8", b"application/json"])
def test_a_line_says_how_long_it_took(kind: bytes) -> None:
    kept = Records()
    item = entry(1)
    kept.add(item)
    line = item.as_line()
    assert (line["status"], line["seconds"], line["ttft_s"]) == (None, None, None)
    headers = [(b"content-type", kind)]
    item.answered({"type": "http.response.start", "status": 200, "headers": headers})
    item.answered({"type": "http.response.body", "body": b"", "more_body": True})
    assert item.began is None
    item.answered({"type": "http.response.body", "body": b"data: 1", "more_body": True})
    item.answered({"type": "http.response.body", "body": b"data: 2"})
    kept.end(item)
    line = item.as_line()
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/completions", 200)
    assert line["start"] == item.came
    assert line["seconds"] >= 0
    assert (line["ttft_s"] is not None) == (b"stream" in kind)
    assert line["finished"]
