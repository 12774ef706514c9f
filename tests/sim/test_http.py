"""What is around the endpoints: paths, methods, keys, CORS, and HTTP itself."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.sim.simulator import DEADLINE_S, Simulator, SimulatorPool, says_what_was_recorded

KEY = ("--api-key", "sk-test", "--enable-debug")
ORIGIN = "https://a.example"
CORS = (
    "--allow-origins",
    json.dumps([ORIGIN]),
    "--allow-methods",
    '["GET"]',
    "--allow-headers",
    '["X-One"]',
    "--allow-credentials",
)
COMPLETION = {"prompt": "a", "max_tokens": 1}


def exchange(simulator: Simulator, request: bytes) -> tuple[str, list[str], bytes]:
    """Send bytes, return the status line, the header lines and the body of all that comes back."""
    with socket.create_connection(("127.0.0.1", simulator.port), DEADLINE_S) as client:
        client.sendall(request)
        received = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    status, *headers = head.decode("latin-1").split("\r\n")
    return status, headers, body


def names(headers: list[str]) -> list[str]:
    return [header.partition(":")[0] for header in headers]


def head(method: str, path: str, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("method", "path", "status", "body", "allow"),
    [
        ("GET", "/", 404, {"detail": "Not Found"}, None),
        ("GET", "/health", 404, {"detail": "Not Found"}, None),
        ("GET", "/v1/models/sim-model", 404, {"detail": "Not Found"}, None),
        ("POST", "/debug/reset_engine", 404, {"detail": "Not Found"}, None),
        ("POST", "/v1/models", 405, {"detail": "Method Not Allowed"}, "GET"),
        ("HEAD", "/v1/models", 405, None, "GET"),
        ("OPTIONS", "/v1/models", 405, {"detail": "Method Not Allowed"}, "GET"),
        ("GET", "/v1/completions", 405, {"detail": "Method Not Allowed"}, "POST"),
        ("DELETE", "/metrics", 405, {"detail": "Method Not Allowed"}, "GET"),
    ],
)
def test_wrong_path_or_method(
    sim: Simulator, method: str, path: str, status: int, body: Any, allow: str | None
) -> None:
    response = sim.http.request(method, sim.base_url + path, timeout=DEADLINE_S)
    assert response.status_code == status
    assert (response.json() if response.text else None) == body
    assert response.headers.get("allow") == allow


@pytest.mark.parametrize("path", ["/v1/models/", "/v1/chat/completions/", "/metrics/"])
def test_slash_at_the_end_redirects(sim: Simulator, path: str) -> None:
    method = "GET" if path != "/v1/chat/completions/" else "POST"
    url = f"{sim.base_url}{path}?a=b"
    response = sim.http.request(method, url, allow_redirects=False, timeout=DEADLINE_S)
    assert (response.status_code, response.text) == (307, "")
    assert response.headers["location"] == f"{sim.base_url}{path.rstrip('/')}?a=b"


def test_headers_and_their_order(sim: Simulator) -> None:
    _, headers, _ = exchange(sim, head("GET", "/v1/models"))
    expected = ["date", "server", "content-length", "content-type", "vary"]
    # The last one is of the connection, which was asked to end.
    assert names(headers)[:-1] == expected
    assert "server: uvicorn" in headers


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        (None, False),
        ("Bearer sk-test", True),
        ("sk-test", True),
        ("skBearer -test", True),
        ("Bearer Bearer sk-test", True),
        ("bearer sk-test", False),
        ("Bearer  sk-test", False),
        ("Bearer sk-tes", False),
        ("Basic sk-test", False),
    ],
)
def test_key(simulators: SimulatorPool, given: str | None, allowed: bool) -> None:
    simulator = simulators.get(*KEY)
    headers = {} if given is None else {"Authorization": given}
    response = simulator.get("/v1/models", headers=headers)
    assert response.status_code == (200 if allowed else 401)
    if not allowed:
        assert response.json() == {"detail": "Invalid API Key"}
        assert "www-authenticate" not in response.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/docs", 200),
        ("POST", "/debug/reset_engine", 200),
        ("POST", "/microserving/prep_recv", 422),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/completions", 401),
        ("POST", "/v1/embeddings", 401),
        ("POST", "/v1/chat/completions", 401),
    ],
)
def test_key_guards_v1_alone(
    simulators: SimulatorPool, method: str, path: str, status: int
) -> None:
    simulator = simulators.get(*KEY)
    body = {"model": "any", "prompt": "a"}
    response = simulator.http.request(
        method, simulator.base_url + path, json=body, timeout=DEADLINE_S
    )
    assert response.status_code == status


def test_json_is_read_before_the_key(simulators: SimulatorPool) -> None:
    simulator = simulators.get(*KEY)
    url = simulator.base_url + "/v1/completions"
    response = simulator.http.post(
        url, data="{bad", headers={"Content-Type": "application/json"}, timeout=DEADLINE_S
    )
    assert response.status_code == 422
    assert response.json()["detail"][0]["type"] == "json_invalid"


def test_default_cors_allows_all(sim: Simulator) -> None:
    response = sim.get("/v1/models", headers={"Origin": ORIGIN})
    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("origin", "method", "header", "status", "said"),
    [
        (ORIGIN, "GET", None, 200, "OK"),
        (ORIGIN, "GET", "x-one", 200, "OK"),
        (ORIGIN, "POST", None, 400, "Disallowed CORS method"),
        ("https://b.example", "GET", None, 400, "Disallowed CORS origin"),
        (ORIGIN, "GET", "x-two", 400, "Disallowed CORS headers"),
        ("https://b.example", "PUT", "x", 400, "Disallowed CORS origin, method, headers"),
    ],
)
def test_preflight(
    simulators: SimulatorPool, origin: str, method: str, header: str | None, status: int, said: str
) -> None:
    simulator = simulators.get(*CORS)
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    if header is not None:
        asked["Access-Control-Request-Headers"] = header
    url = simulator.base_url + "/v1/completions"
    response = simulator.http.options(url, headers=asked, timeout=DEADLINE_S)
    assert (response.status_code, response.text) == (status, said)
    granted = response.headers.get("access-control-allow-origin")
    assert granted == (origin if origin == ORIGIN else None)
    assert response.headers["access-control-allow-methods"] == "GET"


@pytest.mark.parametrize(("origin", "granted"), [(ORIGIN, ORIGIN), ("https://b.example", None)])
def test_answers_are_for_allowed_origins(
    simulators: SimulatorPool, origin: str, granted: str | None
) -> None:
    response = simulators.get(*CORS).get("/v1/models", headers={"Origin": origin})
    assert response.status_code == 200
    assert response.headers.get("access-control-allow-origin") == granted
    assert response.headers["access-control-allow-credentials"] == "true"


@pytest.mark.parametrize(
    ("content_type", "body", "kind"),
    [
        ("application/json", "{bad", "json_invalid"),
        ("application/json", "", "missing"),
        ("application/json", "[]", "model_attributes_type"),
        pytest.param(
            "application/json", "null", "model_attributes_type", marks=says_what_was_recorded
        ),
        ("application/vnd.api+json", json.dumps(COMPLETION), None),
        ("text/plain", json.dumps(COMPLETION), "model_attributes_type"),
        ("application/x-www-form-urlencoded", "prompt=a", "model_attributes_type"),
    ],
)
def test_bodies(sim: Simulator, content_type: str, body: str, kind: str | None) -> None:
    response = sim.http.post(
        f"{sim.base_url}/v1/completions",
        data=body.encode(),
        headers={"Content-Type": content_type},
        timeout=DEADLINE_S,
    )
    assert response.status_code == (200 if kind is None else 422), response.text
    if kind is not None:
        assert response.json()["detail"][0]["type"] == kind


def test_http_1_0(sim: Simulator) -> None:
    status, headers, body = exchange(sim, b"GET /v1/models HTTP/1.0\r\n\r\n")
    assert status == "HTTP/1.1 200 OK"
    assert json.loads(body)["object"] == "list"
    assert "content-length" in names(headers)


def test_connection_is_kept(sim: Simulator) -> None:
    with socket.create_connection(("127.0.0.1", sim.port), DEADLINE_S) as client:
        client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < 3:
            received += client.recv(65536)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_what_is_no_http(sim: Simulator, request_bytes: bytes) -> None:
    status, headers, body = exchange(sim, request_bytes)
    assert status == "HTTP/1.1 400 Bad Request"
    assert names(headers) == ["content-type", "Connection"]
    assert body == b"Invalid HTTP request received."
