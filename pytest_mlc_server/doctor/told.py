"""What was told to the run: the settings, where they come from, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pytest_mlc_server.contradictions import NOT_CONFIGURED
from pytest_mlc_server.doctor.case import Case, with_remedy
from pytest_mlc_server.doctor.findings import Section
from pytest_mlc_server.doctor.programs import Check, HangsError
from pytest_mlc_server.doctor.settings import Settings
from pytest_mlc_server.options import Given
from pytest_mlc_server.reading import written

#: How many directories are searched for files ``conftest.py``.
MOST = 2000

#: Directories in which there are none of the project.
_SKIPPED = {"node_modules", "venv", ".venv", "site-packages", "build", "dist", "__pycache__"}

_FIXTURE = b"def mlc_server_config"


def conftests(settings: Settings) -> list[str]:
    """Return the project's files ``conftest.py`` that define the fixture `mlc_server_config`."""
    root = settings.root or settings.cwd
    places = [os.path.join(settings.cwd, path) for path in settings.tests] or [settings.cwd]
    files = {os.path.join(place, "conftest.py") for place in (root, settings.cwd)}
    visited = 0
    for place in places:
        for directory, below, names in os.walk(place):
            below[:] = [n for n in below if not n.startswith(".") and n not in _SKIPPED]
            visited += 1
            if visited > MOST:
                break
            if "conftest.py" in names:
                files.add(os.path.join(directory, "conftest.py"))
    return sorted({os.path.realpath(file) for file in files if _defines(file)})


def _defines(file: str) -> bool:
    try:
        with open(file, "rb") as text:
            return _FIXTURE in text.read(1 << 20)
    except OSError:
        return False


def section(
    settings: Settings,
    cases: Sequence[Case],
    problems: Sequence[str],
    found: Check[list[str]],
) -> Section:
    """Tell what was set."""
    result = Section("settings")
    result.facts["settings"] = [_fact(one) for one in settings.given.values()]
    result.facts["ini"] = settings.ini or None
    _add_ini(result, settings)
    for one in settings.given.values():
        value, source = _value(one), one.source
        result.add("settings.set", f"{one.setting.name} = {value} ({source})")
    if not settings.given:
        result.add("settings.none", "nothing is set by flags, the environment or an ini file")
    overriding = _add_conftests(result, found)
    own = [problem for case in cases for problem in case.problems_of("settings")]
    for problem in dict.fromkeys([*problems, *own]):
        if problem == NOT_CONFIGURED:
            if not problems or not any(_of_engine(other) for other in problems):
                _add_not_configured(result, perhaps=overriding)
            continue
        config = cases[0].config if cases else None
        remedy = "correct it where it was set"
        result.add("settings.wrong", *with_remedy(problem, remedy, config))
    return result


def _of_engine(problem: str) -> bool:
    return problem.startswith(("engine = ", "model = ", "url = "))


def _add_not_configured(result: Section, *, perhaps: bool) -> None:
    headline, _, remedy = NOT_CONFIGURED.partition("\n")
    code = "settings.perhaps-configured" if perhaps else "settings.not-configured"
    result.add(code, headline, remedy)


def _add_ini(result: Section, settings: Settings) -> None:
    if settings.ini:
        result.add("settings.ini", f"pytest reads {settings.ini}")
    elif not settings.error:
        result.add("settings.no-ini", f"pytest finds no ini file in or above {settings.cwd}")
    unknown = [word for word in settings.foreign if word not in settings.unknown]
    if unknown and not unknown[0].startswith("-n"):
        result.add(
            "settings.unknown-arguments",
            f"no plugin knows {' '.join(unknown)} in addopts: a conftest.py must",
        )
    if settings.ignored_ini:
        text, _, remedy = settings.ignored_ini.rpartition(": ")
        result.add("settings.ini-ignored", text, remedy)


def _add_conftests(result: Section, found: Check[list[str]]) -> bool:
    try:
        files = found.get()
    except (HangsError, OSError):
        return False
    for file in files:
        result.add(
            "settings.override-not-seen",
            f"{file} defines mlc_server_config: what it changes is not seen here",
            "give what it changes by flags, to see what that means",
        )
    return bool(files)


def _value(one: Given) -> str:
    return written(one).removeprefix(f"{one.setting.name} = ").removesuffix(f" (from {one.source})")


def _fact(one: Given) -> dict[str, str]:
    return {"name": one.setting.name, "value": _value(one), "source": one.source}
