"""How many servers live at once: who makes room for the next one, and who waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pytest_mlc_server import process
from pytest_mlc_server.errors import ConfigError
from pytest_mlc_server.slots import FullError, Slots

if TYPE_CHECKING:
    from pytest_mlc_server.config import ServerConfig
    from pytest_mlc_server.models import Choice
    from pytest_mlc_server.server import PopenServer
    from pytest_mlc_server.shared_servers import Found
    from pytest_mlc_server.sharing import Share

#: Servers that live at once where nothing is set: a real model fills a GPU.
OF_MLC, OF_OTHERS = 1, 4

#: Pause between two looks for room that other workers make, in seconds.
LOOK_EVERY = 0.05

#: How long the driver may take to free the memory of a server that has ended, in seconds.
MEMORY_WITHIN = 30.0


class BoundError(ConfigError):
    """No further server may start: all there may be are in use."""


class Servers(Protocol):
    """The servers of one process.

    Attributes
    ----------
    running
        Those in use.
    lent_for
        Of these, those that the fixture `mlc_server` gave, by their `id`.
    """

    running: list[PopenServer]
    lent_for: dict[int, tuple[str, Choice | None]]

    def count(self) -> int:
        """Return how many live or start."""

    def stop_idle(self, *, begun: bool) -> bool:
        """Stop the one that was not used for longest, if there is one; wait until it is gone.

        Parameters
        ----------
        begun
            Whether one that nobody has used yet may be stopped too.
        """


class Bound:
    """Bounds how many servers live at once.

    Parameters
    ----------
    limit
        How many; None for the default, which servers that test code asks for may exceed.
    origin
        The setting with its value and where it was set, for people.
    directory
        Of the run whose workers together have so many; empty for each process by itself.
    waiting
        Called with a line of text when a worker waits for room.
    """

    def __init__(
        self,
        limit: int | None = None,
        origin: str = "max_servers",
        directory: str = "",
        waiting: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._limit = limit
        self._origin = origin
        self._directory = directory
        self._waiting = waiting

    def of(self, config: ServerConfig) -> int:
        """Return how many servers may live beside one of this configuration, itself included."""
        if self._limit is not None:
            return self._limit
        return OF_MLC if config.engine == "mlc" else OF_OTHERS

    def allows(self, server: PopenServer, servers: Servers) -> bool:
        """Tell whether one more may be started although nobody waits for it yet."""
        if server.config.engine == "external":
            return True
        if self._directory:
            server.slots = self._slots(server)
            return True  # it takes a slot, or it is not started
        return servers.count() + len(_lingering(server.share)) < self.of(server.config)

    def start(
        self, server: PopenServer, servers: Servers, *, asked: bool, begun: bool = False
    ) -> None:
        """Start a server as soon as there is room for it.

        Parameters
        ----------
        server
            The server.
        servers
            The others of this process.
        asked
            Whether test code asked for it, beside what the fixture `mlc_server` gives.
        begun
            Whether it is starting already.

        Raises
        ------
        BoundError
            If there is none, and cannot be.
        StartError
            If it does not become ready.
        """
        __tracebackhide__ = True
        if server.config.engine == "external":
            server.start()
        elif self._directory:
            self._start_in_slot(server, servers, asked)
        else:
            if not begun:
                self._make_room(server, servers, asked)
            server.start()

    # --- each process by itself -------------------------------------------------------------------

    def _make_room(self, server: PopenServer, servers: Servers, asked: bool) -> None:
        __tracebackhide__ = True
        free = asked and self._limit is None  # it may go beyond: what is about to be used stays
        stubborn: set[str] = set()
        while True:
            waiting = [one for one in _lingering(server.share) if one.id not in stubborn]
            if servers.count() + len(waiting) < self.of(server.config):
                return
            if waiting:
                if not end_idle(waiting[0], server.config):
                    stubborn.add(waiting[0].id)
            elif not servers.stop_idle(begun=not free):
                if self._limit is not None:
                    raise self._full(server, servers)
                return  # test code holds them, and asked for them

    # --- all workers of a run together ------------------------------------------------------------

    def _start_in_slot(self, server: PopenServer, servers: Servers, asked: bool) -> None:
        __tracebackhide__ = True
        slots = self._slots(server)
        # What test code asks for beyond the default takes no slot: it would be kept until the
        # session ends, and other workers would wait for that.
        free = asked and self._limit is None
        server.slots = None if free else slots
        began = 0.0
        while True:
            if free and len(slots.taken()) >= slots.limit and self._end_idle(server, servers, free):
                continue
            if _started(server, began):
                return
            if self._end_idle(server, servers, free):
                continue
            if _in_use(servers):
                if self._limit is not None:
                    raise self._full(server, servers)
                server.slots = None
                continue
            if not began:
                began = time.monotonic()
                self._tell_waiting(server, slots)
            elif time.monotonic() - began > server.config.startup_limit:
                raise self._waited(server, slots, time.monotonic() - began)
            time.sleep(LOOK_EVERY)

    def _tell_waiting(self, server: PopenServer, slots: Slots) -> None:
        self._waiting(
            f"{_name(server)} waits until one of the {slots.limit} servers of this run is "
            f"idle ({self._origin})"
        )
        if server.on_phase is not None:
            server.on_phase("waiting for another server of this run to be idle")

    def _waited(self, server: PopenServer, slots: Slots, seconds: float) -> BoundError:
        return BoundError(
            f"{self._origin}: {_name(server)} has waited {seconds:.0f} s "
            f"for one of the {slots.limit} servers of this run to be idle: "
            f"{', '.join(sorted(slots.taken()))} (`python -m pytest_mlc_server ps`). Allow "
            "more servers with --mlc-max-servers"
        )

    def _slots(self, server: PopenServer) -> Slots:
        def lingering(names: set[str]) -> int:
            return sum(one.key not in names for one in _of_nobody(server.share))

        return Slots(self._directory, self.of(server.config), lingering)

    def _end_idle(self, server: PopenServer, servers: Servers, free: bool) -> bool:
        """End one server that nobody uses; tell whether one has ended."""
        ours = self._slots(server).taken()
        idle = [one for one in _unused(server.share) if one.key in ours or _waits(one)]
        if any(end_idle(one, server.config) for one in idle):
            return True
        return servers.stop_idle(begun=not free)

    def _full(self, server: PopenServer, servers: Servers) -> BoundError:
        number = self._limit
        which = "the one server is" if number == 1 else f"all {number} servers are"
        return BoundError(
            f"{self._origin}: {_name(server)} cannot start, because {which} in use: "
            f"{'; '.join(_in_use(servers))}. What mlc_server_factory returns is in use until the "
            "session ends: use mlc_server_factory.temporary(), or a higher number"
        )


def _started(server: PopenServer, waiting_since: float) -> bool:
    """Start a server if there is a slot for it; tell whether there was."""
    __tracebackhide__ = True
    try:
        server.start()
    except FullError:
        return False
    if waiting_since:
        waited = {"waiting": time.monotonic() - waiting_since}
        server.startup_phases = {**waited, **server.startup_phases}
    return True


def _in_use(servers: Servers) -> list[str]:
    return [
        _name(one) + (" (of mlc_server)" if id(one) in servers.lent_for else " (of the factory)")
        for one in servers.running
        if one.config.engine != "external"
    ]


def _name(server: PopenServer) -> str:
    return f"{server.engine} {server.model!r}"


def _unused(share: Share | None) -> list[Found]:
    """Return the servers where this one would be shared that nobody uses, the longest first."""
    if share is None:
        return []
    from pytest_mlc_server import shared_servers

    idle = [
        one
        for one in shared_servers.found(share.directory)
        if one.key != share.key and not one.status.get("leases")
    ]
    return sorted(idle, key=lambda one: -float(one.status.get("unused") or 0.0))


def _waits(found: Found) -> bool:
    """Tell whether a server waits for its next user, and no run holds it."""
    return found.status.get("idle") is not None


def _of_nobody(share: Share | None) -> list[Found]:
    return [one for one in _unused(share) if _waits(one)] if share and share.linger else []


def _lingering(share: Share | None) -> list[Found]:
    """Return the servers of earlier runs that wait for this very worker, the longest first."""
    if share is None or not share.exclusive:
        return []
    worker = share.key.rpartition("-")[2]
    return [one for one in _of_nobody(share) if one.key.rpartition("-")[2] == worker]


def end_idle(found: Found, config: ServerConfig) -> bool:
    """Stop a server that nobody uses, and wait until it is gone; tell whether it is."""
    pids = tree(int(found.status.get("pid") or 0))
    gone = found.stop_idle(float(found.facts.get("stop_timeout") or config.stop_timeout))
    if gone:
        found.await_guardian()
        await_memory(pids, str(found.facts.get("engine")))
    return gone


def end(server: PopenServer) -> None:
    """Stop a server of this process, also one that would wait for its next user.

    Returns when it is gone, with what it held of the GPUs' memory, as far as that can be told.
    """
    pids, share = tree(server.pid or 0), server.share
    server.terminate()
    if share is not None:
        from pytest_mlc_server import shared_servers

        for one in shared_servers.found(share.directory, share.key):
            end_idle(one, server.config)
    await_memory(pids, str(server.config.engine))


def tree(pid: int) -> list[int]:
    """Return a process and its descendants; none for 0."""
    if not pid:
        return []
    return [pid, *(one.pid for one in process.descendants(pid))]


def await_memory(pids: list[int], engine: str) -> None:
    """Wait until the driver has freed what processes had of the GPUs, where that can be told."""
    if engine == "mlc" and pids:
        from pytest_mlc_server import nvml

        nvml.wait_until_released(pids, MEMORY_WITHIN)
