"""Asks a server over HTTP whether it works. Runs in a thread of the keeper."""

from __future__ import annotations

import http.client
import json
import socket

#: What the server's log shows as the client of these requests.
USER_AGENT = "pytest-mlc-server-probe"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypedDict

    class Expected(TypedDict):
        """What the server must answer, and how to ask it."""

        model: str
        api_key: str | None
        generate: bool


class NotYetError(Exception):
    """The server may still become ready."""


class NeverError(Exception):
    """The server answers, and what it answers will not change."""


def probe(
    address: tuple[str, int],
    expected: Expected,
    remaining: float,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Ask for the list of models, and for one token.

    Parameters
    ----------
    address
        Address and port that the server listens on.
    expected
        What it must answer.
    remaining
        Seconds until the start's time limit.
    progress
        Told what is waited for, for the case that nothing more comes.

    Returns
    -------
    dict
        ``usage`` of the generated token, as the server counts it; empty without one.

    Raises
    ------
    NotYetError, NeverError
        With what the server answered instead.
    """
    progress("it listens, but has not answered GET /v1/models")
    # A socket that belongs to the tree need not speak HTTP: the list has a short limit.
    status, body = request(address, "GET", "/v1/models", None, expected, min(5.0, remaining))
    if status != 200:
        raise _refusal("GET /v1/models", status, body)
    models = _ids(body)
    if expected["model"] not in models:
        raise NeverError(
            f"GET /v1/models lists {', '.join(models) or 'nothing'}, not {expected['model']}"
        )
    if not expected["generate"]:
        return {}
    progress("it answers GET /v1/models, but has not generated one token (POST /v1/completions)")
    return generate(address, expected, remaining)


def generate(address: tuple[str, int], expected: Expected, timeout: float) -> dict[str, Any]:
    """Ask for one token, or for the list of models where nothing is generated.

    Returns
    -------
    dict
        ``usage`` of the token, as the server counts it.

    Raises
    ------
    NotYetError, NeverError
        With what the server answered instead.
    """
    if not expected["generate"]:
        request(address, "GET", "/v1/models", None, expected, timeout)
        return {}
    wanted = {"model": expected["model"], "prompt": "Hello", "max_tokens": 1}
    status, body = request(address, "POST", "/v1/completions", wanted, expected, timeout)
    if status != 200:
        raise _refusal("POST /v1/completions (one token)", status, body)
    answer = _json("POST /v1/completions", body)
    if not isinstance(answer, dict) or not answer.get("choices"):
        raise NeverError(f"POST /v1/completions generated nothing: {_short(body)}")
    usage = answer.get("usage")
    return usage if isinstance(usage, dict) else {}


def request(
    address: tuple[str, int],
    method: str,
    path: str,
    body: object,
    expected: Expected,
    timeout: float,
) -> tuple[int, bytes]:
    """Send one request, straight to the address: no proxy of the environment is asked.

    Raises
    ------
    NotYetError
        If there was no answer.
    """
    connection = http.client.HTTPConnection(*address, timeout=max(0.1, timeout))
    headers = {"User-Agent": USER_AGENT, "Connection": "close"}
    if expected["api_key"]:
        headers["Authorization"] = f"Bearer {expected['api_key']}"
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    try:
        connection.sock = _connect(address, max(0.1, timeout))
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        answer = response.read(1 << 20)
        if response.length:  # cut off: a read with a limit does not say so
            raise http.client.IncompleteRead(answer, response.length)
        return response.status, answer
    except TimeoutError:
        raise NotYetError(f"{method} {path}: no answer within {timeout:.0f} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise NotYetError(f"{method} {path}: {type(error).__name__}: {error}") from None
    finally:
        connection.close()


def _connect(address: tuple[str, int], timeout: float) -> socket.socket:
    # `create_connection` looks names up, and the first time loads a codec for that: 4 ms, in which
    # a server that is ready would wait.
    channel = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        channel.settimeout(timeout)
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        channel.connect(address)
    except OSError:
        channel.close()
        raise
    return channel


def _refusal(what: str, status: int, body: bytes) -> NotYetError | NeverError:
    text = f"{what} answers {status}: {_short(body)}"
    if status in (401, 403):
        return NeverError(f"{text}\nThe server asks for another API key (--mlc-api-key).")
    # A server in its first moments, or behind something that starts later, may say these.
    if status in (404, 429, 502, 503, 504):
        return NotYetError(text)
    return NeverError(text)


def _ids(body: bytes) -> list[str]:
    answer = _json("GET /v1/models", body)
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        raise NeverError(f"GET /v1/models is no list of models: {_short(body)}")
    return [str(item.get("id")) for item in data if isinstance(item, dict)]


def _json(what: str, body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        raise NeverError(f"{what} is not JSON: {_short(body)}") from None


def _short(body: bytes) -> str:
    text = body[:500].decode("utf-8", "replace").strip()
    return text or "(empty)"
