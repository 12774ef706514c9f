"""Command line: ``python -m pytest_mlc_server {with,ps,stop,logs,prepare,doctor,sim} …``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

USAGE = """\
usage: python -m pytest_mlc_server COMMAND ...

  with [settings] -- COMMAND ...   start a server, run a command with OPENAI_BASE_URL,
                                   OPENAI_API_KEY and OPENAI_MODEL in its environment, stop the
                                   server, and return the command's exit code
  ps | stop ID ... | logs ID       list, stop, read the log of servers that runs share or that wait
                                   for their next user (--mlc-reuse)
  prepare [settings] [--json]      download and compile models ahead of time, start each once, and
                                   print where they are kept
  doctor [settings] [--json]       say what a run with these settings would find, and for each
                                   problem what to do, before anything is started
  sim serve MODEL [flags]          run the simulator, with the flags of `mlc_llm serve`

Each command has --help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv
        Arguments without the program's name. Default: those of this process.

    Returns
    -------
    int
        The exit code.
    """
    command, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command == "sim":
        from pytest_mlc_server.sim.cli import main as sim

        return sim(rest)
    if command == "with":
        from pytest_mlc_server.runner import main as run

        return run(rest)
    if command in ("ps", "stop", "logs"):
        from pytest_mlc_server.manage import main as manage

        return manage(command, rest)
    if command == "prepare":
        from pytest_mlc_server.prepare import main as prepare

        return prepare(rest)
    if command == "doctor":
        from pytest_mlc_server.doctor.cli import main as doctor

        return doctor(rest)
    print(USAGE, file=sys.stdout if command in ("-h", "--help") else sys.stderr)
    return 0 if command in ("-h", "--help") else 2


if __name__ == "__main__":
    sys.exit(main())
