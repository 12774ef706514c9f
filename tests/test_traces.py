"""Traces of tests: what is in them, what their files are called, and when there is none."""

from __future__ import annotations

import json
import os
import socket
import string
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mlc_server import PopenServer, ServerConfig, traces, tracing
from pytest_mlc_server.traces import NoTracingError, TraceError

RECORDED = Path(__file__).parent / "data" / "event-trace.json"

#: Names that Windows keeps for devices, with any ending.
RESERVED = {"con", "prn", "aux", "nul", "com1", "lpt1"}


def events(request: str, *names: tuple[str, str], ts: int = 1) -> list[dict[str, Any]]:
    return [{"name": name, "ph": ph, "ts": ts, "pid": 1, "tid": request} for name, ph in names]


# --- names ----------------------------------------------------------------------------------------


@given(st.text(max_size=300))
def test_a_name_is_one_on_every_file_system(test: str) -> None:
    name = traces.file_name(test)
    assert set(name) <= set(string.ascii_letters + string.digits + "_-")
    assert 1 < len(name) <= traces.NAME_LENGTH + 11
    assert not name.startswith("-")
    assert name.lower() not in RESERVED


@given(st.lists(st.text(max_size=20), unique=True, max_size=20))
def test_no_two_tests_have_one_name_whatever_the_case(tests: list[str]) -> None:
    assert len({traces.file_name(test).lower() for test in tests}) == len(tests)


def test_a_name_tells_which_test_it_was() -> None:
    name = traces.file_name("tests/api/test_chat.py::TestChat::test_long[Ünïcode-1/2]")
    assert name.rpartition("-")[0] == "tests-api-test_chat-TestChat-test_long-Unicode-1-2"
    long = traces.file_name(f"tests/{'deep/' * 50}test_it.py::test_this")
    assert "test_it-test_this-" in long


def test_each_file_is_a_new_one(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    paths = [traces.write({"n": n}, str(directory), "t.py::t") for n in range(3)]
    assert len(set(paths)) == 3
    assert [json.loads(Path(path).read_text())["n"] for path in paths] == [0, 1, 2]
    endings = [path.removeprefix(paths[0].removesuffix(".trace.json")) for path in paths]
    assert endings == [".trace.json", "-2.trace.json", "-3.trace.json"]


def test_half_a_file_is_none(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        traces.write({"events": [object()]}, str(tmp_path), "t")
    assert list(tmp_path.iterdir()) == []


# --- what is in them ------------------------------------------------------------------------------


def test_the_viewers_get_numbers_for_threads_and_their_names() -> None:
    dumped = events("chatcmpl-1", ("a (0)", "i")) + events("cmpl-2", ("b (0)", "i"))
    trace = traces.of_test("t.py::t[<x>]", 1.0, 3.5, [("one", dumped), ("two", dumped)])
    found = json.loads(json.dumps(trace))
    named: dict[str, list[Any]] = {"process_name": [], "thread_name": []}
    for event in found["traceEvents"]:
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["ph"] == "M":
            named[event["name"]].append((event["pid"], event["args"]["name"]))
    assert named["process_name"] == [(0, "pytest"), (1, "one"), (2, "two")]
    threads = [(0, "test"), (1, "chatcmpl-1"), (1, "cmpl-2"), (2, "chatcmpl-1"), (2, "cmpl-2")]
    assert named["thread_name"] == threads
    (test,) = [event for event in found["traceEvents"] if event["ph"] == "X"]
    assert (test["name"], test["ts"], test["dur"]) == ("t.py::t[<x>]", 1_000_000, 2_500_000)
    assert found["otherData"] == {"test": "t.py::t[<x>]", "servers": ["one", "two"]}


def test_only_what_happened_during_the_test_is_in_it() -> None:
    dumped = [event for ts in (1, 2_000_000, 9_000_000) for event in events("r", ("a", "i"), ts=ts)]
    assert [event["ts"] for event in traces.between(dumped, 1.5, 8.0)] == [2_000_000]


def test_a_request_for_the_metrics_is_not_in_it() -> None:
    recorded = json.loads(RECORDED.read_text())
    dumped = [
        event
        for number, (name, of_one) in enumerate(recorded.items())
        for event in events(f"{name} {number}", *map(tuple, of_one))
    ]
    shown = {event["tid"] for event in traces.between(dumped, 0.0, 1.0)}
    left_out = {event["tid"] for event in dumped} - shown
    assert all("metrics" in request for request in left_out)
    assert any("chat" in request for request in shown)
    own = events("x", ("receive request (0)", "i"), ("yield final usage (0)", "i"))
    assert traces.between(own, 0.0, 1.0) == []


# --- asking for one -------------------------------------------------------------------------------

Serve = Callable[[bytes], Any]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a server that answers its one request with these bytes; with none, not at all."""
    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def make(answer: bytes) -> Any:
        listener = socket.create_server(("127.0.0.1", 0))
        opened.append(listener)

        def answer_one() -> None:
            connection, _ = listener.accept()
            opened.append(connection)
            connection.recv(65536)
            if answer:
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)

        threads.append(threading.Thread(target=answer_one, daemon=True))
        threads[-1].start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        stub = {"base_url": url, "model": "m", "api_key": "k", "poll": lambda: "ready"}
        return SimpleNamespace(**stub)

    yield make
    for thread in threads:  # the client may have its answer before the thread is through
        thread.join(60)
    for one in opened:
        one.close()


def answered(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_the_events_come_as_a_list_or_as_a_trace(serve: Serve) -> None:
    for body in (b'[{"ts": 1}, 5]', b'{"traceEvents": [{"ts": 1}]}'):
        assert traces.dump(serve(answered("200 OK", body))) == [{"ts": 1}]


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            answered("404 Not Found", b'{"detail":"Not Found"}'),
            NoTracingError,
            "answers 404: .*Not",
        ),
        (answered("400 Bad Request", b"not enable tracing"), NoTracingError, "400: not enable"),
        (answered("500 Oh", b""), TraceError, r"answers 500: \(empty\)"),
        (answered("200 OK", b"null"), TraceError, "no list of events"),
        (answered("200 OK", b"[{"), TraceError, "no list of events"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[", TraceError, "IncompleteRead|no list"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[1]" * 100, TraceError, "more than 0 MiB|no list"),
        (b"nonsense\r\n\r\n", TraceError, "BadStatusLine"),
        (b"", TraceError, "no answer within 0.2 s"),
    ],
)
def test_a_server_that_gives_none(
    serve: Serve, answer: bytes, kind: type[TraceError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "LONGEST", 200)
    with pytest.raises(TraceError, match=words) as caught:
        traces.dump(serve(answer), timeout=0.2 if not answer else 60.0)
    assert type(caught.value) is kind


@pytest.mark.parametrize("trouble", ["", "it is wedged\nevidence"])
def test_a_server_that_is_gone_is_not_asked(trouble: str) -> None:
    gone = cast("PopenServer", SimpleNamespace(poll=lambda: "exited", trouble=trouble))
    with pytest.raises(TraceError) as caught:
        traces.dump(gone)
    assert str(caught.value) == ("it is wedged" if trouble else "the server is exited")


# --- the settings ---------------------------------------------------------------------------------


def test_a_configuration_is_made_to_trace_where_that_can_be_had() -> None:
    plain = ServerConfig(engine="sim")
    traced = tracing.traced(plain)
    assert traced.enable_tracing
    assert "--mlc-trace" in traced.describe("enable_tracing")
    assert tracing.traced(traced) is traced
    external = ServerConfig(url="http://127.0.0.1:1")
    assert tracing.traced(external) is external


def test_a_directory_is_tried_and_not_left(tmp_path: Path) -> None:
    assert tracing.output_problem(str(tmp_path / "a" / "b")) == ""
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    assert tracing.output_problem(str(tmp_path / "there")) == ""
    assert [one.name for one in tmp_path.iterdir()] == ["there"]


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at" / "all")
    for place in ("file", "file/below", "dangling"):
        assert tracing.output_problem(os.path.join(tmp_path, place))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["dangling", "file"]
