"""Looking at shared servers from outside, without holding one: what is there, and ending it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_mlc_server import doors, runtime, sharing


@dataclass(frozen=True)
class Found:
    """A shared server, as its guardian and its description tell.

    Attributes
    ----------
    id
        What ``ps`` calls it.
    facts
        What it is: engine, model, device, scope.
    status
        How it is: state, leases, idle seconds, log.
    """

    id: str
    path: str
    facts: Mapping[str, Any]
    status: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Equal for those who may share it."""
        return os.path.basename(self.path).partition(".")[0]

    def await_guardian(self) -> None:
        """Wait until the guardian of a server that is gone has ended, and what it held is free."""
        doors.await_guardian(self.facts)

    def stop(self, timeout: float) -> bool:
        """Stop it, whoever holds it; tell whether it is gone."""
        with contextlib.suppress(OSError), doors.connect(self.path) as connection:
            doors.say(connection, op="stop", timeout=timeout)
            return doors.await_close(connection, timeout + doors.GOING_GRACE)
        return True

    def stop_idle(self, timeout: float) -> bool:
        """Stop it if nobody uses it, and wait for its end; tell whether it is gone."""
        with contextlib.suppress(OSError), doors.connect(self.path) as connection:
            doors.say(connection, op="stop-idle")
            status = doors.hear(connection)
            if status is None or status.get("leases"):
                return status is None
            return doors.await_close(connection, timeout + doors.GOING_GRACE)
        return True

    def end_run(self, pid: int, timeout: float | None) -> bool:
        """Say that a controller needs it no more, and wait for its end unless it lingers."""
        with contextlib.suppress(OSError), doors.connect(self.path) as connection:
            doors.say(connection, op="end-run", pid=pid)
            if timeout is None or self.status.get("linger"):
                return True
            return doors.await_close(connection, timeout + doors.GOING_GRACE)
        return True


def found(directory: str, key: str = "") -> list[Found]:
    """Return the servers of a directory whose guardians answer, oldest first."""
    servers = []
    for path in doors.paths(directory, f"{key}." if key else ""):
        try:
            with doors.connect(path) as connection:
                doors.say(connection, op="status")
                status = doors.hear(connection)
        except OSError as error:
            doors.forget(path, error)
            continue
        if status is not None:
            identifier = path.removesuffix(".door").rpartition(".")[2]
            servers.append(Found(identifier, path, doors.facts_of(path), status))
    return sorted(servers, key=lambda server: float(server.status.get("started_at", 0.0)))


def everywhere() -> list[Found]:
    """Return the shared servers of this user, those of runs included."""
    top = runtime.directory()
    kept = [name for name in os.listdir(top) if name in ("reuse", "warm")]
    names = [*(name for name in sorted(os.listdir(top)) if name.startswith("run-")), *sorted(kept)]
    return [server for name in names for server in found(os.path.join(top, name))]


def free_port(port: int, timeout: float) -> None:
    """Stop a server that waits for its next user on a port that is wanted.

    Parameters
    ----------
    port
        The port.
    timeout
        Time limit of an orderly stop, in seconds.
    """
    for server in found(os.path.join(runtime.directory(), "reuse")):
        ready = server.status.get("ready") or {}
        if ready.get("port") == port and server.status.get("idle") is not None:
            server.stop_idle(timeout)


def end_run(run: str, pid: int, timeout: float | None) -> None:
    """Stop the servers that one run's workers shared, and remove what the run left.

    Parameters
    ----------
    run
        The run's id.
    pid
        Its controller.
    timeout
        The servers' time limit of an orderly stop, in seconds; None does not wait for their end.
    """
    directory = sharing.run_directory(run)
    servers = [*found(directory), *found(os.path.join(runtime.directory(), "reuse"))]
    for server in servers:
        server.end_run(pid, None)  # all before any: each may take its whole time limit
    for server in servers if timeout is not None else ():
        server.end_run(pid, timeout)
    if timeout is not None and not found(directory):
        shutil.rmtree(directory, ignore_errors=True)  # else its last guardian does
    sweep()


def sweep() -> None:
    """Remove the directories of runs that ended without a word, a day after."""
    top = runtime.directory()
    for name in os.listdir(top):
        path = os.path.join(top, name)
        with contextlib.suppress(OSError):
            old = name.startswith("run-") and os.stat(path).st_mtime < time.time() - 86400
            if old and not found(path):
                shutil.rmtree(path, ignore_errors=True)
