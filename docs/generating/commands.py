"""The page of the command line, from the parsers of the commands."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence

from docs.generating.docstrings import WRITTEN
from pytest_mlc_server import __main__
from pytest_mlc_server.sim.cli import _add_own_flags, build_parser

HEAD = """\
# The command line

{written}
`python -m pytest_mlc_server COMMAND`, or `pytest-mlc-server COMMAND`. Each command has `--help`.
"""

#: Those whose parser is asked.
COMMANDS = ("with", "prepare", "doctor", "ps", "stop", "logs")


class _ParsedError(Exception):
    """Carries a parser out of the command that would have used it."""


def page() -> str:
    """Return the page of the command line."""
    text = HEAD.format(written=WRITTEN.format("the commands' own --help"))
    for command in COMMANDS:
        parser = _parser(command.split())
        actions = [a for a in parser._actions if a.help != argparse.SUPPRESS and a.dest != "help"]
        own = [a for a in actions if not a.dest.startswith("mlc_")]
        text += f"\n## `{command}`\n\n`{_usage(parser, own, len(own) < len(actions))}`\n\n"
        described = " ".join((parser.description or "").split())
        text += textwrap.fill(described, 100, break_long_words=False) + "\n"
        if own:
            text += "\n| | |\n|---|---|\n" + "".join(_argument(parser, action) for action in own)
        if parser.epilog:
            text += f"\n{parser.epilog}\n"
        if len(own) < len(actions):
            text += "\nIts flags are also the [settings](settings.md) of a server.\n"
    return text + _simulator()


SIMULATOR = """
## `sim serve`

`python -m pytest_mlc_server sim serve MODEL [flags]`

Run [the simulator](simulator.md). It takes the flags of `mlc_llm serve` of the version that it was
recorded from, with their meanings ({flags}), and these:

| | |
|---|---|
"""


def _simulator() -> str:
    parser = build_parser()
    flags = [a for a in parser._actions if a.option_strings and a.dest != "help"]
    own = argparse.ArgumentParser(add_help=False)
    _add_own_flags(own)
    names = {action.dest for action in own._actions}
    theirs = ", ".join(f"`{a.option_strings[-1]}`" for a in flags if a.dest not in names)
    text = "".join(_argument(own, action) for action in own._actions)
    return SIMULATOR.format(flags=theirs) + text


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a command: the last one that is asked."""
    original = argparse.ArgumentParser.parse_known_args
    asked: list[argparse.ArgumentParser] = []

    def noted(self: argparse.ArgumentParser, *args: object, **kwargs: object) -> object:
        asked.append(self)
        return original(self, *args, **kwargs)

    def leave(*_: object) -> None:
        raise _ParsedError

    patched = {"parse_known_args": noted, "print_help": leave}
    before = {name: getattr(argparse.ArgumentParser, name) for name in patched}
    for name, function in patched.items():
        setattr(argparse.ArgumentParser, name, function)
    try:
        __main__.main([*words, "--help"])
    except (_ParsedError, SystemExit):
        return asked[-1]
    finally:
        for name, function in before.items():
            setattr(argparse.ArgumentParser, name, function)
    raise SystemExit(f"docs/generate.py: {' '.join(words)} has no --help")


def _usage(parser: argparse.ArgumentParser, own: Sequence[argparse.Action], settings: bool) -> str:
    if parser.usage:
        return parser.usage % {"prog": parser.prog}
    words = ["[settings]"] * settings
    words += [f"[{a.option_strings[-1]}{_metavar(a)}]" for a in own if a.option_strings]
    words += [str(a.metavar or a.dest).upper() for a in own if not a.option_strings]
    return " ".join([parser.prog, *words])


def _metavar(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.metavar is None and action.choices:
        return " {" + ",".join(map(str, action.choices)) + "}"
    return f" {action.metavar or action.dest.upper()}"


def _argument(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    names = action.option_strings or [str(action.metavar or action.dest)]
    shown = "<br>".join(f"`{name}{_metavar(action) if name[0] == '-' else ''}`" for name in names)
    values = {**vars(action), "prog": parser.prog}
    text = " ".join(((action.help or "") % values).split()).replace("|", "\\|")
    return f"| {shown} | {text} |\n"
