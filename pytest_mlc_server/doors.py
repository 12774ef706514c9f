"""The doors of shared servers: sockets where their guardians are asked, and the files beside them.

A door is in a directory that only this user can use, with a description of its server beside it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_mlc_server import guardian_process, leases, process, runtime

if TYPE_CHECKING:
    from pytest_mlc_server.sharing import Share

#: How long to wait for a guardian that is going, beyond its own stop-timeout, in seconds.
GOING_GRACE = 15.0


@dataclass
class Door:
    """A new door, and the files that its guardian removes in the end."""

    listener: socket.socket
    path: str
    log_directory: str

    @property
    def info(self) -> str:
        """The file that describes the server, for people."""
        return self.path.removesuffix(".door") + ".json"

    @property
    def id(self) -> str:
        """What ``ps`` calls the server."""
        return self.path.removesuffix(".door").rpartition(".")[2]

    def describe(self, **facts: Any) -> None:
        """Write down what the server is."""
        with open(self.info, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            json.dump(facts, file)

    def order(self, share: Share, grants: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the guardian must know of it.

        Parameters
        ----------
        share
            How the server is shared.
        grants
            What every holder must know: keys and tokens.
        """
        return {
            "linger": share.linger,
            "runs": share.runs,
            "files": [self.path, self.info],
            "failure": share.failure,
            "run": share.failures,
            "discard": self.log_directory,
            "grants": dict(grants),
        }

    def close(self, *, remove: bool) -> None:
        """Let go of it: it lives on in the guardian, or it is removed."""
        self.listener.close()
        if remove:
            for path in (self.path, self.info):
                with contextlib.suppress(OSError):
                    os.unlink(path)
            if self.log_directory:
                shutil.rmtree(self.log_directory, ignore_errors=True)


def listener(path: str) -> socket.socket:
    """Listen at a path that only this user can connect to."""
    made = socket.socket(socket.AF_UNIX)
    try:
        with _short(f"{path}.new") as name:
            made.bind(name)
        os.chmod(f"{path}.new", 0o600)
        made.listen(128)
        # Who looks without the lock would take a door that does not listen yet for a dead one.
        os.rename(f"{path}.new", path)
    except BaseException:
        made.close()
        raise
    return made


def connect(path: str) -> socket.socket:
    """Connect to a door."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        with _short(path) as name:
            connection.connect(name)
    except BaseException:
        connection.close()
        raise
    return connection


def paths(directory: str, prefix: str) -> list[str]:
    """Return the doors in a directory whose names begin in a given way."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    return [
        os.path.join(directory, name)
        for name in names
        if name.startswith(prefix) and name.endswith(".door")
    ]


def facts_of(path: str) -> Mapping[str, Any]:
    """Return what the server behind a door is, as its starter wrote it down."""
    try:
        with open(path.removesuffix(".door") + ".json", encoding="utf-8") as file:
            facts = json.load(file)
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def forget(path: str, error: OSError) -> None:
    """Remove a door behind which nobody is any more; wait for a guardian that is going."""
    if runtime.only_looks() or error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
        return
    await_keeper(path)
    for suffix in (".door", ".json", ".fork"):
        name = path.removesuffix(".door") + suffix
        with contextlib.suppress(OSError):
            os.unlink(name)


def await_keeper(path: str) -> None:
    """Wait for the end of a guardian that is going, and of what it held."""
    await_guardian(facts_of(path))


def await_guardian(facts: Mapping[str, Any]) -> None:
    """Wait for the end of the guardian that a description names."""
    try:
        pid, start = int(facts.get("keeper", 0)), str(facts.get("keeper_start", ""))
        patience = float(facts.get("stop_timeout", 0.0)) + GOING_GRACE
    except (TypeError, ValueError):
        return  # half written, or by somebody else
    if pid > 0 and start and process.start_time(pid) == start:
        guardian_process.await_end(pid, start, patience)


def say(connection: socket.socket, **message: Any) -> None:
    """Send one message."""
    connection.sendall(json.dumps(message).encode() + b"\n")


def hear(connection: socket.socket) -> dict[str, Any] | None:
    """Return the answer; None if the guardian closed the door, or sent what is none."""
    connection.settimeout(leases.ANSWER_WITHIN)
    inbox = b""
    while b"\n" not in inbox:
        chunk = connection.recv(1 << 16)
        if not chunk:
            return None
        inbox += chunk
    try:
        message: dict[str, Any] = json.loads(inbox.partition(b"\n")[0])
    except ValueError:
        return None
    return message


def await_close(connection: socket.socket, timeout: float) -> bool:
    """Wait until a guardian closes a connection, as it does in the end; tell whether it has."""
    connection.settimeout(timeout)
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@contextlib.contextmanager
def _short(path: str) -> Iterator[str]:
    """Return a name for a socket that fits: the kernel takes 107 bytes and no more."""
    if len(os.fsencode(path)) <= 100:
        yield path
        return
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)
