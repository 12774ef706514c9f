"""``with``: a server around any command, without pytest."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

from pytest_mlc_server import options, preflight, waiting
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.errors import ConfigError, MLCServerError
from pytest_mlc_server.server import PopenServer

#: Exit codes: wrong settings (as argparse), no server (``EX_UNAVAILABLE``), no such command (as
#: in shells).
WRONG_USE, NO_SERVER, NO_COMMAND = 2, 69, 127


def main(argv: Sequence[str]) -> int:
    """Start a server, run a command that finds it in its environment, stop the server.

    Parameters
    ----------
    argv
        Settings, ``--``, and the command.

    Returns
    -------
    int
        The command's exit code, 128 + N if signal N ended it.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pytest_mlc_server with",
        description="Start a server, run a command with the server in its environment, stop it. "
        "Settings come from flags and from the environment (PYTEST_MLC_MODEL, ...).",
        usage="%(prog)s [settings] -- command [argument ...]",
        allow_abbrev=False,
    )
    options.add_arguments(parser)
    split = argv.index("--") if "--" in argv else len(argv)
    parsed = parser.parse_args(argv[:split])
    command = list(argv[split + 1 :])
    if not command:
        parser.error("give the command to run after --")
    try:
        server = PopenServer.from_config(_config(parsed))
        stop_on_signals()
        with waiting.Waiting(server, waiting.on_stream(sys.stderr)):
            server.start()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USE
    except MLCServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return NO_SERVER
    except KeyboardInterrupt:  # during the start, which can be long: no traceback for that
        return 128 + signal.SIGINT
    with _terminating(server):
        print(f"mlc server: {server!r}", file=sys.stderr, flush=True)
        return _run(command, server.env())


class _terminating:  # noqa: N801 - reads as a phrase
    """Stop a server that was started elsewhere, at the end of a block."""

    def __init__(self, server: PopenServer) -> None:
        self._server = server

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, *_: object) -> None:
        self._server.keep_log = self._server.keep_log or kind is not None
        self._server.terminate()
        if self._server.log_path:
            print(f"mlc server: log {self._server.log_path}", file=sys.stderr)


def _config(parsed: argparse.Namespace) -> ServerConfig:
    return checked(given(parsed))


def given(parsed: argparse.Namespace) -> dict[str, options.Given]:
    """Return what was set by flags and in the environment.

    Parameters
    ----------
    parsed
        What a parser with `options.add_arguments` has read.
    """

    def from_flags(setting: options.Setting) -> tuple[object, str] | None:
        value = getattr(parsed, setting.key, None)
        return None if value is None else (value, f"{setting.flag} on the command line")

    return options.collect(from_flags, os.environ, lambda _: None, os.getcwd())


def checked(found: dict[str, options.Given]) -> ServerConfig:
    """Return the configuration that was set.

    Raises
    ------
    ConfigError
        If it cannot be read.
    """
    config = ServerConfig.from_given(found, cwd=os.getcwd())
    problems = preflight.override_problems(config)
    if problems:
        raise ConfigError(problems)
    return config


def stop_on_signals() -> None:
    """Make SIGTERM and SIGHUP end this process as Ctrl-C does: with the server stopped."""

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    with _unmoved_by_ctrl_c():
        try:
            process = subprocess.Popen(command, env={**os.environ, **environment})
        except OSError as error:
            print(f"error: cannot run {command[0]}: {error.strerror}", file=sys.stderr)
            return NO_COMMAND
        try:
            code = process.wait()
        except SystemExit:
            process.terminate()
            process.wait()
            raise
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _unmoved_by_ctrl_c() -> Iterator[None]:
    """Do nothing at Ctrl-C: the terminal sends it to the command as well, whose end is what counts.

    An exception instead might come after the kernel has told the command's exit code and before
    Python has noted it. The code would be lost, and `subprocess` would take it for 0.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
