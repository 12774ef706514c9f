"""Talks to the control endpoints of a simulator: one request, one answer, one connection.

With the standard library's client: a connection is opened in a fraction of a millisecond, none can
be stale after a restart, and a waiting one can be ended from another thread.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

from pytest_mlc_server.errors import SimulatorError

#: Header that carries the token.
TOKEN_HEADER = "X-MLC-Sim-Token"  # noqa: S105 - a name

#: Header that names the door that a request is about, where it comes through another one.
DOOR_HEADER = "X-MLC-Sim-Door"

#: Time limit of an answer, in seconds. Generous: only a simulator that hangs reaches it.
TIMEOUT = 60.0


class Control:
    """The control endpoints of one door of a simulator.

    Parameters
    ----------
    base_url
        The door, ``http://127.0.0.1:8000``.
    token
        What the endpoints ask for.
    """

    def __init__(self, base_url: str, token: str) -> None:
        self.base_url = base_url
        self._headers = {TOKEN_HEADER: token}
        parts = urlsplit(base_url)
        self._address = parts.hostname or "", parts.port or 80
        self._side_door = 0

    def __repr__(self) -> str:
        return f"<Control of {self.base_url}>"

    def use_side_door(self) -> None:
        """Reach the endpoints through a door of their own from now on.

        For faults that keep connections away: they would keep these away as well.
        """
        __tracebackhide__ = True
        if not self._side_door:
            host, port = self._address
            self._side_door = int(self.call("POST", "/sim/doors")["port"])
            self._headers[DOOR_HEADER] = str(port)
            self._address = host, self._side_door

    def close(self) -> None:
        """Close a door that `use_side_door` opened."""
        port, self._side_door = self._side_door, 0
        if port:
            host, own = self._address[0], int(self._headers.pop(DOOR_HEADER))
            self._address = host, own
            self.call("DELETE", f"/sim/doors/{port}")

    def connect(self, timeout: float = TIMEOUT) -> http.client.HTTPConnection:
        """Open a connection, for `ask`."""
        connection = http.client.HTTPConnection(*self._address, timeout=timeout)
        connection.connect()
        if connection.sock is not None:
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send one control request and return its parsed answer; None for an empty one.

        Raises
        ------
        ValueError
            If the simulator finds a mistake in the body.
        SimulatorError
            If it does not answer, or knows no such control request.
        """
        __tracebackhide__ = True
        try:
            connection = self.connect()
            try:
                return self.ask(connection, method, path, body)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise SimulatorError(
                f"the simulator at {self.base_url} does not answer {method} {path}: "
                f"{type(error).__name__}: {error}"
            ) from None

    def ask(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: object = None
    ) -> Any:
        """Send a request over an open connection, which is left open.

        Raises
        ------
        OSError, http.client.HTTPException
            If the connection ends before the answer does.
        ValueError, SimulatorError
            As `call`.
        """
        __tracebackhide__ = True
        headers = dict(self._headers)
        data = None
        if body is not None:
            data = encoded(body)
            headers["Content-Type"] = "application/json"
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        text = response.read()
        if response.status in (200, 204):
            return json.loads(text) if text else None
        raise self._refusal(f"{method} {path}", response.status, text)

    def _refusal(self, what: str, status: int, text: bytes) -> Exception:
        try:
            detail = json.loads(text)["detail"]
        except (ValueError, TypeError, KeyError):
            detail = text.decode("utf-8", "replace").strip()
        if status == 422:
            return ValueError("the simulator does not understand this: " + mistakes(detail))
        if status == 404 and detail == "Not Found":
            return SimulatorError(
                f"{what}: the server at {self.base_url} cannot be scripted: it is no simulator of "
                "this version, or another process started it and has its token"
            )
        return SimulatorError(f"{what}: the simulator answers {status}: {detail}")


def encoded(body: object) -> bytes:
    """Return a value as JSON.

    Raises
    ------
    ValueError
        If it is none, such as NaN or an object of a class.
    """
    __tracebackhide__ = True
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"this cannot be sent to the simulator as JSON: {error}") from None


def mistakes(detail: object) -> str:
    """Return what FastAPI finds wrong with a body, one mistake after the other."""
    if not isinstance(detail, list):
        return str(detail)
    return "; ".join(dict.fromkeys(_mistake(one) for one in detail))


def _mistake(one: Any) -> str:
    if not isinstance(one, dict):
        return str(one)
    place = ".".join(str(part) for part in one.get("loc", ()) if part != "body")
    words = str(one.get("msg", "")).removeprefix("Value error, ")
    return f"{place}: {words}" if place else words


def open_door(base_url: str, token: str) -> int:
    """Open a further door of a simulator: a port with rules, faults and records of its own.

    Parameters
    ----------
    base_url
        Any door that is open.
    token
        What its control endpoints ask for.

    Returns
    -------
    int
        The new door's port, on the same host.

    Raises
    ------
    SimulatorError
        If the simulator is not there, or the token is another's.
    """
    return int(Control(base_url, token).call("POST", "/sim/doors")["port"])


def close_door(base_url: str, token: str, port: int) -> None:
    """Close a door that `open_door` opened.

    Raises
    ------
    SimulatorError
        If the simulator is not there, or has no such door.
    """
    Control(base_url, token).call("DELETE", f"/sim/doors/{port}")
