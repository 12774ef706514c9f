"""The test run that a process belongs to: which it is, and whether its controller is on this host.

pytest-xdist's workers learn it from their controller. A worker on another host has no controller
to watch there: its servers end a moment after the last worker of that host.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_mlc_server import process

#: How long a shared server outlives the last worker of a host without a controller, in seconds: a
#: crashed worker's successor finds it again.
REMOTE_LINGER = 5.0


@dataclass(frozen=True)
class Run:
    """A test run, as its processes on this host see it.

    Parameters
    ----------
    id
        Equal in all processes of the run.
    controller
        Process id and start time of the controller; None where it is on another host.
    """

    id: str
    controller: tuple[int, str] | None

    @property
    def holders(self) -> tuple[tuple[int, str], ...]:
        """The processes that hold the run's servers beside its workers."""
        return () if self.controller is None else (self.controller,)


def begin(dist: str) -> dict[str, Any]:
    """Return what the controller tells its workers.

    Parameters
    ----------
    dist
        How pytest-xdist distributes the tests.
    """
    pid = os.getpid()
    return {
        "id": secrets.token_hex(5),
        "host": host(),
        "pid": pid,
        "start": process.start_time(pid),
        "dist": dist,
    }


def of_worker(workerinput: Mapping[str, Any]) -> Run:
    """Return the run of a pytest-xdist worker.

    Parameters
    ----------
    workerinput
        What its controller told it.
    """
    told = workerinput.get("mlc_run")
    if told is None:
        return _untold(workerinput)
    if told["host"] == host():
        return Run(told["id"], (int(told["pid"]), str(told["start"])))
    # Hosts may share the directory of the doors, and a server behind another host's door answers
    # at an address that means nothing here.
    return Run(f"{told['id']}-{_short(host())}", None)


def of_controller(told: Mapping[str, Any]) -> Run:
    """Return the run as its controller sees it.

    Parameters
    ----------
    told
        What `begin` returned.
    """
    return Run(told["id"], (int(told["pid"]), str(told["start"])))


def _untold(workerinput: Mapping[str, Any]) -> Run:
    """Return the run of a worker whose controller has no settings of ours."""
    parent = os.getppid()
    identifier = str(workerinput.get("testrunuid", parent))[:16]
    # execnet starts a worker as `python -c`, below its controller or the controller's ssh. The
    # parent of a socket server is whoever started that, perhaps days ago: its end means nothing.
    if sys.argv[:1] != ["-c"]:
        return Run(identifier, None)
    return Run(identifier, (parent, process.start_time(parent)))


def _short(text: str) -> str:
    import hashlib  # only a worker on another host needs it

    return hashlib.sha256(text.encode()).hexdigest()[:8]


def host() -> str:
    """Return what tells this host, or this container, from others.

    The network is part of it: what listens in one network namespace cannot be reached from another,
    though they share boot, processes and directories.
    """
    parts = [os.uname().nodename, str(os.getuid())]
    if sys.platform.startswith("linux"):
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                parts.append(file.read().strip())
            parts.append(os.readlink("/proc/self/ns/pid"))
            parts.append(os.readlink("/proc/self/ns/net"))
        except OSError:
            pass
    return " ".join(parts)
