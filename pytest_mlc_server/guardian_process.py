"""The guardian's process, as its starter sees it: begun, waited for, or left to itself."""

from __future__ import annotations

import importlib.util
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from pytest_mlc_server import logs, process

#: Guardians that were not waited for; looked at again, so that they do not stay as zombies.
_leaving: list[subprocess.Popen[bytes]] = []


class _Guardian(subprocess.Popen[bytes]):
    """A process that may outlive its holder: that is what it is for, and no reason to warn."""

    def __del__(self) -> None:
        if self.poll() is None:
            self.returncode = 0
        super().__del__()


def start(
    lease: socket.socket,
    log: str,
    doors: Sequence[socket.socket] = (),
    held: Sequence[int] = (),
    forks: Sequence[socket.socket] = (),
) -> subprocess.Popen[bytes]:
    """Start a guardian.

    Parameters
    ----------
    lease
        The end of the first lease that is its own.
    log
        The server's log: what the guardian says of itself is written beside it.
    doors, held, forks
        The sockets and locks that it has beside, as `Lease` describes them.
    """
    psutil = importlib.util.find_spec("psutil")
    psutil_home = os.path.dirname(os.path.dirname((psutil and psutil.origin) or ""))
    entry = os.path.join(os.path.dirname(__file__), "guardian", "__main__.py")
    descriptors = [str(end.fileno()) for end in (lease, *doors)]
    words = os.open(
        logs.words_path(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    try:
        return _Guardian(
            [
                *(sys.executable, "-I", "-S", entry, descriptors[0], psutil_home),
                *descriptors[1:],
                *(f"held={descriptor}" for descriptor in held),
                *(f"forks={end.fileno()}" for end in forks),
            ],
            stdin=subprocess.DEVNULL,
            # Never pytest's own: whoever waits for the end of pytest's output would wait for the
            # guardian's end too.
            stdout=words,
            stderr=words,
            cwd="/",
            pass_fds=[*map(int, descriptors), *held, *(end.fileno() for end in forks)],
            start_new_session=True,
        )
    finally:
        os.close(words)


def leave(guardian: subprocess.Popen[bytes] | None) -> None:
    """Let a guardian of this process, if it is one, go on by itself, and end when it will."""
    _leaving[:] = [one for one in _leaving if one.poll() is None]
    if guardian is not None and guardian.poll() is None:
        _leaving.append(guardian)


def await_end(pid: int, start: str, timeout: float) -> bool:
    """Wait until a process, which need not be a child, has ended; tell whether it has.

    Parameters
    ----------
    pid, start
        Its number, and what tells it from a later process with that number.
    timeout
        In seconds.
    """
    deadline = time.monotonic() + timeout
    while pid and process.start_time(pid) == start:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return False
        try:
            descriptor = os.pidfd_open(pid)
        except (AttributeError, OSError):
            try:
                os.kill(pid, 0)  # where there is no pidfd, there is no start time either
            except ProcessLookupError:
                return True
            time.sleep(0.01)
            continue
        return _ended_within(descriptor, remaining)
    return True


def ended(guardian: subprocess.Popen[bytes], timeout: float) -> bool:
    """Wait for the end of a guardian of this process; tell whether it has ended.

    `Popen.wait` with a time limit sleeps up to 50 ms too long.
    """
    try:
        descriptor = os.pidfd_open(guardian.pid)
    except (AttributeError, OSError):  # not on this platform, or it has ended and was looked at
        pass
    else:
        if not _ended_within(descriptor, timeout):
            return False
    try:
        guardian.wait(timeout)
    except subprocess.TimeoutExpired:
        return False
    return True


def _ended_within(descriptor: int, timeout: float) -> bool:
    """Wait for the end of a process, by its pidfd, which is closed."""
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(descriptor)
