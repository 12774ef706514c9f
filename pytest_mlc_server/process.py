"""Process trees: who belongs to one, where it listens, how it ended, how all of it is ended.

psutil is imported where it is used: the guardian loads this module before its server is on the
way, and pytest's process may never need it.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    import psutil

#: Environment variable that marks every process of a server's tree with the server's own id. It
#: finds those that left the tree where the platform has no subreaper.
MARK = "PYTEST_MLC_SERVER_MARK"


def describe_exit(returncode: int | None) -> str:
    """Return how a process ended, for people: ``exit code 3``, ``killed by SIGSEGV (signal 11)``.

    Parameters
    ----------
    returncode
        As in `subprocess.Popen.returncode`: negative for a signal; None when it is not known.
    """
    if returncode is None:
        return "did not exit"
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:  # real-time signals have no name
        return f"killed by signal {-returncode}"
    return f"killed by {name} (signal {-returncode})"


def start_time(pid: int) -> str:
    """Return what tells a process from a later one with the same number; empty if unknown."""
    if not sys.platform.startswith("linux"):
        return ""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses may hold spaces and parentheses: count from its end.
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""


def listening(pids: Iterable[int]) -> list[tuple[str, int]]:
    """Return address and port of every TCP socket on which these processes listen."""
    from pytest_mlc_server import sockets

    found: dict[tuple[str, int], None] = {}
    listeners = sockets.listeners()
    if listeners is not None:
        for pid in pids:
            mine = sockets.inodes(pid)
            found.update((listeners[inode], None) for inode in listeners if inode in mine)
        return list(found)
    import psutil

    for pid in pids:
        try:
            connections = psutil.Process(pid).net_connections(kind="tcp")
        except (psutil.Error, OSError):  # it ended meanwhile, or is not ours to look into
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN and connection.laddr:
                found[connection.laddr.ip, connection.laddr.port] = None
    return list(found)


def listener(port: int) -> str | None:
    """Return who listens on a TCP port, for people, where the system tells; else None."""
    import psutil

    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return None
    for connection in connections:
        if connection.status != psutil.CONN_LISTEN or not connection.laddr:
            continue
        if connection.laddr.port == port and connection.pid is not None:
            try:
                command = " ".join(psutil.Process(connection.pid).cmdline())
            except psutil.Error:
                command = ""
            return f"process {connection.pid}" + (f": {command[:200]}" if command else "")
    return None


def descendants(pid: int) -> list[psutil.Process]:
    """Return all living processes below one, zombies left out."""
    import psutil

    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return [child for child in children if is_running(child)]


def is_running(process: psutil.Process) -> bool:
    """Tell whether a process still runs: a zombie has ended, only its parent has not looked."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def has_ended(pid: int) -> bool:
    """Tell whether a process has ended, also while its parent has not looked yet."""
    import psutil

    try:
        return not is_running(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


def marked(mark: str) -> list[psutil.Process]:
    """Return all living processes whose environment carries a server's mark."""
    import psutil

    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.environ().get(MARK) == mark and is_running(process):
                found.append(process)
        except (psutil.Error, OSError):  # other users' processes do not show their environment
            continue
    return found


def kill(processes: Iterable[psutil.Process]) -> None:
    """Send SIGKILL; psutil makes sure that a number was not given to another process since."""
    import psutil

    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue


def activity(pid: int) -> float:
    """Return a figure that changes while anything below a process computes, reads or writes.

    A compiler or a download may be silent for minutes: this tells it from a process that hangs.
    It counts half seconds of CPU time and blocks of 64 KiB written, so that a process that only
    waits and polls does not pass for one that works.
    """
    import psutil

    total = 0.0
    for child in descendants(pid):
        try:
            times = child.cpu_times()
            total += int((times.user + times.system) * 2)
            counters = getattr(child, "io_counters", None)  # not on every platform
            if counters is not None:
                total += counters().write_bytes >> 16
        except (psutil.Error, OSError):
            continue
    return total
