"""Warm parents, from the holder's side: which one fits a server, and how to come by it.

A warm parent (`launcher/warm.py`) has a guardian of its own, as a server that several may hold: a
door in a directory that only this user can use, leases, a time that it stays after the last one.
Beside the door is the socket where keepers ask it for forks; it listens before the parent begins.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_mlc_server import doors, fingerprint, process, runs, runtime, shared_servers, sharing
from pytest_mlc_server.doors import Door
from pytest_mlc_server.errors import MLCServerError
from pytest_mlc_server.launcher import variables
from pytest_mlc_server.leases import GuardianLostError, Lease
from pytest_mlc_server.sharing import Share

if TYPE_CHECKING:
    from pytest_mlc_server.config import ServerConfig
    from pytest_mlc_server.engines import LaunchPlan

#: How long a parent may take to say how it is, in seconds; it forks in between.
ANSWER_WITHIN = 2.0

#: How long the guardian of a parent that is out of date may keep its door, in seconds.
LEAVE_WITHIN = 5.0

#: What ``ps`` calls one.
KIND = "warm parent"

#: What the engines of `mlc_llm` import.
MODULE = "mlc_llm"

#: What a name in the server's directory stands for a module, before all installed ones.
_SOURCES = ("mlc_llm", "tvm", "mlc_llm.py", "tvm.py")


@dataclass(frozen=True)
class Place:
    """Where a warm parent is.

    Parameters
    ----------
    door
        The door of its guardian.
    linger
        How long it stays after its last user, in seconds.
    """

    door: str
    linger: float

    @property
    def socket(self) -> str:
        """Where it is asked for forks."""
        return self.door.removesuffix(".door") + ".fork"

    def order(self) -> dict[str, Any]:
        """Return what the keeper of a forked server must know."""
        return {"door": self.door, "linger": self.linger}


def wanted(config: ServerConfig) -> bool:
    """Tell whether a configuration's server is to be forked from a warm parent."""
    return config.launch == "warm" and config.engine in ("mlc", "mock")


def directory() -> str:
    """Return the directory of the warm parents' doors."""
    return runtime.subdirectory("warm")


def key(plan: LaunchPlan) -> str:
    """Return what is equal for servers that can be forked from one parent.

    That is the interpreter, this package's launcher, the environment variables in
    `launcher.variables.IMPORT_TIME`, and what a process inherits and a library may look at when it
    is loaded: limits, priority, processors, groups. The directory counts where it holds a
    `mlc_llm` or `tvm` of its own.
    """
    python = shutil.which(plan.argv[0], path=plan.env.get("PATH")) or plan.argv[0]
    own = any(os.path.exists(os.path.join(plan.cwd, name)) for name in _SOURCES)
    return fingerprint.short_hash(
        {
            "host": runs.host(),
            "interpreter": fingerprint.stamp(os.path.realpath(python)),
            "path": python,  # of a virtual environment: its Python is a link
            "launcher": fingerprint.stamp(plan.argv[1]),
            "environment": variables.import_time(plan.env),
            "directory": plan.cwd if own else "",
            "inherited": _inherited(),
        }
    )


def _inherited() -> list[Any]:
    import resource

    limits = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return [
        {name: resource.getrlimit(getattr(resource, name)) for name in limits},
        os.getpriority(os.PRIO_PROCESS, 0),
        sorted(os.sched_getaffinity(0)) if sys.platform.startswith("linux") else None,
        [os.getgid(), *sorted(os.getgroups())],
    ]


class Parents:
    """The warm parents that this process holds.

    Parameters
    ----------
    linger
        How long each stays after its last user, in seconds.
    """

    def __init__(self, linger: float = 0.0) -> None:
        self.linger = linger
        self._held: dict[str, _Held] = {}
        self._refusals: dict[str, str] = {}
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def place(self, plan: LaunchPlan, config: ServerConfig) -> Place | str:
        """Return where a server can be forked, or why it cannot; starts a parent if there is none.

        It need not have imported anything yet: whoever asks it for a fork is answered then.

        Parameters
        ----------
        plan
            How the server would be launched directly.
        config
            Its configuration.
        """
        if not sys.platform.startswith("linux"):
            return "this platform has no means against orphans of forks; Linux has"
        with self._lock:
            if self._owner != os.getpid():
                # A fork has no leases, but descriptors of those of its parent.
                self.close()
                self._owner = os.getpid()
            return self._place(key(plan), plan, config)

    def _place(self, name: str, plan: LaunchPlan, config: ServerConfig) -> Place | str:
        deadline = time.monotonic() + LEAVE_WITHIN
        try:
            while name not in self._refusals and time.monotonic() < deadline:
                held = self._held.get(name) or self._open(name, plan, config)
                self._held[name] = held
                gone = held.trouble()
                if gone is None:
                    return Place(held.door, self.linger)
                self._held.pop(name).close()
                reason, again = gone
                if not again:
                    self._refusals[name] = reason
        except (OSError, MLCServerError, GuardianLostError) as error:
            return f"{type(error).__name__}: {error}"
        return self._refusals.get(name, "the one that is out of date does not leave")

    def close(self) -> None:
        """Let all of them go."""
        held, self._held = self._held, {}
        for one in held.values():
            one.close()

    def _open(self, name: str, plan: LaunchPlan, config: ServerConfig) -> _Held:
        share = Share(name, directory(), linger=self.linger)
        with sharing.locked(share):
            found = sharing.attach(share)
            if found is not None:
                lease, welcome = found
                return _Held(lease, str(welcome["door"]), ready=welcome["state"] == "ready")
            return _start(share, plan, config)


class _Held:
    """The lease of one parent."""

    def __init__(self, lease: Lease, door: str, *, ready: bool) -> None:
        self.door = door
        self._lease = lease
        self._ready = ready

    def trouble(self) -> tuple[str, bool] | None:
        """Return why it can fork nothing, and whether another one could; None if it can."""
        gone = None
        try:
            while gone is None and (message := self._lease.next(0)) is not None:
                gone = self._take(message)
        except GuardianLostError:
            return "its guardian has ended", True
        return gone or (self._ask() if self._ready else None)

    def _take(self, message: dict[str, Any]) -> tuple[str, bool] | None:
        event = message["event"]
        if event == "ready":
            self._ready = True
        elif event == "retired":
            return str(message["reason"]), bool(message["stale"])
        elif event == "failed":
            return str(message["detail"]), bool(message.get("stale"))
        elif event in ("exited", "stopped"):
            return "it has ended", True
        return None

    def _ask(self) -> tuple[str, bool] | None:
        """Ask it whether what it has imported is still what is installed."""
        try:
            with doors.connect(Place(self.door, 0.0).socket) as connection:
                connection.settimeout(ANSWER_WITHIN)
                connection.sendall(b"status\n")
                answer = json.loads(connection.makefile("rb").readline())
        except TimeoutError:
            return None  # whoever asks for a fork is told
        except (OSError, ValueError):
            return "it has ended", True
        if not answer["reason"]:
            return None
        return str(answer["reason"]), bool(answer["stale"])

    def close(self) -> None:
        """Let it go."""
        if self._lease.mine:
            self._lease.release(keep_log=False)
        else:
            self._lease.leave()


def _start(share: Share, plan: LaunchPlan, config: ServerConfig) -> _Held:
    """Start a parent. Called with the lock of its key."""
    door = sharing.open_door(share, own_log=True)
    place = Place(door.path, share.linger)
    try:
        with doors.listener(place.socket) as forks:
            lease = _lease(share, door, place, forks, plan, config)
            door.describe(
                kind=KIND,
                python=plan.argv[0],
                stop_timeout=0.0,
                **lease.guardian,
            )
    except BaseException:
        door.close(remove=True)
        with contextlib.suppress(OSError):
            os.unlink(place.socket)
        raise
    door.close(remove=False)
    return _Held(lease, door.path, ready=False)


def _lease(
    share: Share, door: Door, place: Place, forks: Any, plan: LaunchPlan, config: ServerConfig
) -> Lease:
    mark = os.urandom(16).hex()
    order = door.order(share, {"door": door.path})
    order["files"].append(place.socket)
    return Lease(
        (*plan.argv[:2], "warm", MODULE),
        {**plan.env, process.MARK: mark},
        plan.cwd,
        os.path.join(door.log_directory, "warm.log"),
        {
            "mark": mark,
            "host": "",
            "port": 0,
            "startup_timeout": config.startup_timeout,
            "startup_limit": max(config.startup_limit, config.startup_timeout),
            "stop_timeout": 0.0,  # it has nothing to close: its servers are gone before
            "expected": {"model": "", "api_key": None, "generate": False},
            "forks": place.socket,
            "share": order,
        },
        door=door.listener,
        forks=forks,
    )


def found(plan: LaunchPlan) -> shared_servers.Found | None:
    """Return the parent that waits for servers such as this; None if there is none."""
    return next(iter(shared_servers.found(directory(), key(plan))), None)
