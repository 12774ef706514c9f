"""What was set, as pytest reads it, and what is wrong with it: all of it, not the first mistake."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_mlc_server import options, runner
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.contradictions import NOT_CONFIGURED
from pytest_mlc_server.doctor.programs import Programs
from pytest_mlc_server.errors import ConfigError
from pytest_mlc_server.options import Given
from pytest_mlc_server.reading import read, read_session, written
from pytest_mlc_server.session import Session
from pytest_mlc_server.values import CONVERTERS

#: What runs in a process of its own, because plugins of the project are imported there.
ASKING = "pytest_mlc_server.doctor.asking_pytest"


#: How long pytest may take at least, in seconds: without it, little can be told.
PATIENCE = 30.0


@dataclass
class Settings:
    """What was set, and what pytest says of itself.

    Parameters
    ----------
    given
        Settings by name, as the plugin gets them.
    cwd
        Where the run would be started.
    error
        Why pytest could not be asked; then `given` is without any ini file.
    hangs
        Whether that was for a time limit.
    unreadable
        What pytest cannot read of its ini file.
    unknown
        Arguments that neither pytest nor any of its plugins knows.
    foreign
        Those of all arguments, in ``addopts`` too.
    ini, root
        Its ini file and root directory; empty where there is none, or it is not known.
    ignored_ini
        What pytest warns of an ini file that it has not looked for.
    tests
        Where tests would be looked for.
    workers
        How many processes would want a server on this host.
    loaded
        Whether pytest loads this package's plugin.
    xdist
        Whether pytest-xdist is loaded.
    pytest
        Its version.
    """

    given: dict[str, Given]
    cwd: str
    error: str = ""
    hangs: bool = False
    unreadable: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    ini: str = ""
    root: str = ""
    ignored_ini: str = ""
    tests: list[str] = field(default_factory=list)
    workers: int = 1
    loaded: bool = True
    xdist: bool = False
    pytest: str = ""


def ask(arguments: Sequence[str], parsed: argparse.Namespace, programs: Programs) -> Settings:
    """Return what pytest would read with these arguments.

    Parameters
    ----------
    arguments
        As for pytest.
    parsed
        The flags among them, for where pytest cannot be asked.
    programs
        Runs programs.
    """
    here = os.getcwd()
    try:
        command = [sys.executable, "-m", ASKING, *arguments]
        done = programs.run(command, env=os.environ, timeout=max(programs.limit, PATIENCE))
        answer = json.loads((done.stdout.splitlines() or [b"{}"])[-1])
    except subprocess.TimeoutExpired as error:
        text = f"pytest did not read its settings within {error.timeout:g} s"
        return Settings(runner.given(parsed), here, error=text, hangs=True)
    except (OSError, ValueError) as error:
        return Settings(runner.given(parsed), here, error=f"pytest cannot be asked: {error}")
    if "given" not in answer and "error" not in answer and "loaded" not in answer:
        last = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        answer = {"error": last[-1]}
    found = answer.pop("given", None)
    given = runner.given(parsed) if found is None else dict(map(_given, found))
    known = {name: value for name, value in answer.items() if name in Settings.__annotations__}
    return Settings(given, here, **known)


def _given(fields: Any) -> tuple[str, Given]:
    name, raw, source, base = fields
    return name, Given(options.BY_NAME[name], raw, source, base)


@dataclass
class Judged:
    """What the settings mean together.

    Parameters
    ----------
    session
        What the plugin would make of them; None if nothing can be made of them.
    problems
        What is wrong.
    """

    session: Session | None
    problems: list[str]

    @property
    def configs(self) -> tuple[ServerConfig, ...]:
        """One configuration for each model."""
        return () if self.session is None else self.session.configs


def judge(settings: Settings) -> Judged:
    """Find all that is wrong with the settings, and go on with those that are right."""
    good: dict[str, Given] = {}
    problems = list(settings.unreadable)
    for name, one in settings.given.items():
        found = _value_problems(one, settings.cwd)
        problems += found
        if not found:
            good[name] = one
    while True:
        try:
            session = Session(good, settings.cwd, None)
            break
        except ConfigError as error:
            problems += error.problems
            named = _named(good, error.problems)
            if not named:
                return Judged(None, _unique(problems))
            for name in named:
                del good[name]
    problems += _contradictions(session)
    return Judged(session, _unique(problems))


def _value_problems(one: Given, cwd: str) -> list[str]:
    name = one.setting.field
    try:
        if name is None:
            read_session(one)
            return []
        items = one.raw if one.setting.name == "model" and isinstance(one.raw, list) else [None]
        for item in items:  # a run takes several models, and a configuration one
            alone = one if item is None else Given(one.setting, [item], one.source, one.base)
            CONVERTERS[name](read(alone, cwd))
    except ConfigError as error:
        return list(error.problems)
    except (TypeError, ValueError) as error:
        return [f"{written(one)}: {error}"]
    return []


def _named(given: dict[str, Given], problems: Sequence[str]) -> list[str]:
    """Return the settings that problems are about: those that they begin with."""
    found = []
    for problem in problems:
        head = problem.partition(" = ")[0]
        name = head.replace("_", "-")
        field_names = {one.setting.field: one.setting.name for one in given.values()}
        for candidate in (name, field_names.get(head)):
            if candidate in given and candidate not in found:
                found.append(candidate)
    return found


def _contradictions(session: Session) -> list[str]:
    """Return what the run finds later: contradictions between fields, and reports."""
    problems = [problem for config in session.configs for problem in config.problems()]
    for config in session.configs:
        if session.devices.applies(config):
            problems += session.devices.problems(config)
    if session.reports:
        from pytest_mlc_server.reporting.report import writing

        try:
            writing.check(session.reports, written(session.given["report"]))
        except ConfigError as error:
            problems += error.problems
    return problems


def is_missing(problem: str) -> bool:
    """Tell whether a problem is that nothing says what to serve."""
    return problem == NOT_CONFIGURED


def _unique(problems: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(problems))
