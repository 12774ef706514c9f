"""The command line that the run would use."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

from pytest_mlc_server import engines, masking
from pytest_mlc_server.doctor.case import Case
from pytest_mlc_server.doctor.findings import Section
from pytest_mlc_server.errors import MLCServerError
from pytest_mlc_server.process import MARK


def section(case: Case, device: str) -> Section:
    """Tell the command line of a server, to be pasted into a shell.

    Parameters
    ----------
    case
        The server.
    device
        The device that it would get; empty leaves it to the server.
    """
    result = Section("command")
    try:
        named = device if case.config.device == "auto" and case.config.engine == "mlc" else ""
        plan = engines.plan(case.config, mark="doctor", device=named)
    except MLCServerError as error:
        result.add("command.unknown", f"it depends on what is wrong: {error.brief}")
        return result
    set_here = masking.masked_env(_changes(plan.env, os.environ))
    words = shlex.split(plan.command)
    result.facts.update(argv=words, environment=set_here, directory=plan.cwd)
    result.add("command.line", _notes(case), "", line(set_here, plan.cwd, plan.command))
    return result


def _changes(environment: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in sorted(environment.items())
        if name != MARK and ours.get(name) != value
    }


def line(environment: Mapping[str, str], directory: str, command: str) -> str:
    """Return what does the same in a shell."""
    before = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    here = [] if directory == os.getcwd() else [f"cd {shlex.quote(directory)} &&"]
    return " ".join([*here, *before, command])


def _notes(case: Case) -> str:
    config = case.config
    notes = ["the run would execute this"]
    if config.port == "auto":
        notes.append("port 0: the server chooses one")
    if config.api_key is not None:
        notes.append("the key comes over a descriptor instead of the command line")
    if config.launch != "plain" and case.is_real:
        notes.append(f"launch {config.launch} does the same, faster")
    return "; ".join(notes)
