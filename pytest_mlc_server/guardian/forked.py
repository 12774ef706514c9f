"""A server that a warm parent forks for this keeper, which is not its parent.

The keeper asks over a Unix socket. What answers is the server's reaper (`launcher/forking.py`): the
server's parent, to which orphans of its tree come. It reports the server's end, kills what is left
when this end of the connection closes, and closes its own end when nothing is left.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket

from pytest_mlc_server import process
from pytest_mlc_server.guardian.spawn import Order, open_log, secret_pipe, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import psutil

#: What the parent does until it answers, for people.
WAITING = "waiting for imports"

#: How long the holder's order may take, in seconds: it is on its way, or the holder has ended.
ORDER_WITHIN = 60.0

#: The code of a server whose reaper was killed: the kernel kills the server with it.
LOST = -int(signal.SIGKILL)


class ForkError(Exception):
    """There is nobody who could fork the server."""


def launch(order: Order, held: Sequence[int] = ()) -> tuple[int, Forked | None]:
    """Have a server forked, or execute it where that cannot be.

    Parameters
    ----------
    order
        The server.
    held
        Descriptors that are to be open for as long as anything of the server is left.

    Returns
    -------
    tuple
        The process id, and None; or 0, and the server that was asked for.

    Raises
    ------
    SpawnError
        If the program cannot be executed.
    """
    if not order.parent:
        return spawn(order), None
    try:
        return 0, Forked(order, held)
    except ForkError as error:
        return execute(order, str(error)), None


def execute(order: Order, reason: str) -> int:
    """Execute a server that could not be forked, and say so in its log."""
    pid = spawn(order)
    write_line(order.log, f"--- not forked from the warm parent: {reason}; launched directly ---")
    return pid


def write_line(path: str, line: str) -> None:
    """Add a line to a server's log."""
    try:
        with open(path, "a", encoding="utf-8", errors="replace") as log:
            log.write(f"{line}\n")
    except OSError:
        pass


class Forked:
    """One server that was asked for.

    Parameters
    ----------
    order
        What it is.
    held
        As in `launch`.

    Raises
    ------
    ForkError
        If the warm parent is not there.
    SpawnError
        If the log cannot be opened.

    Attributes
    ----------
    pid
        The server; 0 until it is forked.
    reaper
        Its parent; 0 until then.
    """

    def __init__(self, order: Order, held: Sequence[int] = ()) -> None:
        self.pid = self.reaper = 0
        self._mark = order.env.get(process.MARK, "")
        self._inbox = b""
        self._closed = self._reported = self._hung_up = False
        self._pidfds: dict[int, int] = {}
        self.connection = connect(order.parent)
        try:
            _ask(self.connection, order, held)
        except (OSError, AttributeError) as error:  # some C library has no `memfd_create`
            self.connection.close()
            raise ForkError(f"it cannot be asked: {error}") from None
        self.connection.setblocking(False)

    # --- news -------------------------------------------------------------------------------------

    def read(self) -> list[dict[str, Any]]:
        """Return what there is to hear; after the last message, that the connection is closed."""
        try:
            data = self.connection.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self._closed = True
            return [{"event": "closed"}]
        *lines, self._inbox = (self._inbox + data).split(b"\n")
        messages: list[dict[str, Any]] = [json.loads(line) for line in lines]
        for message in messages:
            self._take(message)
        return messages

    def _take(self, message: dict[str, Any]) -> None:
        if message["event"] == "forked":
            self.pid, self.reaper = int(message["pid"]), int(message["reaper"])
            for pid in (self.pid, self.reaper):
                try:
                    self._pidfds[pid] = os.pidfd_open(pid)
                except OSError:  # it has ended already, or the kernel is old
                    continue
        elif message["event"] == "exited":
            self._reported = True

    # --- the tree ---------------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        """Send a signal to the server; it is not this process's child, so its number may be old."""
        self._send(self.pid, number)

    def tree(self) -> list[psutil.Process]:
        """Return all living processes of the server's tree."""
        found = process.descendants(self.reaper) if self.reaper else []
        if self._closed and not self._reported:
            found += process.marked(self._mark)  # the reaper was killed: it has nobody below it
        return found

    @property
    def pidfd(self) -> list[int]:
        """What the kernel tells the server's end by; empty where it does not."""
        return [self._pidfds[self.pid]] if self.pid in self._pidfds else []

    @property
    def gone(self) -> bool:
        """Whether nothing of the tree is left."""
        # The kernel closes a dead reaper's descriptors before it kills the server.
        return not self.pid or (self._closed and not self._lives(self.pid))

    def hang_up(self) -> None:
        """Have the reaper kill the tree; it is heard until it has."""
        if self._hung_up:
            return
        self._hung_up = True
        try:
            self.connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def end_reaper(self) -> None:
        """Kill a reaper that does nothing any more: stopped with SIGSTOP, say."""
        self._send(self.reaper, signal.SIGKILL)

    def close(self) -> None:
        """Close everything."""
        self.connection.close()
        for descriptor in self._pidfds.values():
            os.close(descriptor)
        self._pidfds.clear()

    def _send(self, pid: int, number: int) -> None:
        try:
            if pid in self._pidfds:
                signal.pidfd_send_signal(self._pidfds[pid], number)
            elif pid:
                os.kill(pid, number)
        except OSError:
            pass

    def _lives(self, pid: int) -> bool:
        if pid in self._pidfds:
            poll = select.poll()
            poll.register(self._pidfds[pid], select.POLLIN)
            return not poll.poll(0)
        return bool(process.descendants(self.reaper)) or bool(process.marked(self._mark))


def connect(path: str) -> socket.socket:
    """Connect to a Unix socket.

    Raises
    ------
    ForkError
        If nobody listens there.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        # The kernel takes 107 bytes of a name, and no more.
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        finally:
            os.close(directory)
    except OSError as error:
        connection.close()
        raise ForkError(f"it is not there any more: {error.strerror}") from None
    return connection


def _ask(connection: socket.socket, order: Order, held: Sequence[int]) -> None:
    umask = os.umask(0)
    os.umask(umask)
    request = {
        "argv": order.argv,
        "env": order.env,
        "cwd": order.cwd,
        "umask": umask,
        "mark": process.MARK,
        "secret": bool(order.secret),
    }
    log = open_log(order.log)
    descriptors = [log]
    try:
        # In a file of memory: the parent may be busy with its imports, and a long request would
        # wait until somebody reads it.
        file = os.memfd_create("request")
        descriptors.insert(0, file)
        _write(file, json.dumps(request).encode())
        if order.secret:
            descriptors.append(secret_pipe(order.secret))
        socket.send_fds(connection, [b"fork\n"], [*descriptors, *held])
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
