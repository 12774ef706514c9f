"""What the simulator prints while it serves, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from http import HTTPStatus
from typing import Any

import pytest
import requests

from tests.conftest import await_
from tests.sim.simulator import DEADLINE_S, Simulator

pytestmark = pytest.mark.slow

STREAM: dict[str, Any] = {"prompt": "word " * 300, "stream": True}
SHUTDOWN = [
    "INFO:     Shutting down",
    "INFO:     Waiting for application shutdown.",
    "INFO:     Application shutdown complete.",
    "INFO:     Finished server process [PID]",
]


def ending(simulator: Simulator) -> list[str]:
    lines = [re.sub(r"\[\d+\]$", "[PID]", line.rstrip("\n")) for line in simulator.stderr]
    return lines[next(i for i, line in enumerate(lines) if "Uvicorn running on" in line) + 1 :]


def test_each_request_has_a_line_on_stdout() -> None:
    with Simulator() as simulator:
        simulator.get("/v1/models?a=b%20c")
        simulator.post("/v1/completions", {"prompt": "a"})
        simulator.post("/v1/completions", {**STREAM, "max_tokens": 2})
        simulator.get("/nothing")
        simulator.post("/v1/completions", {})
        simulator.post("/v1/completions", {"prompt": "a", "temperature": -1})
    lines = [re.sub(r"^INFO:     127\.0\.0\.1:\d+ - ", "", line) for line in simulator.stdout]
    assert lines == [
        '"GET /v1/models?a=b%20c HTTP/1.1" 200 OK\n',
        '"POST /v1/completions HTTP/1.1" 200 OK\n',
        '"POST /v1/completions HTTP/1.1" 200 OK\n',
        '"GET /nothing HTTP/1.1" 404 Not Found\n',
        f'"POST /v1/completions HTTP/1.1" 422 {HTTPStatus(422).phrase}\n',
        '"POST /v1/completions HTTP/1.1" 500 Internal Server Error\n',
    ]


def test_status_500_leaves_the_error_on_stderr() -> None:
    with Simulator() as simulator:
        simulator.post("/v1/completions", {"prompt": "a", "temperature": -1, "user": "me"})
    log = ending(simulator)
    said = 'Check failed: (gen_config.IsOk()) is false: "temperature" should be non-negative'
    assert log[0].endswith(
        f" ERROR engine.py:1306: Error in _handle_completion for request me: {said}"
    )
    assert log[1] == "ERROR:    Exception in ASGI application"
    assert log[2] == "Traceback (most recent call last):"
    assert log[-5] == f"tvm.error.InternalError: {said}"
    assert log[-4:] == SHUTDOWN


def test_no_http_is_a_warning() -> None:
    with Simulator() as simulator, pytest.raises(requests.RequestException):
        requests.get(simulator.base_url.replace("http", "https"), timeout=DEADLINE_S)
    assert simulator.stdout == []
    assert set(ending(simulator)) == {"WARNING:  Invalid HTTP request received.", *SHUTDOWN}


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -15), (signal.SIGHUP, -1)]
)
def test_idle_simulator_ends(number: signal.Signals, code: int) -> None:
    with Simulator() as simulator:
        simulator.get("/v1/models")
        assert simulator.stop(number) == code
    # By default SIGHUP ends a process before it can say anything.
    assert ending(simulator) == ([] if number is signal.SIGHUP else SHUTDOWN)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -15)])
def test_open_stream_is_waited_for(number: signal.Signals, code: int) -> None:
    with Simulator() as simulator:
        url = simulator.base_url + "/v1/completions"
        with simulator.http.post(url, json=STREAM, stream=True, timeout=DEADLINE_S) as response:
            # Read while it ends: an unread stream would wait for its reader.
            rest: list[bytes] = []
            reader = threading.Thread(target=lambda: rest.extend(response.iter_content(1024)))
            reader.start()
            assert simulator.stop(number) == code
            reader.join(DEADLINE_S)
    assert b"".join(rest).endswith(b"data: [DONE]\n\n")
    assert [line for line in ending(simulator) if "Waiting for connections" not in line] == SHUTDOWN


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("goes_away", "last"),
    [
        (False, "INFO:     Waiting for connections to close. (CTRL+C to force quit)\n"),
        (True, "INFO:     Waiting for background tasks to complete. (CTRL+C to force quit)\n"),
    ],
)
def test_dead_engine_keeps_the_process(number: signal.Signals, goes_away: bool, last: str) -> None:
    """As recorded: with a request that waits, or has waited, only SIGKILL ends the process."""
    with Simulator("--enable-debug", "--sim-imitate", "wedge") as simulator:
        simulator.post("/debug/cuda_profiler_start", None)
        with socket.create_connection(("127.0.0.1", simulator.port), DEADLINE_S) as client:
            body = b'{"prompt": "a"}'
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            # Answered behind it, so that the one before has been received.
            assert simulator.get("/v1/models").status_code == 200
            if goes_away:
                client.close()
                assert simulator.get("/v1/models").status_code == 200
            os.kill(simulator.pid, number)
            await_(lambda: simulator.stderr[-1] == last, f"{last!r} in the log")
            assert simulator.stop(signal.SIGKILL) == -signal.SIGKILL


def test_first_line_says_what_it_is() -> None:
    with Simulator() as simulator:
        pass
    assert simulator.stderr[0].endswith(
        "INFO simulator: This is the simulator of pytest-mlc-server: no model is loaded.\n"
    )
