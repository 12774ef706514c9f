"""Stands before the application: asks rules and faults about each request, and keeps records.

It is there only where somebody can tell the simulator something: with a script file, or with the
token of the control endpoints. Without them no request pays for it.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi.middleware.cors import CORSMiddleware

from pytest_mlc_server.sim.asgi import headers_of, read_body, recording, replaying
from pytest_mlc_server.sim.connection import connection_of
from pytest_mlc_server.sim.faults import FaultySend
from pytest_mlc_server.sim.http_errors import status_response
from pytest_mlc_server.sim.matching import Question
from pytest_mlc_server.sim.records import Entry
from pytest_mlc_server.sim.rule_faults import (
    CrashFault,
    RefuseFault,
    ResetFault,
    StatusFault,
    WedgeFault,
)
from pytest_mlc_server.sim.rule_replies import happens_within
from pytest_mlc_server.sim.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_mlc_server.sim.connection import Connection
    from pytest_mlc_server.sim.doors import Doors
    from pytest_mlc_server.sim.rule_faults import Fault

TOKEN_HEADER = "x-mlc-sim-token"  # noqa: S105 (the name of a header)

#: What the guardian's probes call themselves. They ask how the server is, not what a test wants.
PROBE = "pytest-mlc-server-probe"

_CONTROL = "/sim/"


@dataclass(frozen=True)
class Deaths:
    """How the server dies when a fault says so.

    Attributes
    ----------
    wedge : Callable
        Has the engine's thread die.
    crash : Callable
        Ends the process by the signal of this name.
    """

    wedge: Callable[[], None]
    crash: Callable[[str], None]


class Gate:
    """An ASGI application around the simulator's own.

    Parameters
    ----------
    app : Callable
        The simulator's application.
    doors : Doors
        What each port has been told.
    cors : dict
        The keyword arguments of the application's `CORSMiddleware`.
    deaths : Deaths
        How the server dies.
    decode : Callable
        The tokenizer's `decode`.
    make_control : Callable
        Makes the application of the control endpoints when it is first needed: a start waits for
        nothing that a test may never ask for.
    token : str
        What they ask for; empty if there are none.
    """

    def __init__(
        self,
        app: Any,
        doors: Doors,
        cors: dict[str, Any],
        deaths: Deaths,
        decode: Callable[[Sequence[int]], str],
        make_control: Callable[[], Any],
        token: str,
    ) -> None:
        self._app = app
        self._doors = doors
        self._deaths = deaths
        self._decode = decode
        self._make_control = make_control
        self._control: Any = None
        self._token = token.encode()
        # HTTP errors of the real server have CORS headers; all but 500, which is sent from without.
        self._errors = CORSMiddleware(_send_failure, **cors)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = connection_of(scope)
        headers = headers_of(scope)
        if scope["path"].startswith(_CONTROL) and self._knows_token(headers):
            connection.quiet()
            self._control = self._control or self._make_control()
            await self._control(scope, receive, send)
        elif headers.get("user-agent") == PROBE or _is_preflight(scope, headers):
            await self._app(scope, receive, send)
        else:
            content = await read_body(receive)
            if content is not None:
                question = Question(scope["method"], scope["path"], headers, content, self._decode)
                turn = self._begin(scope, question, connection)
                await self._answer(turn, scope, replaying(content, receive), send)

    def _knows_token(self, headers: dict[str, str]) -> bool:
        given = headers.get(TOKEN_HEADER, "").encode("latin-1")
        return bool(self._token) and hmac.compare_digest(given, self._token)

    async def _answer(self, turn: Turn, scope: Any, receive: Any, send: Any) -> None:
        if self._token:
            turn.epoch.records.add(turn.entry)
            send = recording(turn.entry, send)
        try:
            await turn.decide()
            await self._happen(turn, scope, receive, send)
        finally:
            if self._token:
                turn.epoch.records.end(turn.entry)

    def _begin(self, scope: Any, question: Question, connection: Connection) -> Turn:
        door = self._doors.at(scope["server"][1])
        epoch = door.epoch
        epoch.requests += 1
        query = scope["query_string"].decode("latin-1")
        entry = Entry(next(door.request_numbers), query, question)
        return Turn(door, epoch, entry, connection, epoch.requests)

    async def _happen(self, turn: Turn, scope: Any, receive: Any, send: Any) -> None:
        """Answer, with what goes wrong."""
        fault = turn.fault
        if turn.failure is not None:
            await self._errors({**scope, "mlc_sim_failure": turn.failure}, receive, send)
        elif fault is None:
            await self._app(_told(scope, turn), receive, send)
        elif isinstance(fault, StatusFault):
            await self._fail(fault, scope, receive, send)
        elif happens_within(fault):
            faulty = FaultySend(send, fault, turn.connection)
            await self._app(_told(scope, turn), receive, faulty)
            if faulty.cut:
                await turn.connection.ended.wait()
        elif isinstance(fault, ResetFault | RefuseFault):
            turn.connection.reset()
            # A request of a test that has ended closes no port of the next one.
            if isinstance(fault, RefuseFault) and turn.epoch is turn.door.epoch:
                await self._doors.refuse(turn.door, fault.seconds)
            await turn.connection.ended.wait()
        else:
            self._die(fault)
            await self._app(_told(scope, turn), receive, send)

    async def _fail(self, fault: StatusFault, scope: Any, receive: Any, send: Any) -> None:
        response = status_response(fault)
        if fault.status == 500:
            await response(scope, receive, send)
        else:
            await self._errors({**scope, "mlc_sim_failure": response}, receive, send)

    def _die(self, fault: Fault) -> None:
        if isinstance(fault, WedgeFault):
            self._deaths.wedge()
        elif isinstance(fault, CrashFault):
            self._deaths.crash(fault.signal)


async def _send_failure(scope: Any, receive: Any, send: Any) -> None:
    await scope["mlc_sim_failure"](scope, receive, send)


def _told(scope: Any, turn: Turn) -> Any:
    """Return the scope of a request, with what its answer is made of."""
    return {**scope, "mlc_sim": (turn.source, turn.latency)}


def _is_preflight(scope: Any, headers: dict[str, str]) -> bool:
    """Tell whether a browser asks, of its own accord, what an application may send."""
    return scope["method"] == "OPTIONS" and "access-control-request-method" in headers
