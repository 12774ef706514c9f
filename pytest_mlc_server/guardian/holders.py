"""Who holds the server: the leases, those who wait at the door, and the run that it belongs to."""

from __future__ import annotations

import os
import selectors
import socket
import struct
import sys
import time

from pytest_mlc_server.guardian.holder import Holder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


class Holders:
    """All holders of one server.

    A connection at the door is a guest until it asks for a lease: a guest may ask how things are,
    and its end means nothing.

    Parameters
    ----------
    selector
        Where to wait for them.
    on_message
        Called with the holder and its message.
    on_none
        Called when the last holder is gone.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        on_message: Callable[[Holder, dict[str, Any]], None],
        on_none: Callable[[], None],
    ) -> None:
        self.idle_since: float | None = None
        """Since when nobody holds the server, on the monotonic clock; None while somebody does."""
        self.unused_since = time.monotonic()
        """Since when no lease holds the server, whatever run keeps it; while one does, of old."""
        self._selector = selector
        self._on_message = on_message
        self._on_none = on_none
        self._leases: list[Holder] = []
        self._guests: list[Holder] = []
        self._gone: list[Holder] = []
        self._runs: dict[tuple[int, str], tuple[Holder, socket.socket]] = {}
        self._door: socket.socket | None = None
        self._shared = False

    @property
    def leases(self) -> int:
        """How many leases there are."""
        return len(self._leases)

    @property
    def must_be_looked_for(self) -> bool:
        """Whether `look` must be called now and then: the kernel tells nothing."""
        return any(holder.must_be_looked_for for holder in self._all())

    def look(self) -> None:
        """Look whether the holders' processes are there."""
        for holder in list(self._all()):
            holder.look()

    def tell(self, **message: Any) -> None:
        """Tell all who hold a lease."""
        for holder in list(self._leases):
            holder.send(**message)

    @property
    def of_a_run(self) -> bool:
        """Whether the controller of a run lives, and has not said that its run is over."""
        return bool(self._runs)

    def has(self, holder: Holder) -> bool:
        """Tell whether one holds a lease."""
        return holder in self._leases

    # --- coming -----------------------------------------------------------------------------------

    def first(self, descriptor: int) -> Holder:
        """Take the lease that the guardian was started with."""
        holder = self._meet(descriptor)
        self._leases.append(holder)
        return holder

    def open_door(self, descriptor: int) -> None:
        """Let others connect, on a socket that listens."""
        self._shared, self._door = True, socket.socket(fileno=descriptor)
        self._door.setblocking(False)
        self._selector.register(self._door, selectors.EVENT_READ, self._welcome)

    def close_door(self) -> None:
        """Let nobody connect any more: whoever tries finds that the server is gone."""
        door, self._door = self._door, None
        if door is not None:
            self._selector.unregister(door)
            door.close()

    def accept(self, guest: Holder, processes: Iterable[tuple[int, str]]) -> None:
        """Give a lease to a guest."""
        self._guests.remove(guest)
        self._leases.append(guest)
        self.idle_since = None
        for pid, start in processes:
            guest.watch_process(pid, start)

    def keep_for_run(self, pid: int, start: str) -> None:
        """Hold the server for as long as the run's controller lives, or until it says otherwise."""
        if (pid, start) in self._runs:
            return
        ours, theirs = socket.socketpair()
        run = Holder(ours.detach(), self._selector, lambda _: None, lambda: self._run_over(key))
        key = (pid, start)
        self._runs[key] = (run, theirs)
        self.idle_since = None
        run.watch_process(pid, start)

    # --- going ------------------------------------------------------------------------------------

    def end_run(self, pid: int) -> None:
        """Hear from a controller that its run is over."""
        for key in [key for key in self._runs if key[0] == pid]:
            self._runs[key][0].lose()

    def close(self) -> None:
        """Close everything."""
        self.close_door()
        for holder in [*self._all(), *self._gone]:
            holder.close()
        for _, theirs in self._runs.values():
            theirs.close()

    def _all(self) -> Iterable[Holder]:
        return [*self._leases, *self._guests, *(run for run, _ in self._runs.values())]

    def _meet(self, descriptor: int) -> Holder:
        holder = Holder(
            descriptor,
            self._selector,
            lambda message: self._on_message(holder, message),
            lambda: self._lost(holder),
        )
        return holder

    def _welcome(self) -> None:
        if self._door is None:
            return
        try:
            connection, _ = self._door.accept()
        except OSError:
            return
        if _is_ours(connection):
            self._guests.append(self._meet(connection.detach()))
        else:
            connection.close()

    def _lost(self, holder: Holder) -> None:
        if holder in self._guests:
            self._guests.remove(holder)
            holder.close()
        elif holder in self._leases:
            self._leases.remove(holder)
            self.unused_since = time.monotonic()
            if self._shared:
                holder.close()  # there may be many of them
            else:
                self._gone.append(holder)  # one of its processes may live, and hear the end
            self._look_whether_none()

    def _run_over(self, key: tuple[int, str]) -> None:
        run, theirs = self._runs.pop(key)
        run.close()
        theirs.close()
        self._look_whether_none()

    def _look_whether_none(self) -> None:
        if not self._leases and not self._runs:
            self.idle_since = time.monotonic()
            self._on_none()


def _is_ours(connection: socket.socket) -> bool:
    """Tell whether a connection comes from this user; the directory of the socket says so too."""
    if not sys.platform.startswith("linux"):
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return bool(struct.unpack("3i", credentials)[1] == os.getuid())
