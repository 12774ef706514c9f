"""Clients that are no clients: whatever they send, the simulator lives and serves the next one."""

from __future__ import annotations

import json
import socket
import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sim.simulator import DEADLINE_S, Simulator, SimulatorPool

ENDPOINTS = [
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/microserving/prep_recv",
    "/debug/dump_event_trace",
]
FLAGS = ("--enable-debug", "--enable-tracing", "--host", "127.0.0.1")
SLOW_BODY = json.dumps({"prompt": "hello", "max_tokens": 1}).encode()
# What an abandoned request of a real server leaves in its log.
EXPECTED = ("WARNING:  Invalid HTTP request received.", "cancelled")

BOUNDED = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def target(simulators: SimulatorPool) -> Simulator:
    return simulators.get(*FLAGS)


def connect(simulator: Simulator) -> socket.socket:
    return socket.create_connection(("127.0.0.1", simulator.port), DEADLINE_S)


def drain(client: socket.socket) -> bytes:
    """Read until the server closes, which it may do by a reset where it left bytes unread."""
    received = b""
    with suppress(OSError):
        while chunk := client.recv(65536):
            received += chunk
    return received


def post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def assert_unharmed(simulator: Simulator, before: int) -> None:
    reply = simulator.post("/v1/completions", {"prompt": "still here", "max_tokens": 3})
    assert reply.json()["usage"]["completion_tokens"] == 3
    said = [line.rstrip("\n") for line in simulator.stderr[before:]]
    assert [line for line in said if not line.endswith(EXPECTED)] == []


@BOUNDED
@given(st.binary(max_size=2000))
def test_random_bytes(target: Simulator, sent: bytes) -> None:
    before = len(target.stderr)
    with connect(target) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        drain(client)
    assert_unharmed(target, before)


@BOUNDED
@given(st.data())
def test_cut_requests(target: Simulator, data: Any) -> None:
    """A request that ends in the middle, by a close or by a reset."""
    before = len(target.stderr)
    # Not the last one: /debug/* reads bodies by hand, and leaves a traceback in the real log, too.
    whole = post(data.draw(st.sampled_from(ENDPOINTS[:-1])), SLOW_BODY)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with connect(target) as client:
        if data.draw(st.booleans()):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(whole[:cut])
    assert_unharmed(target, before)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@BOUNDED
@given(st.sampled_from(ENDPOINTS[:-1]), json_values)
def test_random_json(target: Simulator, path: str, value: Any) -> None:
    before = len(target.stderr)
    response = target.post(path, value)
    assert response.status_code == 422
    assert_unharmed(target, before)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
        post("/v1/completions", b"{" * 100_000),
        post("/v1/completions", b"[" * 100_000 + b"]" * 100_000),
        post("/v1/completions", SLOW_BODY, length=-1),
        post("/v1/completions", SLOW_BODY, "Transfer-Encoding: chunked"),
        post("/v1/completions", b"zz\r\n", "Transfer-Encoding: chunked"),
        post("/v1/completions", b"\xff\xfe\x00"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%00%ff/../..//etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
    ],
    ids=range(14),
)
def test_odd_requests(target: Simulator, sent: bytes) -> None:
    before = len(target.stderr)
    with connect(target) as client:
        with suppress(OSError):
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
        drain(client)
    reply = target.post("/v1/completions", {"prompt": "still here", "max_tokens": 3})
    assert reply.status_code == 200
    assert not [line for line in target.stderr[before:] if "Traceback" in line]


def test_slow_client_is_waited_for(target: Simulator) -> None:
    with connect(target) as client:
        for byte in post("/v1/completions", SLOW_BODY, "Connection: close"):
            client.sendall(bytes([byte]))
        assert drain(client).startswith(b"HTTP/1.1 200 OK")


def test_slow_clients_keep_nobody_waiting(target: Simulator) -> None:
    request = post("/v1/completions", SLOW_BODY, "Connection: close")
    slow = [connect(target) for _ in range(50)]
    for client in slow:
        client.sendall(request[:-1])
    assert target.post("/v1/completions", {"prompt": "a"}).status_code == 200
    for client in slow:
        client.sendall(request[-1:])
    for client in slow:
        assert drain(client).startswith(b"HTTP/1.1 200 OK")
        client.close()


def test_reader_that_does_not_read_keeps_nobody_waiting(target: Simulator) -> None:
    body = json.dumps({"prompt": "word " * 390, "stream": True, "n": 4}).encode()
    with connect(target) as client:
        client.sendall(post("/v1/completions", body, "Connection: close"))
        assert target.get("/v1/models").status_code == 200
        assert drain(client).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_goes_away_frees_its_place(stream: bool) -> None:
    """With one place alone, the next request is answered only once the first has left it."""
    flags = ("--mode", "interactive", "--overrides", "context_window_size=100000")
    with Simulator(*flags) as simulator:
        body = json.dumps({"prompt": "word " * 30_000, "stream": stream}).encode()
        with connect(simulator) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(post("/v1/completions", body))
            if stream:
                assert client.recv(1) == b"H"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert simulator.post("/v1/completions", {"prompt": "a"}).status_code == 200
