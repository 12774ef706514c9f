"""Two forks: the server, and between it and the warm parent the server's own reaper.

The reaper is the server's parent. Orphans of the server's tree come to it, daemons with an empty
environment included, as they come to a keeper that executes its server itself. It reports the
server's end on the connection over which the server was asked for, kills what is left when that
connection closes, and ends when it has no child any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
import warnings

from . import kernel, renewal, safety

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

#: Descriptor at which a server finds its secret.
SECRET_FD = 3

#: Pause between two rounds of SIGKILL, in milliseconds: a tree that forks is rescanned until empty.
KILL_EVERY = 5

#: Descriptors that are used while others are moved.
_OUT_OF_THE_WAY = 64


class Request:
    """A server that a keeper asks for.

    Parameters
    ----------
    descriptors
        What came with it: of a file with the request in JSON, of the log, of the pipe with the
        secret if there is one, then those that last for as long as anything of the server is left.

    Raises
    ------
    ValueError, KeyError, TypeError, OSError
        If it is none.
    """

    def __init__(self, descriptors: Sequence[int]) -> None:
        with open(descriptors[0], "rb", closefd=False) as file:
            file.seek(0)
            fields = json.loads(file.read())
        self.argv = [str(word) for word in fields["argv"]]
        self.env = {str(name): str(value) for name, value in fields["env"].items()}
        self.cwd = str(fields["cwd"])
        self.umask = int(fields["umask"])
        self.mark = str(fields["mark"])
        """Name of the environment variable that marks the server's processes."""
        self.log = descriptors[1]
        self.secret = descriptors[2] if fields["secret"] else None
        self.held = list(descriptors[3 if fields["secret"] else 2 :])


def fork(
    request: Request, connection: socket.socket, inherited: Iterable[int]
) -> tuple[int, int] | None:
    """Fork the reaper, and from it the server.

    Parameters
    ----------
    request
        The server.
    connection
        To its keeper.
    inherited
        Descriptors that imports have left open: a process that imports by itself has them, too.

    Returns
    -------
    tuple or None
        In the warm parent, the reaper's process id and a descriptor that ends with the reaper. In
        the server, None.
    """
    ends, own_end = os.pipe()
    parent = os.getpid()
    pid = _fork()
    if pid:
        os.close(own_end)
        return pid, ends
    try:
        kernel.die_with_parent(signal.SIGKILL, parent)
        kernel.become_subreaper()
        own = {0, 1, 2, connection.fileno(), own_end, *request.held, *_of_server(request)}
        close_but({*own, *inherited})
        server, report = _fork_server(request, inherited)
        if not server:
            return None
        _Reaper(connection, server, report).run()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    # Whatever happened: nothing of the warm parent's code must run on in the reaper.
    os._exit(1)


def _fork_server(request: Request, inherited: Iterable[int]) -> tuple[int, int]:
    """Fork the server; return 0 in it, in the reaper its process id and where it reports."""
    report, reporter = os.pipe()
    reaper = os.getpid()
    server = _fork()
    if server == 0:
        _become_server(request, reaper, reporter, inherited)
        return 0, -1
    os.close(reporter)
    for descriptor in _of_server(request):
        os.close(descriptor)
    return server, report


def _of_server(request: Request) -> list[int]:
    return [request.log, *([] if request.secret is None else [request.secret])]


def _fork() -> int:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    kernel.flush_c_streams()
    with warnings.catch_warnings():
        # Python 3.12 warns of native threads; those that are here are known to survive it.
        warnings.simplefilter("ignore")
        return os.fork()


def close_but(kept: set[int]) -> None:
    """Close all descriptors but these."""
    for number in safety.descriptors() - kept:
        with contextlib.suppress(OSError):
            os.close(number)


# --- the server -----------------------------------------------------------------------------------


def _become_server(request: Request, reaper: int, reporter: int, inherited: Iterable[int]) -> None:
    """Become what a process is that has just been executed, and has imported what this one has."""
    step = "start a session"
    try:
        os.setsid()
        kernel.die_with_parent(signal.SIGKILL, reaper)
        step = "arrange the descriptors"
        reporter = _arrange_descriptors(request, reporter, inherited)
        step = f"enter the directory {request.cwd}"
        os.chdir(request.cwd)
        step = "take over the environment"
        renewal.renew(request)
    except BaseException as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        # What a process that is executed could not do either is the end of the matter.
        event = "failed" if step.startswith("enter") else "refused"
        os.write(reporter, f"{event} cannot {step}: {reason}".encode())
        os._exit(127)
    os.close(reporter)


def _arrange_descriptors(request: Request, reporter: int, inherited: Iterable[int]) -> int:
    null = os.open(os.devnull, os.O_RDONLY)
    wanted = [(null, 0), (request.log, 1), (request.log, 2)]
    if request.secret is not None:
        wanted.append((request.secret, SECRET_FD))
    # None of them may be where another one is to be.
    wanted = [(_away(descriptor), number) for descriptor, number in wanted]
    reporter = _away(reporter)
    for descriptor, number in wanted:
        os.dup2(descriptor, number)
    close_but({*(number for _, number in wanted), *inherited, reporter})
    return reporter


def _away(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)


# --- the reaper -----------------------------------------------------------------------------------


class _Reaper:
    def __init__(self, connection: socket.socket, server: int, report: int) -> None:
        self._connection = connection
        self._server = server
        self._report = report
        self._wake, waker = os.pipe()
        for end in (self._wake, waker):
            os.set_blocking(end, False)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # its byte in the pipe is what counts

    def run(self) -> NoReturn:
        problem = b""
        # The pipe closes when the server is on its own: until then there may be a report.
        while chunk := os.read(self._report, 4096):
            problem += chunk
        if problem:
            os.waitpid(self._server, 0)
            event, _, reason = problem.decode().partition(" ")
            self._tell(event=event, problem=reason, reason=reason, stale=False)
            os._exit(0)
        self._tell(event="forked", pid=self._server, reaper=os.getpid())
        self._watch()

    def _watch(self) -> NoReturn:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._connection, select.POLLIN)
        hung_up = False
        while True:
            self._reap()
            if hung_up:
                self._kill()
            for descriptor, _ in poll.poll(KILL_EVERY if hung_up else None):
                if descriptor == self._wake:
                    self._drain()
                elif not self._receive():
                    hung_up = True
                    poll.unregister(self._connection)

    def _reap(self) -> None:
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._server:
                    self._tell(event="exited", returncode=os.waitstatus_to_exitcode(status))
        except ChildProcessError:
            os._exit(0)  # every orphan of the tree is a child here: no child, no tree

    def _kill(self) -> None:
        for pid in kernel.below(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake, 4096):
                pass

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(4096)
        except OSError:
            return b""

    def _tell(self, **message: Any) -> None:
        with contextlib.suppress(OSError):  # whoever is not there any more has closed it
            self._connection.sendall(json.dumps(message).encode() + b"\n")
