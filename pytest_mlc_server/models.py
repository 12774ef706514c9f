"""Several models: a configuration for each, and what the server of one test differs in."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.errors import ConfigError
from pytest_mlc_server.options import Given
from pytest_mlc_server.reading import written


class Choice:
    """What the server of some tests differs in: the parameter of the fixture `mlc_server`.

    There is one object for equal changes, so that pytest keeps the server for the next test.

    Parameters
    ----------
    changes
        Fields of `ServerConfig`.
    number
        Equal for the tests that pytest is to group.
    origin
        Where the changes were written, for people.
    matrix
        Whether it is a model of the whole run.
    """

    def __init__(
        self, changes: Mapping[str, Any], number: int, origin: str, *, matrix: bool = False
    ) -> None:
        self.changes = dict(changes)
        self.number = number
        self.origin = origin
        self.matrix = matrix

    def __repr__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.changes.items())


class Choices:
    """All parameters of `mlc_server` in one session: the run's models first.

    Parameters
    ----------
    configs
        One configuration for each model of the run.
    """

    def __init__(self, configs: Sequence[ServerConfig]) -> None:
        self._by_key: dict[str, Choice] = {}
        several = len(configs) > 1
        self.matrix = [self._of_model(config) for config in configs] if several else []
        """One for each model, where there are several."""

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def _of_model(self, config: ServerConfig) -> Choice:
        origin = config.origins.get("model", "")
        return self._choice({"model": config.model}, origin, matrix=True)

    def of(self, written: object, test: str) -> Choice | None:
        """Return what somebody wrote as a parameter of `mlc_server`; None if it is none.

        Parameters
        ----------
        written
            Fields of `ServerConfig`, a model, or what this returned before.
        test
            Where it stands.
        """
        if isinstance(written, Choice):
            return written
        changes = {"model": written} if isinstance(written, (str, os.PathLike)) else written
        if not isinstance(changes, Mapping) or not all(isinstance(name, str) for name in changes):
            return None
        return self._choice(changes, f"the parameter of mlc_server in {test}")

    def _choice(self, changes: Mapping[str, Any], origin: str, *, matrix: bool = False) -> Choice:
        key = json.dumps(changes, sort_keys=True, default=repr)
        if key not in self._by_key:
            self._by_key[key] = Choice(changes, len(self._by_key), origin, matrix=matrix)
        return self._by_key[key]


def configs(given: Mapping[str, Given], *, cwd: str) -> tuple[ServerConfig, ...]:
    """Build one configuration for each model that was given; one alone without any.

    Parameters
    ----------
    given
        Result of `pytest_mlc_server.options.collect`.
    cwd
        The servers' working directory.

    Raises
    ------
    ConfigError
        With all values that cannot be read, and all that contradict several models.
    """
    one = given.get("model")
    names = one.raw if one is not None and isinstance(one.raw, (list, tuple)) else ()
    if one is None or len(names) < 2:
        return (ServerConfig.from_given(given, cwd=cwd),)
    found: list[ServerConfig] = []
    problems: list[str] = []
    for name in names:
        alone = Given(one.setting, [name], one.source, one.base)
        try:
            found.append(ServerConfig.from_given({**given, "model": alone}, cwd=cwd))
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    problems += [*_twice(one, found), *_contradictions(one, given)]
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def _twice(one: Given, found: Sequence[ServerConfig]) -> list[str]:
    seen: set[str] = set()
    problems = []
    for config in found:
        model = config.model or ""
        place = model if "://" in model else os.path.normpath(os.path.join(config.cwd or "", model))
        if place in seen:
            problems.append(f"{written(one)}: {model!r} is listed twice; list each model once")
        seen.add(place)
    return problems


def _contradictions(one: Given, given: Mapping[str, Given]) -> list[str]:
    problems = []
    several = f"{written(one)} names several models"
    if "model-lib" in given:
        problems.append(
            f"{written(given['model-lib'])} belongs to one model, and {several}: leave the library "
            "out, so that each is compiled just in time, or give each model with its library by "
            '@pytest.mark.parametrize("mlc_server", [dict(model=..., model_lib=...), ...], '
            "indirect=True)"
        )
    if "port" in given and str(given["port"].raw) not in ("auto", "0"):
        problems.append(
            f"{written(given['port'])} is the port of one server, and {several}, each with a "
            "server of its own: use auto, and mlc_server.base_url"
        )
    if "advertise" in given:
        problems.append(
            f"{written(given['advertise'])} is the address of one server for all hosts, and "
            f"{several}: give one of them"
        )
    if "url" in given:
        problems.append(
            f"{written(given['url'])} attaches to one server that is already there, and {several}: "
            "give one of them"
        )
    return problems


def changed(config: ServerConfig, choice: Choice) -> ServerConfig:
    """Return the configuration of the server that a parameter asks for.

    Parameters
    ----------
    config
        What it differs from.
    choice
        The parameter.

    Raises
    ------
    ConfigError
        If a field is wrong, or the configuration contradicts the parameter.
    """
    __tracebackhide__ = True
    changes = choice.changes
    named = {**dict.fromkeys(changes, choice.origin)}
    try:
        result = config.replace(**changes)
    except ConfigError as error:
        raise ConfigError(
            [f"{problem} (in {choice.origin})" for problem in error.problems]
        ) from None
    result = result.replace(origins={**result.origins, **named})
    if "model" in changes and result.model != config.model:
        if config.model_lib is not None and "model_lib" not in changes:
            raise ConfigError(
                f"{config.describe('model_lib')} belongs to {config.describe('model')}, and not to "
                f"{result.describe('model')}: give model_lib with the model (None compiles one "
                "just in time)"
            )
        if config.url is not None and choice.matrix:
            raise ConfigError(
                f"{config.describe('url')} attaches to one server that is already there, and "
                f"{result.describe('model')} is one of several models: give one of them"
            )
    return result


def names(models: Sequence[str]) -> list[str]:
    """Return short names of models, for the ids of tests: the end of each path, and all unique."""
    parts = [[part for part in re.split(r"[/\\]+", model) if part] or ["."] for model in models]
    return [_name(own, parts) for own in parts]


def _name(own: Sequence[str], others: Sequence[Sequence[str]]) -> str:
    for depth in range(1, len(own)):
        ending = own[-depth:]
        if sum(other[-depth:] == ending for other in others) == 1:
            break
    else:
        ending = own
    return "-".join(ending).replace("::", "-")
