"""Fork and exec of the server. Imports next to nothing: the server waits for these imports."""

from __future__ import annotations

# `signal` itself builds enumerations: 3 ms between asking for a server and its first instruction.
import _signal  # type: ignore[import-not-found]
import os

from pytest_mlc_server.guardian import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


#: Descriptor at which the server finds its secret: no command line shows it.
SECRET_FD = 3


class SpawnError(Exception):
    """The server's program could not be executed at all."""


class Order:
    """What to execute.

    Parameters
    ----------
    fields
        The number of arguments, the arguments, the working directory, the log, the secret, the
        lock file, the files of builds, the warm parent, and the environment as ``NAME=VALUE``.

    Raises
    ------
    ValueError
        If they are not that.

    Attributes
    ----------
    argv, cwd, log, env
        Command line, working directory, file for the output, whole environment.
    secret
        What the server reads from `SECRET_FD`; empty for nothing.
    lock
        File whose lock reserves the port; empty for none.
    builds
        The stamp and the locks of what may be compiled or downloaded (`building.Build`), a line
        each; empty for none.
    parent
        The socket of a warm parent that is to fork the server; empty for none.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        count = int(fields[0])
        if count < 1:
            raise ValueError("there is nothing to execute")
        self.argv = list(fields[1 : count + 1])
        self.cwd, self.log, self.secret, self.lock = fields[count + 1 : count + 5]
        self.builds, self.parent = fields[count + 5 : count + 7]
        self.env = dict(pair.split("=", 1) for pair in fields[count + 7 :] if pair)

    def set_port(self, port: int) -> None:
        """Give another port on the command line."""
        # The last one: a flag of this name before it would belong to the launcher.
        for index in range(len(self.argv) - 2, -1, -1):
            if self.argv[index] == "--port":
                self.argv[index + 1] = str(port)
                return


def reserve(lock: str) -> int:
    """Reserve a port among the servers of this package, until this process ends in any way.

    The server binds its port only at the end of its load: without this, a second session would
    find out only then, after its own load.

    Parameters
    ----------
    lock
        The lock file of the port.

    Returns
    -------
    int
        A descriptor, to be kept open.

    Raises
    ------
    SpawnError
        If another guardian has it.
    """
    import fcntl

    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(lock, flags, 0o600)
    except OSError as error:
        raise SpawnError(f"cannot open the lock {lock} of its port: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 100).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise SpawnError(
            "its port is reserved: another session of this user is starting or running a server "
            f"there ({holder or 'its guardian did not leave its number'})"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"guardian process {os.getpid()}".encode())
    return descriptor


def open_log(path: str) -> int:
    """Open a server's log for what it writes.

    Raises
    ------
    SpawnError
        If that cannot be.
    """
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SpawnError(f"cannot write the log {path}: {error.strerror}") from None


def secret_pipe(secret: str) -> int:
    """Return the end of a pipe from which a server reads its secret."""
    reader, writer = os.pipe()
    os.write(writer, secret.encode())
    os.close(writer)
    return reader


def spawn(order: Order, listener: int | None = None) -> int:
    """Start the server in a session of its own, with its output in the log.

    Parameters
    ----------
    order
        What to execute.
    listener
        Descriptor that the process finds in the place of a secret: the socket of a warm parent. It
        is closed here: that it closes with the process is how its end is seen.

    Returns
    -------
    int
        Its process id.

    Raises
    ------
    SpawnError
        If the log cannot be opened, the directory entered or the program executed.
    """
    output = open_log(order.log)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    secret = secret_pipe(order.secret) if listener is None else listener
    report, reporter = os.pipe()
    keeper = os.getpid()
    pid = os.fork()
    if pid == 0:
        given = bool(order.secret) or listener is not None
        _become_server(order, (null, output, secret if given else None), reporter, keeper)
    for descriptor in (output, null, secret, reporter):
        os.close(descriptor)
    problem = b""
    # The pipe closes when the program is executed: until then there may be a report.
    while chunk := os.read(report, 4096):
        problem += chunk
    os.close(report)
    if problem:
        os.waitpid(pid, 0)
        raise SpawnError(problem.decode())
    return pid


def _become_server(
    order: Order, descriptors: tuple[int, int, int | None], reporter: int, keeper: int
) -> None:
    step = "start a session"
    null, output, secret = descriptors
    try:
        os.setsid()
        system.die_with_parent(9)
        if os.getppid() != keeper:  # the keeper died before the kernel knew whom to watch
            os._exit(1)
        _default_signals()
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if secret is not None:
            if reporter == SECRET_FD:
                reporter = os.dup(reporter)
            if secret != SECRET_FD:
                os.dup2(secret, SECRET_FD)
            os.set_inheritable(SECRET_FD, True)
        step = f"enter the directory {order.cwd}"
        os.chdir(order.cwd)
        step = f"execute {order.argv[0]}"
        os.execvpe(order.argv[0], order.argv, order.env)  # noqa: S606 - no shell on purpose
    except OSError as error:
        os.write(reporter, f"cannot {step}: {error.strerror}".encode())
    finally:
        os._exit(127)


def _default_signals() -> None:
    """Undo what Python and whoever started pytest (nohup, a CI runner) ignore or block."""
    for number in _signal.valid_signals():
        try:
            _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):
            continue  # SIGKILL, SIGSTOP and those of the C library
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
