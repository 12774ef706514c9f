"""Waiting until the handle of a simulator has heard of its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_mlc_server.errors import SimulatorError

if TYPE_CHECKING:
    from pytest_mlc_server.server import PopenServer

#: How long it may take until the end of a simulator that no longer answers is known, in seconds.
GRACE = 5.0

#: How long a death that a test wants may take to be found out, in seconds. Only a defect takes it.
DEADLINE = 30.0


def is_gone(server: PopenServer, within: float = GRACE) -> bool:
    """Tell whether a server ends or wedges within so many seconds."""
    deadline = time.monotonic() + within
    while server.poll() == "ready":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def await_death(server: PopenServer, failure: SimulatorError | None = None) -> None:
    """Wait until the handle has heard of a death, so that it is told of the test that wanted it.

    Parameters
    ----------
    server
        The simulator.
    failure
        What went wrong when it was told to die, which is no error if it did.

    Raises
    ------
    SimulatorError
        If it goes on living.
    """
    __tracebackhide__ = True
    if not is_gone(server, DEADLINE):
        raise SimulatorError(f"{server.provoked} had no effect within {DEADLINE:g} s") from failure
