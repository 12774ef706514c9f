"""Puts the parts together that make a simulator do what it is told."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pytest_mlc_server.sim import deaths
from pytest_mlc_server.sim.doors import Doors
from pytest_mlc_server.sim.gate import Deaths, Gate
from pytest_mlc_server.sim.rules import Script
from pytest_mlc_server.sim.startup import fail

if TYPE_CHECKING:
    from pytest_mlc_server.sim.server import Server

#: The exit code of `uvicorn.run` where a server cannot start; its module varies with the version.
STARTUP_FAILURE = 3


class Scripting:
    """What a simulator is told by a script file, and by whoever knows its token.

    Parameters
    ----------
    script : Script
        What it does at first.
    token : str
        What the control endpoints ask for; empty for a simulator without them.
    """

    def __init__(self, script: Script, token: str) -> None:
        self._script = script
        self._token = token
        self._doors = Doors(script)

    @classmethod
    def from_file(cls, path: str | None, token: str) -> Scripting:
        """Read a script file, where there is one.

        Raises
        ------
        ValueError
            With everything that is wrong with it.
        """
        if path is None:
            return cls(Script(), token)
        from pytest_mlc_server.sim.script import load_script

        return cls(load_script(Path(path)), token)

    @property
    def imitated(self) -> list[str]:
        """Which deaths of the real server are imitated."""
        return [kind for kind in ("wedge", "crash") if getattr(self._script.imitate, kind)]

    def load(self, model: str) -> None:
        """Take the time that loading the model takes, or fail at it."""
        time.sleep(self._script.start.load)
        if self._script.start.fault is not None:
            fail(self._script.start.fault, model)

    def wrap(self, app: Any, cors: dict[str, Any], server: Server) -> Gate:
        """Return `app` behind a gate that asks rules and faults about each request.

        Parameters
        ----------
        app : Callable
            The simulator's application.
        cors : dict
            The keyword arguments of its `CORSMiddleware`.
        server : Server
            What is served.
        """
        dies = Deaths(wedge=lambda: _wedge(server), crash=_crash)

        def control() -> Any:
            from pytest_mlc_server.sim.control import create_control

            return create_control(self._doors, dies)

        decode = server.model.tokenizer.decode
        return Gate(app, self._doors, cors, dies, decode, control, self._token)

    def run(self, app: Any, **how: Any) -> None:
        """Serve as `uvicorn.run` does, with sockets that can be closed and opened again."""
        how["http"] = self._doors.protocol(H11Protocol)
        server = _Server(uvicorn.Config(app, **how), self._doors)
        with suppress(KeyboardInterrupt):
            server.run()
        if not server.started:
            sys.exit(STARTUP_FAILURE)


class _Server(uvicorn.Server):
    """uvicorn's, whose sockets are the doors'."""

    def __init__(self, config: uvicorn.Config, doors: Doors) -> None:
        super().__init__(config)
        self._doors = doors

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._doors.started(self)


def _wedge(server: Server) -> None:
    death = deaths.DECODE_DEATH
    deaths.wedge(server.engine, death.cause, frames=death.frames, error=death.error)


def _crash(name: str) -> None:
    number = signal.Signals[name]
    if number == signal.SIGKILL:
        os.kill(os.getpid(), number)  # what nobody can handle needs no default handler
    deaths.crash(number)
