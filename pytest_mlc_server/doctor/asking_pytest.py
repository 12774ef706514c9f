"""What pytest itself reads of the settings: run as a program, it prints one line of JSON.

pytest loads its plugins, reads its ini file and its options, and is stopped before it loads any
``conftest.py``: that would be the project's own code.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_mlc_server import plugin, workers
from pytest_mlc_server.reporting import header


class _Stop(BaseException):
    """Ends pytest as soon as all is known."""


class Look:
    """A plugin that looks at pytest's configuration and ends pytest.

    Parameters
    ----------
    answer
        Where to put what is found.
    """

    def __init__(self, answer: dict[str, Any]) -> None:
        self._answer = answer

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # before whatever begins with this hook
    def pytest_load_initial_conftests(
        self, early_config: pytest.Config, parser: pytest.Parser, args: list[str]
    ) -> Iterator[None]:
        """Look, and end it all."""
        arguments = [str(argument) for argument in early_config.invocation_params.args]
        self._answer["unknown"] = parser.parse_known_and_unknown_args(arguments)[1]
        self._answer["foreign"] = parser.parse_known_and_unknown_args(list(args))[1]
        early_config.option = early_config.known_args_namespace
        self._answer.update(
            ini=str(early_config.inipath or ""),
            root=str(early_config.rootpath),
            tests=_tests(early_config),
            loaded=early_config.pluginmanager.is_registered(plugin),
            xdist=early_config.pluginmanager.has_plugin("xdist"),
            workers=_workers(early_config),
        )
        if self._answer["loaded"]:
            self._add_settings(early_config)
        raise _Stop
        yield

    def _add_settings(self, config: pytest.Config) -> None:
        unreadable: list[str] = []
        given = plugin._given(config, unreadable)
        self._answer["given"] = [
            [one.setting.name, one.raw, one.source, one.base] for one in given.values()
        ]
        self._answer["unreadable"] = unreadable
        try:
            header.warn_of_ignored_ini(config, given)
        except pytest.PytestWarning as warning:  # the project has made errors of warnings
            self._answer["ignored_ini"] = str(warning)

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        """Note what pytest warns of: that it has taken a path of ours for a test's."""
        text = str(warning_message.message)
        if text.startswith("pytest took "):
            self._answer["ignored_ini"] = text


def _tests(config: pytest.Config) -> list[str]:
    """Return where tests would be looked for."""
    named = [str(path).partition("::")[0] for path in config.option.file_or_dir or ()]
    named = [path for path in named if os.path.exists(path)]
    return named or [str(path) for path in config.getini("testpaths")]


def _workers(config: pytest.Config) -> int:
    """Return how many processes would want a server on this host, as pytest-xdist will count."""
    option = config.option
    number = getattr(option, "numprocesses", None)
    if getattr(option, "usepdb", False) and number in ("auto", "logical"):
        return 1
    if number in ("auto", "logical"):
        number = config.hook.pytest_xdist_auto_num_workers(config=config)
    if number is None:
        return workers.local(option)
    if most := getattr(option, "maxprocesses", None):
        number = min(number, most)
    return max(1, int(number))


def _said(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    first = next((n for n, line in enumerate(lines) if line.startswith("ERROR: ")), 0)
    return "\n".join(lines[first:]).removeprefix("ERROR: ")


def main(arguments: list[str]) -> None:
    """Print what pytest would read with these arguments.

    Parameters
    ----------
    arguments
        As for pytest.
    """
    answers = os.dup(1)
    os.dup2(2, 1)  # what plugins print is not to stand before the answer
    answer: dict[str, Any] = {"pytest": pytest.__version__}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            # Nothing is to be rewritten here, and pytest warns of what it cannot rewrite any more.
            pytest.main(["--assert=plain", *arguments], plugins=[Look(answer)])
        answer["error"] = _said(said.getvalue())
    except _Stop:
        pass
    except BaseException as error:  # a plugin that cannot be imported, say
        answer["error"] = f"{type(error).__name__}: {error}"
    os.write(answers, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
