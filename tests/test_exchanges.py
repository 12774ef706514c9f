"""The record of requests: what it notes, and that it stays small."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time

import pytest

from pytest_mlc_server import exchanges
from pytest_mlc_server.exchanges import Exchange

URLS = (f"http://record-{number}.invalid" for number in itertools.count())

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"


@pytest.fixture
def url() -> str:
    """A server that no other test asks."""
    return next(URLS)


def only(url: str) -> Exchange:
    (exchange,) = exchanges.since(url, 0)
    return exchange


def test_the_fields_of_a_record() -> None:
    assert [field.name for field in dataclasses.fields(Exchange)] == [
        "server",
        "method",
        "path",
        "status",
        "start",
        "seconds",
        "ttft_s",
        "prompt_tokens",
        "completion_tokens",
        "error",
    ]


def test_a_request_is_there_while_it_is_under_way(url: str) -> None:
    before = time.time()
    observation = exchanges.begin(url, "POST", "/v1/completions")
    under_way = only(url)
    assert under_way == Exchange(url, "POST", "/v1/completions", start=under_way.start)
    assert under_way.start is not None
    assert before <= under_way.start <= time.time()
    observation.answered(200, JSON)
    assert (only(url).status, only(url).ttft_s, only(url).seconds) == (200, None, None)
    observation.feed(b"")
    assert only(url).ttft_s is None
    observation.feed(b"{}")
    first = only(url).ttft_s
    observation.feed(b" ")
    observation.end()
    ended = only(url)
    assert ended.ttft_s == first
    assert ended.seconds is not None
    assert ended.seconds >= (first or 0) > 0
    assert under_way.status is None  # a copy


def test_only_a_servers_own_and_later_ones_in_order(url: str) -> None:
    exchanges.begin(url, "GET", "/a")
    exchanges.begin(next(URLS), "GET", "/b")
    between = time.time()
    while time.time() == between:
        pass
    exchanges.begin(url, "GET", "/c")
    exchanges.begin(url, "GET", "/d")
    assert [one.path for one in exchanges.since(url, 0)] == ["/a", "/c", "/d"]
    assert [one.path for one in exchanges.since(url, between)] == ["/c", "/d"]
    assert exchanges.since(url, time.time() + 60) == []


def test_the_record_is_bounded(url: str) -> None:
    for number in range(exchanges.LIMIT + 5):
        exchanges.begin(url, "GET", f"/{number}")
    found = exchanges.since(url, 0)
    assert len(found) == exchanges.LIMIT
    assert found[0].path == "/5"


@pytest.mark.parametrize(
    ("parts", "tokens"),
    [
        ([b'{"usage":{"prompt_tokens":7,"completion_tokens":2}}'], (7, 2)),
        ([b'{"usage"', b':{"prompt_tokens":7}}'], (7, None)),
        ([b'{"choices":[{"usage":{"prompt_tokens":7}}]}'], (None, None)),
        ([b'{"usage":null}'], (None, None)),
        ([b'{"usage":[1]}'], (None, None)),
        ([b'{"usage":{"prompt_tokens":"7","completion_tokens":true}}'], (None, None)),
        ([b'["usage"]'], (None, None)),
        ([b'{"usage":'], (None, None)),
        ([], (None, None)),
    ],
)
def test_tokens_of_an_answer(
    url: str, parts: list[bytes], tokens: tuple[int | None, int | None]
) -> None:
    observation = exchanges.begin(url, "POST", "/v1/completions")
    observation.answered(200, JSON)
    for part in parts:
        observation.feed(part)
    observation.end()
    assert (only(url).prompt_tokens, only(url).completion_tokens) == tokens


def event(**body: object) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


LAST = event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 2})


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b""])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_tokens_of_a_stream_wherever_it_is_cut(
    url: str, size: int, end: bytes, line_end: bytes
) -> None:
    text = event(choices=[1], usage=None) + event(choices=['say "usage"']) + LAST + end
    text = text.replace(b"\n", line_end)
    observation = exchanges.begin(url, "POST", "/v1/chat/completions")
    observation.answered(200, EVENTS)
    for start in range(0, len(text), size):
        observation.feed(text[start : start + size])
    observation.end()
    assert (only(url).prompt_tokens, only(url).completion_tokens) == (7, 2)


def test_a_stream_that_breaks_off_after_its_usage_without_a_line_end(url: str) -> None:
    observation = exchanges.begin(url, "POST", "/v1/chat/completions")
    observation.answered(200, EVENTS)
    observation.feed(LAST.rstrip())
    observation.end("cut off")
    assert (only(url).prompt_tokens, only(url).error) == (7, "cut off")


@pytest.mark.parametrize(
    ("kind", "encoding"), [(JSON, "gzip"), ("text/plain", ""), ("", ""), (EVENTS, "br")]
)
def test_what_cannot_be_read_has_no_tokens(url: str, kind: str, encoding: str) -> None:
    observation = exchanges.begin(url, "GET", "/x")
    observation.answered(200, kind, encoding)
    observation.feed(LAST if kind == EVENTS else LAST[6:])
    observation.end()
    assert (only(url).prompt_tokens, only(url).ttft_s is None) == (None, False)


@pytest.mark.parametrize("kind", [JSON, EVENTS])
def test_a_huge_body_is_not_kept(url: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "BODY_LIMIT", 1000)
    observation = exchanges.begin(url, "GET", "/x")
    observation.answered(200, kind)
    for _ in range(100):
        observation.feed(b"x" * 100)
        assert len(observation._held) <= 1000
    observation.feed(LAST)
    observation.end()
    assert only(url).prompt_tokens is None


def test_the_first_end_counts(url: str) -> None:
    observation = exchanges.begin(url, "GET", "/x")
    observation.end(ConnectionResetError(104, "reset\nby peer"))
    seconds = only(url).seconds
    observation.end(ValueError("later"))
    observation.feed(b"later")
    assert only(url).error == "ConnectionResetError: [Errno 104] reset"
    assert (only(url).seconds, only(url).ttft_s) == (seconds, None)


def test_an_error_without_words_has_its_name(url: str) -> None:
    exchanges.begin(url, "GET", "/x").end(KeyboardInterrupt())
    assert only(url).error == "KeyboardInterrupt"


@pytest.mark.parametrize(
    ("base", "url", "expected"),
    [
        ("http://a:80", "http://a:80/v1/x?y=1", ("http://a:80", "/v1/x?y=1")),
        ("http://a:80", "http://a:80", ("http://a:80", "/")),
        ("http://a:80", "http://a:8000/v1", ("http://a:8000", "/v1")),
        ("http://a/below", "http://a/below/v1", ("http://a/below", "/v1")),
        ("http://a", "https://b", ("https://b", "/")),
    ],
)
def test_whose_request_it_is(base: str, url: str, expected: tuple[str, str]) -> None:
    assert exchanges.target(base, url) == expected
