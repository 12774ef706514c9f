"""The last requests of a failing test: who saw them, each once, with status and duration."""

from __future__ import annotations

import json
import re
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_mlc_server.reporting import requested
from pytest_mlc_server.reporting.requested import text_of, together
from tests.support_plugin import Suite

# Before any inner run: what it loads is forgotten after it, and then half of it is there twice.
pytest.importorskip("requests")
URL = "http://127.0.0.1:1"


def row(path: str = "/v1/models", **known: Any) -> dict[str, Any]:
    names = ("status", "start", "seconds", "ttft_s", "prompt_tokens", "completion_tokens")
    made = {"server": URL, "method": "GET", "path": path, **dict.fromkeys(names)}
    return {**made, "error": "", "source": "log", **known}


CLIENT: dict[str, Any] = {"source": "client", "seconds": 1.0}


@pytest.mark.parametrize(
    ("seen", "sent", "rows"),
    [
        ([], [], []),
        ([row(status=200)], [], ["log"]),
        ([row(status=200)], [row(status=200, **CLIENT)], ["client"]),
        ([row("/a?q=1", status=200)], [row("/a", status=200, **CLIENT)], ["client"]),
        # Another method, path or status: another request.
        ([row(status=200)], [row(status=404, **CLIENT)], ["log", "client"]),
        ([row(status=200)], [row("/other", status=200, **CLIENT)], ["log", "client"]),
        ([row(status=200)], [row(status=200, **CLIENT, method="POST")], ["log", "client"]),
        # A client that did not wait for the answer, and a server that has not answered.
        ([row(status=200)], [row(**CLIENT)], ["client"]),
        ([row()], [row(status=200, **CLIENT)], ["client"]),
        ([], [row(**CLIENT, error="refused")], ["client"]),
        # Each matches one: three seen of which two are the clients'.
        ([row(status=200)] * 3, [row(status=200, **CLIENT)] * 2, ["client", "client", "log"]),
        (
            [row("/a", status=200), row("/b", status=200)],
            [row("/b", status=200, **CLIENT)],
            ["log", "client"],
        ),
    ],
)
def test_a_request_that_several_saw_is_one(
    seen: list[dict[str, Any]], sent: list[dict[str, Any]], rows: list[str]
) -> None:
    assert [one["source"] for one in together(seen, sent)] == rows


def test_of_those_that_are_alike_the_one_of_that_time_is_meant() -> None:
    seen = [row("/a", start=at, source="simulator") for at in (1.0, 5.0, 9.0)]
    sent = [row("/a", **CLIENT, start=4.99, ttft_s=0.5), row("/a", **CLIENT, start=8.9)]
    rows = together(seen, sent)
    assert [one["source"] for one in rows] == ["simulator", "client", "client"]
    assert rows[1]["ttft_s"] is None  # the simulator knows that it was no stream


@pytest.mark.parametrize(
    ("seen", "sent", "sources"),
    [
        # Seen late by a busy server: the one just before it was sent is not meant.
        ([1.0, 1.06], {"start": 1.01, "seconds": 0.07}, ["simulator", "client"]),
        # Nor the one just after it was over.
        ([1.06, 1.08], {"start": 1.0, "seconds": 0.07}, ["client", "simulator"]),
        # A clock of another machine, which is behind, changes nothing where there is no doubt.
        ([0.5, 7.0], {"start": 1.0, "seconds": 0.1}, ["client", "simulator"]),
        ([0.5, 1.5], {"start": 1.4, "seconds": None}, ["simulator", "client"]),
    ],
)
def test_of_those_that_are_alike_none_is_meant_that_it_cannot_have_been(
    seen: list[float], sent: dict[str, Any], sources: list[str]
) -> None:
    known = [row("/a", start=at, source="simulator") for at in seen]
    rows = together(known, [row("/a", source="client", **sent)])
    assert [one["source"] for one in rows] == sources


def test_requests_are_in_the_order_of_their_times_where_all_have_one() -> None:
    seen = [row("/1", start=1.0), row("/3", start=3.0)]
    sent = [row("/2", start=2.0, **CLIENT)]
    assert [one["path"] for one in together(seen, sent)] == ["/1", "/2", "/3"]
    seen[0]["start"] = None
    assert [one["path"] for one in together(seen, sent)] == ["/1", "/3", "/2"]


def test_the_text_of_a_section() -> None:
    chat = "/v1/chat/completions"
    rows = [row("/earlier") for _ in range(3)] + [
        row(f"/{n}", status=200, seconds=0.5, source="simulator") for n in range(16)
    ]
    rows += [
        row(chat, method="POST", status=200, seconds=12.345, ttft_s=0.5, source="client",
            prompt_tokens=7, completion_tokens=3),
        row(chat, method="POST", error="ReadTimeout: no answer", seconds=1.0, source="client"),
        row("/long/" * 20, status=404, source="simulator"),
        row("/last", status=500),
    ]  # fmt: skip
    lines = text_of(rows).splitlines()
    assert lines[0] == "[3 earlier ones left out]"
    assert re.fullmatch(r"GET /0 +200 +0\.50 s", lines[1])
    assert re.fullmatch(
        rf"POST {chat} +200  12\.35 s  first token after 0\.50 s, 7 prompt \+ 3 completion tokens",
        lines[17],
    )
    assert re.fullmatch(rf"POST {chat} +-   1\.00 s  ReadTimeout: no answer", lines[18])
    assert re.fullmatch(r"GET /long/.*\.\.\.  404        -", lines[19])
    assert re.fullmatch(r"GET /last +500        -", lines[20])
    assert [line[:4] for line in lines[21:]] == ['"-":', '"-":']


# --- runs -----------------------------------------------------------------------------------------

DATA = """
    import json

    def pytest_runtest_logreport(report):
        rows = getattr(report, "mlc_requests", None)
        if rows is not None:
            print("ROWS", report.nodeid.partition("::")[2], report.when, json.dumps(rows))
    """


def rows_of(result: pytest.RunResult) -> dict[str, list[dict[str, Any]]]:
    """Return the rows that reports carried, by test and phase."""
    found = [line[line.index("ROWS") :] for line in result.outlines if "ROWS" in line]
    words = [line.split(" ", 3) for line in found]
    return {f"{test} {when}": json.loads(rows) for _, test, when, rows in words}


def section(result: pytest.RunResult, title: str = "mlc server requests") -> list[list[str]]:
    """Return the lines of each section of a title."""
    text = result.stdout.str()
    found = re.findall(rf"^-+ {title}[^\n]*-+\n((?:(?!- |[-=_]{{3}}).*\n)*)", text, re.MULTILINE)
    return [one.rstrip().splitlines() for one in found]


ASKS = """
    import pytest
    import requests

    def post(server, **body):
        url = f"{server.openai_v1_base_url}/chat/completions"
        message = {"role": "user", "content": "hello"}
        requests.post(url, json={"messages": [message], **body}, timeout=60)

    @pytest.fixture
    def asks(mlc_server):
        post(mlc_server)

    @pytest.fixture
    def fails(asks):
        raise RuntimeError

    @pytest.fixture
    def fails_afterwards(asks):
        yield
        raise RuntimeError

    def test_fails(asks, mlc_server):
        mlc_server.chat("hello")
        post(mlc_server, stream=True)
        requests.get(f"{mlc_server.base_url}/nothing?a=1", timeout=60)
        assert False

    def test_passes(asks): pass

    def test_uses_nothing(): assert False

    def test_in_setup(fails): pass

    def test_in_teardown(fails_afterwards): pass

    def test_last(mlc_server): pass
    """


@pytest.mark.parametrize("report", [False, True])
def test_the_simulator_tells_what_the_client_does_not(suite: Suite, report: bool) -> None:
    suite.write(conftest=DATA, test_it=ASKS)
    more = ["--mlc-report=report.json"] if report else []
    result = suite.run_bare("--mlc-engine=sim", "-s", *more)
    result.assert_outcomes(passed=3, failed=2, errors=2)
    found = rows_of(result)
    tests = {"test_fails call", "test_in_setup setup", "test_in_teardown teardown"}
    tests |= {"test_passes call", "test_in_teardown call"} if report else set()
    assert found.keys() == tests
    rows = found["test_fails call"]
    sources = ["simulator", "client", "simulator", "simulator"]
    assert [one["source"] for one in rows] == sources
    assert [one["status"] for one in rows] == [200, 200, 200, 404]
    assert rows[-1]["path"] == "/nothing?a=1"
    assert all(one["seconds"] >= 0 and one["start"] > 1e9 for one in rows)
    assert rows[2]["ttft_s"] is not None
    assert rows[1]["completion_tokens"] > 0
    for one in rows:
        assert one.keys() == row().keys()
    in_setup, in_teardown, first = section(result)
    assert len(first) == 4
    assert re.fullmatch(r"POST /v1/chat/completions +200 +\d\.\d\d s.*", first[1])
    assert len(in_setup) == len(in_teardown) == 1


def test_of_other_servers_the_log_tells(suite: Suite) -> None:
    suite.write(conftest=DATA)
    suite.tests(
        """
        from urllib.request import urlopen

        def test_fails(mlc_server):
            urlopen(f"{mlc_server.base_url}/asked").close()
            assert False

        def test_again(mlc_server):
            assert False
        """
    )
    result = suite.run("-s", "--mlc-reset=test")
    result.assert_outcomes(failed=2)
    # Neither what asked whether it is ready, nor what looked at it afterwards, nor the reset.
    ((one,),) = rows_of(result).values()
    assert one == row("/asked", server=one["server"])
    assert section(result) == [
        [
            "GET /asked    -        -",
            '"-": all that is known of it is a line of the server\'s log, without times',
        ]
    ]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b'HTTP/1.1 404 Not Found\r\nContent-Length: 22\r\n\r\n{"detail":"Not Found"}',
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n[",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_a_simulator_that_does_not_answer_is_not_waited_for(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requested, "ANSWER_WITHIN", 60.0 if answer else 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(answer)
                # Without an answer, until the other side has had enough.
                while not answer and connection.recv(65536):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        stub: Any = SimpleNamespace(base_url=url, sim_token="t", poll=lambda: "ready")
        assert requested.simulated(stub, 0.0, 1.0) is None
        thread.join()
        stub.poll = lambda: "wedged"
        assert requested.simulated(stub, 0.0, 1.0) is None
