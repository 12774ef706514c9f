"""Finding a server that others may hold as well, or being the one who starts it.

Each shared server has a socket, its door, in a directory that only this user can use. Whoever wants
the server takes the key's lock, knocks at the doors of that key, and opens one if nobody answers:
the door is open before the guardian runs, so the next one finds it at once. The lock is held for
milliseconds, never while a server starts, and the kernel frees it with its holder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_mlc_server import leases, process, runtime
from pytest_mlc_server.errors import StartError
from pytest_mlc_server.leases import GuardianLostError, Lease

#: How long to wait for the lock of a key, in seconds. Its holder needs milliseconds, unless it
#: waits for the orderly end of a server.
LOCK_WITHIN = 600.0

#: How long to wait for a guardian that is going, beyond its own stop-timeout, in seconds.
GOING_GRACE = 15.0


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
    for path in _doors(share.directory, f"{share.key}."):
        try:
            connection = connect(path)
        except OSError as error:
            _forget(path, error)
            continue
        try:
            lease, answer = Lease.ask(
                connection, exclusive=share.exclusive, linger=share.linger, runs=share.runs
            )
        except GuardianLostError:
            connection.close()
            _await_keeper(path)
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
    made = listener(path)
    return Door(made, path, tempfile.mkdtemp(prefix="pytest-mlc-server-") if own_log else "")


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


# --- looking, from outside ------------------------------------------------------------------------


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
        _await(self.facts)

    def stop(self, timeout: float) -> bool:
        """Stop it, whoever holds it; tell whether it is gone."""
        with contextlib.suppress(OSError):
            connection = connect(self.path)
            with connection:
                _say(connection, op="stop", timeout=timeout)
                return _await_close(connection, timeout + GOING_GRACE)
        return True

    def stop_idle(self, timeout: float) -> bool:
        """Stop it if nobody uses it, and wait for its end; tell whether it is gone."""
        with contextlib.suppress(OSError):
            connection = connect(self.path)
            with connection:
                _say(connection, op="stop-idle")
                status = _hear(connection)
                if status is None or status.get("leases"):
                    return status is None
                return _await_close(connection, timeout + GOING_GRACE)
        return True

    def end_run(self, pid: int, timeout: float | None) -> bool:
        """Say that a controller needs it no more, and wait for its end unless it lingers."""
        with contextlib.suppress(OSError):
            connection = connect(self.path)
            with connection:
                _say(connection, op="end-run", pid=pid)
                if timeout is None or self.status.get("linger"):
                    return True
                return _await_close(connection, timeout + GOING_GRACE)
        return True


def found(directory: str, key: str = "") -> list[Found]:
    """Return the servers of a directory whose guardians answer, oldest first."""
    servers = []
    for path in _doors(directory, f"{key}." if key else ""):
        try:
            with connect(path) as connection:
                _say(connection, op="status")
                status = _hear(connection)
        except OSError as error:
            _forget(path, error)
            continue
        if status is not None:
            identifier = path.removesuffix(".door").rpartition(".")[2]
            servers.append(Found(identifier, path, _facts(path), status))
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
    directory = run_directory(run)
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


# --- details --------------------------------------------------------------------------------------


def _doors(directory: str, prefix: str) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    return [
        os.path.join(directory, name)
        for name in names
        if name.startswith(prefix) and name.endswith(".door")
    ]


def _facts(path: str) -> Mapping[str, Any]:
    try:
        with open(path.removesuffix(".door") + ".json", encoding="utf-8") as file:
            facts = json.load(file)
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _forget(path: str, error: OSError) -> None:
    """Remove a door behind which nobody is any more; wait for a guardian that is going."""
    if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
        return
    _await_keeper(path)
    for suffix in (".door", ".json", ".fork"):
        name = path.removesuffix(".door") + suffix
        with contextlib.suppress(OSError):
            os.unlink(name)


def _await_keeper(path: str) -> None:
    _await(_facts(path))


def _await(facts: Mapping[str, Any]) -> None:
    try:
        pid, start = int(facts.get("keeper", 0)), str(facts.get("keeper_start", ""))
        patience = float(facts.get("stop_timeout", 0.0)) + GOING_GRACE
    except (TypeError, ValueError):
        return  # half written, or by somebody else
    if pid > 0 and start and process.start_time(pid) == start:
        leases.await_end(pid, start, patience)


def _say(connection: socket.socket, **message: Any) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _hear(connection: socket.socket) -> dict[str, Any] | None:
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


def _await_close(connection: socket.socket, timeout: float) -> bool:
    connection.settimeout(timeout)
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def _same_file(descriptor: int, path: str) -> bool:
    try:
        there, ours = os.stat(path), os.fstat(descriptor)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


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
