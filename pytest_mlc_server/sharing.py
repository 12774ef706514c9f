"""Finding a server that others may hold as well, or being the one who starts it.

Each shared server has a socket, its door, in a directory that only this user can use. Whoever wants
the server takes the key's lock, knocks at the doors of that key, and opens one if nobody answers:
the door is open before the guardian runs, so the next one finds it at once. The lock is held for
milliseconds, never while a server starts, and the kernel frees it with its holder.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pytest_mlc_server import doors, runtime
from pytest_mlc_server.doors import Door
from pytest_mlc_server.errors import StartError
from pytest_mlc_server.leases import GuardianLostError, Lease

#: How long to wait for the lock of a key, in seconds. Its holder needs milliseconds, unless it
#: waits for the orderly end of a server.
LOCK_WITHIN = 600.0


@dataclass(frozen=True)
class Share:
    """How a server is shared.

    Parameters
    ----------
    key
        Equal for those who may share one server.
    directory
        Where its door is: of the run, or of this user's runs.
    runs
        Processes that hold the server beside its users, each with its start time: the controller of
        pytest-xdist workers, so that the server outlives each of them.
    exclusive
        Whether it has one user at a time, and waits for the next in between.
    linger
        How long it stays after its last user, in seconds.
    failures
        Directory where a failed start is noted, so that nobody of the run tries again; empty for
        no such note.
    """

    key: str
    directory: str
    runs: tuple[tuple[int, str], ...] = ()
    exclusive: bool = False
    linger: float = 0.0
    failures: str = ""

    @property
    def failure(self) -> str:
        """The file that says how the start failed; empty where none is written."""
        return os.path.join(self.failures, f"{self.key}.failed") if self.failures else ""


class BusyError(Exception):
    """Somebody else uses the server, and it is to have one user at a time."""


def agreed(directory: str, name: str, compute: Callable[[], str]) -> str:
    """Return what the first process of a run that asked has computed.

    Files may change, or be made, while a run is on its way: its workers must not disagree about
    which server is theirs.

    Parameters
    ----------
    directory
        The run's.
    name
        What it is agreed on.
    compute
        Computes it, for the first one.
    """
    path = os.path.join(directory, f"{name}.agreed")
    with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii") as file:
        return file.read()
    own = f"{path}.{secrets.token_hex(4)}"
    with open(own, "w", encoding="ascii") as file:
        file.write(compute())
    try:
        os.link(own, path)  # fails if another one was first
    except FileExistsError:
        pass
    finally:
        os.unlink(own)
    with open(path, encoding="ascii") as file:
        return file.read()


def run_directory(run: str) -> str:
    """Return the directory of one test run, made if it is not there."""
    return runtime.subdirectory(f"run-{run}")


def reuse_directory() -> str:
    """Return the directory of servers that outlive their runs."""
    return runtime.subdirectory("reuse")


@contextlib.contextmanager
def locked(share: Share) -> Iterator[None]:
    """Be the only one who looks for, or starts, the servers of a key.

    Raises
    ------
    StartError
        If somebody else does not let go of the lock.
    """
    import fcntl

    path = os.path.join(share.directory, f"{share.key}.lock")
    deadline = time.monotonic() + LOCK_WITHIN
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The directory of a run that was over may have been removed meanwhile.
            if _same_file(descriptor, path):
                break
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise StartError(
                    f"another process of this user has held {path} for {LOCK_WITHIN:g} s, and is "
                    "neither starting a server nor attaching to one: end it, or remove the file"
                ) from None
        os.close(descriptor)
        time.sleep(0.005)
    try:
        yield
    finally:
        os.close(descriptor)


def attach(share: Share) -> tuple[Lease, dict[str, Any]] | None:
    """Become a holder of the server of a key, if there is one.

    Called with the key's lock. A guardian that is going is waited for: its server holds memory, and
    perhaps the port.

    Raises
    ------
    BusyError
        If the server has its one user.
    """
    for path in doors.paths(share.directory, f"{share.key}."):
        try:
            connection = doors.connect(path)
        except OSError as error:
            doors.forget(path, error)
            continue
        try:
            lease, answer = Lease.ask(
                connection, exclusive=share.exclusive, linger=share.linger, runs=share.runs
            )
        except GuardianLostError:
            connection.close()
            doors.await_keeper(path)
            continue
        if answer.get("event") == "busy":
            lease.leave()
            raise BusyError
        return lease, answer
    return None


def failure_of(share: Share) -> dict[str, Any] | None:
    """Return how a start of the same run failed; None if none did."""
    if not share.failure:
        return None
    try:
        with open(share.failure, encoding="utf-8") as file:
            message: dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        return None
    return message


def open_door(share: Share, *, own_log: bool) -> Door:
    """Make the door of a new server. Called with the key's lock.

    Parameters
    ----------
    share
        How the server is shared.
    own_log
        Whether its log gets a directory of its own, which its guardian removes in the end.
    """
    path = os.path.join(share.directory, f"{share.key}.{secrets.token_hex(4)}.door")
    made = doors.listener(path)
    return Door(made, path, tempfile.mkdtemp(prefix="pytest-mlc-server-") if own_log else "")


def _same_file(descriptor: int, path: str) -> bool:
    try:
        there, ours = os.stat(path), os.fstat(descriptor)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
