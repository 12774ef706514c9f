"""Fork and exec of the server. Imports next to nothing: the server waits for these imports."""

from __future__ import annotations

# `signal` itself builds enumerations: 3 ms between asking for a server and its first instruction.
import _signal  # type: ignore[import-not-found]
import os

from pytest_mlc_server.guardian import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class SpawnError(Exception):
    """The server's program could not be executed at all."""


def spawn(argv: Sequence[str], env: Mapping[str, str], cwd: str, log: str) -> int:
    """Start the server in a session of its own, with its output in the log.

    Parameters
    ----------
    argv, env, cwd
        Command line, whole environment and working directory.
    log
        File that its standard output and error are appended to.

    Returns
    -------
    int
        Its process id.

    Raises
    ------
    SpawnError
        If the log cannot be opened, the directory entered or the program executed.
    """
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SpawnError(f"cannot write the log {log}: {error.strerror}") from None
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    report, reporter = os.pipe()
    keeper = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_server(argv, env, cwd, (null, output), reporter, keeper)
    for descriptor in (output, null, reporter):
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
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    streams: tuple[int, int],
    reporter: int,
    keeper: int,
) -> None:
    step = "start a session"
    try:
        os.setsid()
        system.die_with_parent(9)
        if os.getppid() != keeper:  # the keeper died before the kernel knew whom to watch
            os._exit(1)
        _default_signals()
        os.dup2(streams[0], 0)
        os.dup2(streams[1], 1)
        os.dup2(streams[1], 2)
        step = f"enter the directory {cwd}"
        os.chdir(cwd)
        step = f"execute {argv[0]}"
        os.execvpe(argv[0], list(argv), env)  # noqa: S606 - no shell on purpose
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
