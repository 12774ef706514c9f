"""Tests that run once with each of several models: what pytest is told, and which is whose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlc_server import models
from pytest_mlc_server.errors import ConfigError

if TYPE_CHECKING:
    from pytest_mlc_server.config import ServerConfig
    from pytest_mlc_server.models import Choice
    from pytest_mlc_server.session import Session

#: The fixture that has the parameter.
SERVER = "mlc_server"


def parametrize(metafunc: pytest.Metafunc, session: Session) -> None:
    """Have a test that uses the server run once with each model of the run.

    A test that says itself which servers it wants gets those and no others.

    Parameters
    ----------
    metafunc
        The test function.
    session
        The plugin's session, with several models.
    """
    if _is_parametrized(metafunc) or not _reaches_ours(metafunc):
        return
    chosen = session.choices.matrix
    ids = models.names([str(choice.changes["model"]) for choice in chosen])
    metafunc.parametrize(SERVER, chosen, ids=ids, indirect=True, scope="session")


def _is_parametrized(metafunc: pytest.Metafunc) -> bool:
    for call in getattr(metafunc, "_calls", ()):  # by another plugin or conftest.py
        if SERVER in call.params:
            return True
    return any(
        SERVER in _argnames(mark) for mark in metafunc.definition.iter_markers("parametrize")
    )


def _argnames(mark: pytest.Mark) -> Iterable[str]:
    names = mark.args[0] if mark.args else mark.kwargs.get("argnames", ())
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else names


def _reaches_ours(metafunc: pytest.Metafunc) -> bool:
    """Tell whether the test's `mlc_server` is ours, or one that is made from ours."""
    definitions = getattr(metafunc, "_arg2fixturedefs", {}).get(SERVER, ())
    for definition in reversed(definitions):
        if definition.params is not None:
            return False
        if definition.func.__module__ == f"{__package__}.plugin":
            return True
        if SERVER not in definition.argnames:
            return False
    return False


def test_id(param: object) -> str | None:
    """Return what a parameter of `mlc_server` is called in the name of a test."""
    model = param.get("model") if isinstance(param, Mapping) else param
    return models.names([model])[0] if isinstance(model, str) and model else None


def group(items: Iterable[pytest.Item], session: Session, *, stay: bool) -> None:
    """Have pytest group the tests that want the same server, however that was written.

    Parameters
    ----------
    items
        Tests with a parameter for `mlc_server`.
    session
        The plugin's session.
    stay
        Whether xdist is to keep the tests of a server on one worker.
    """
    for item in items:
        callspec = getattr(item, "callspec")  # noqa: B009 - of functions alone
        choice = session.choices.of(callspec.params[SERVER], item.nodeid)
        if choice is None:
            continue  # the test itself will tell
        # One object for equal wishes: pytest keeps a fixture whose parameter stays the same, and
        # puts tests side by side whose parameters have the same index (newer: are equal).
        callspec.params[SERVER] = choice
        callspec.indices[SERVER] = choice.number
        _widen(callspec)
        if stay and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(f"mlc-{choice.number}"))


def _widen(callspec: Any) -> None:
    """Keep a server for the next test although it stands in one mark with values of this one."""
    try:
        from _pytest.scope import Scope

        callspec._arg2scope[SERVER] = Scope.Session
    except (ImportError, AttributeError, TypeError):
        pass  # another pytest: it stops and starts more servers than it would have to


def choice_of(item: pytest.Item) -> Choice | None:
    """Return what a test's server was chosen by; None for the session's own server.

    Raises
    ------
    ConfigError
        If the test's parameter is nothing to choose a server by.
    """
    __tracebackhide__ = True
    params = getattr(getattr(item, "callspec", None), "params", {})
    if SERVER not in params:
        return None
    return checked(params[SERVER], item.nodeid)


def checked(param: object, test: str) -> Choice | None:
    """Return what a parameter of `mlc_server` chooses a server by; None for none.

    Raises
    ------
    ConfigError
        If it is nothing to choose a server by; the message names the test.
    """
    __tracebackhide__ = True
    if param is None or isinstance(param, models.Choice):
        return param
    raise ConfigError(
        f"the parameter {param!r} of mlc_server in {test} names no server: expected a model, or "
        "fields of ServerConfig such as dict(model=...)"
    )


def config_of(item: pytest.Item, config: ServerConfig) -> ServerConfig:
    """Return the configuration of a test's server.

    Raises
    ------
    ConfigError
        If the test's parameter is wrong.
    """
    __tracebackhide__ = True
    choice = choice_of(item)
    return config if choice is None else models.changed(config, choice)


def changes_of(item: pytest.Item) -> dict[str, Any] | None:
    """Return the fields in which a test's server differs; None if that cannot be told."""
    try:
        choice = choice_of(item)
    except ConfigError:
        return None
    return {} if choice is None else choice.changes
