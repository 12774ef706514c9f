"""The warm parent: imports what a server needs, then forks servers for those who ask.

It listens on a Unix socket (descriptor 3) in a directory that only its user can use. It initialises
no device, starts no thread, and has no handler for any signal: a server that is forked finds what a
process finds that has imported by itself.

A connection says ``fork`` (with descriptors; see `forking.Request`), ``status`` or ``watch``, and
is answered in lines of JSON: ``forked``, ``failed``, ``refused``, ``exited``, ``status``,
``retired``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time

from . import direct, forking, imports, installed, kernel, plain, variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: Descriptor of the socket, which listens already when this process begins.
LISTENER_FD = 3

#: How long a process may survive SIGKILL (in uninterruptible sleep) before it is given up, seconds.
GIVE_UP_AFTER = 2.0

#: The longest request and how many descriptors come with it: it is a word.
_LONGEST, _MOST_DESCRIPTORS = 64, 16


def main(arguments: Sequence[str], secret: str) -> None:
    """Serve forks until nobody needs them; in each forked server, run it.

    Parameters
    ----------
    arguments
        The module that is imported.
    secret
        Not used: a server's secret comes with its request.
    """
    request = Parent(arguments[0]).serve()
    how, *command = request.argv[2:]
    secret = ""
    if how.endswith("+key"):
        with open(forking.SECRET_FD, "rb") as pipe:
            secret = pipe.read().decode()
    direct.main(command, secret)


class Parent:
    """The warm parent.

    Parameters
    ----------
    module
        What it imports.
    """

    def __init__(self, module: str) -> None:
        self._listener: socket.socket | None = socket.socket(fileno=LISTENER_FD)
        self._listener.setblocking(False)
        os.set_inheritable(LISTENER_FD, False)
        # A server begins where it is told to: what it finds first on its path moves with it.
        self._begins_here = bool(sys.path) and sys.path[0] == os.getcwd()
        self._reapers: dict[int, int] = {}
        self._guests: dict[int, socket.socket] = {}
        self._watching: list[socket.socket] = []
        self._poll = select.poll()
        kernel.become_subreaper()
        self._imports = imports.Imports(module)
        self._retired = self._imports.problem

    # --- serving ----------------------------------------------------------------------------------

    def serve(self) -> forking.Request:
        """Fork servers for those who ask; returns in each forked server."""
        if self._retired:
            self._refuse_all(self._retired, stale=False)
            os._exit(1)
        assert self._listener is not None  # noqa: S101 - nothing has closed it
        self._poll.register(self._listener, select.POLLIN)
        while not self._retired or self._reapers:
            for descriptor, _ in self._poll.poll():
                request = self._on_event(descriptor)
                if request is not None:
                    return request
        os._exit(0)

    def _refuse_all(self, reason: str, *, stale: bool) -> None:
        """Answer those who wait already."""
        assert self._listener is not None  # noqa: S101 - nothing has closed it
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                _tell(connection, event="refused", reason=reason, stale=stale)
                connection.close()

    def _on_event(self, descriptor: int) -> forking.Request | None:
        if self._listener is not None and descriptor == self._listener.fileno():
            self._welcome()
        elif descriptor in self._reapers:
            self._reaper_ended(descriptor)
        elif descriptor in self._guests:
            return self._hear(self._guests[descriptor])
        return None

    def _welcome(self) -> None:
        assert self._listener is not None  # noqa: S101 - it was polled
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if struct.unpack("3i", credentials)[1] != os.getuid():
            connection.close()
            return
        connection.setblocking(False)
        self._guests[connection.fileno()] = connection
        self._poll.register(connection, select.POLLIN)

    def _hear(self, guest: socket.socket) -> forking.Request | None:
        descriptors: list[int] = []
        try:
            word, descriptors, _, _ = socket.recv_fds(guest, _LONGEST, _MOST_DESCRIPTORS)
        except BlockingIOError:
            return None
        except OSError:
            word = b""
        word = word.strip()
        try:
            if word == b"watch":
                self._watching.append(guest)
                self._tell_status(guest)
                return None
            if word == b"status":
                self._imports.compare()
                self._tell_status(guest)
                self._imports.compared()
                return None
            self._leave(guest)
            request = self._fork(guest, descriptors) if word == b"fork" else None
            if request is not None:
                guest.detach()  # in the server: it is closed there
            return request
        finally:
            if guest.fileno() not in self._guests:
                guest.close()
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    def _leave(self, guest: socket.socket) -> None:
        self._guests.pop(guest.fileno(), None)
        self._poll.unregister(guest)
        if guest in self._watching:
            self._watching.remove(guest)

    def _tell_status(self, guest: socket.socket) -> None:
        reason, stale = (self._retired, False) if self._retired else self._imports.trouble()
        servers = len(self._reapers)
        _tell(guest, event="status", reason=reason, stale=stale, servers=servers)
        self._retire(reason, stale=stale)

    def _retire(self, reason: str, *, stale: bool) -> None:
        """Fork nothing any more; end when the last server has."""
        if self._retired or not reason:
            return
        self._retired = reason
        plain.say(reason)
        for guest in self._watching:
            _tell(guest, event="retired", reason=reason, stale=stale)
        for guest in [guest for guest in self._guests.values() if guest not in self._watching]:
            _tell(guest, event="refused", reason=reason, stale=stale)
        self._refuse_all(reason, stale=stale)
        if self._listener is not None:
            self._poll.unregister(self._listener)
            self._listener.close()
            self._listener = None

    # --- forking ----------------------------------------------------------------------------------

    def _fork(
        self, connection: socket.socket, descriptors: Sequence[int]
    ) -> forking.Request | None:
        try:
            request = forking.Request(descriptors)
        except (ValueError, KeyError, TypeError, OSError, IndexError, AttributeError) as error:
            _tell(connection, event="failed", problem=f"the request cannot be read: {error}")
            return None
        reason, stale = (self._retired, False) if self._retired else self._imports.trouble()
        if reason:
            _tell(connection, event="refused", reason=reason, stale=stale)
            self._retire(reason, stale=stale)
            return None
        reason = _other_imports(request)
        if reason:
            _tell(connection, event="refused", reason=reason, stale=False)
            return None
        if _hung_up(connection):
            return None
        connection.setblocking(True)
        forked = forking.fork(request, connection, self._imports.inherited)
        if forked is None:
            self._become_nobody()
            return request
        pid, ends = forked
        self._reapers[ends] = pid
        self._poll.register(ends, select.POLLIN)
        return None

    def _become_nobody(self) -> None:
        """Leave nothing of the warm parent in a server: its descriptors are closed already."""
        for one in (self._listener, *self._guests.values()):
            if one is not None:
                one.detach()
        if self._begins_here:
            sys.path[0] = os.getcwd()

    def _reaper_ended(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        os.close(descriptor)
        pid = self._reapers.pop(descriptor)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        self._end_orphans()

    def _end_orphans(self) -> None:
        """Kill what a reaper has left that was killed itself: the kernel hands it to this one."""
        spared = {*self._reapers.values(), *self._imports.children}
        limit = time.monotonic() + GIVE_UP_AFTER
        while time.monotonic() < limit:
            orphans = kernel.below(os.getpid(), but=spared)
            if not orphans:
                break
            for pid in orphans:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(forking.KILL_EVERY / 1000)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _other_imports(request: forking.Request) -> str:
    """Return why a server with this environment and directory would import something else."""
    names = variables.difference(os.environ, request.env)
    if names:
        return f"its environment differs in what imports read: {', '.join(names)}"
    try:
        return installed.taken_elsewhere(request.cwd)
    except OSError:
        return ""  # the server's own process says what is wrong with its directory


def _hung_up(connection: socket.socket) -> bool:
    """Tell whether the keeper needs the server no more: it was waited for too long."""
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _tell(connection: socket.socket, **message: Any) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")
