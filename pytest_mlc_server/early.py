"""Starting early: the server loads while pytest is still on its way to the first test that uses it.

Nothing is started on a guess: a test that skips, an overridden configuration or a run that executes
no tests start nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlc_server import matrix
from pytest_mlc_server.session import worker_number

if TYPE_CHECKING:
    from pytest_mlc_server.config import ServerConfig
    from pytest_mlc_server.pool import ServerPool
    from pytest_mlc_server.session import Session

#: The fixtures that must be our own, or the server's configuration is not known before it is made.
OURS = ("mlc_server", "mlc_server_factory", "mlc_server_config")

_NO_TESTS = ("collectonly", "setupplan", "showfixtures", "show_fixtures_per_test", "cacheshow")


def only_looks(config: pytest.Config) -> bool:
    """Tell whether the run executes no tests: ``--collect-only`` and the like."""
    return any(getattr(config.option, name, False) for name in _NO_TESTS)


def runs_tests(config: pytest.Config) -> bool:
    """Tell whether this process executes tests: an xdist controller does not."""
    option = config.option
    if only_looks(config):
        return False
    return hasattr(config, "workerinput") or getattr(option, "dist", "no") == "no"


def before_collection(session: Session, pool: ServerPool) -> None:
    """Begin to start the server that the settings describe, whatever is collected."""
    pool.begin(session.config)


def before_workers(session: Session) -> None:
    """Have the workers' warm parent import while they are on their way, in their controller."""
    config, parents = session.config, session.parents
    if parents is None:
        return
    from pytest_mlc_server import engines, warm
    from pytest_mlc_server.errors import MLCServerError

    # Whoever starts a server says what is wrong.
    with contextlib.suppress(MLCServerError):
        # Workers with GPUs of their own have warm parents of their own, too.
        if warm.wanted(config) and session.devices.assign(config) == config:
            parents.place(engines.plan(config, mark=""), config)


def after_collection(
    session: Session, pytest_session: pytest.Session
) -> tuple[ServerConfig, dict[str, Any]] | None:
    """Find the server that the first of the selected tests to use one will ask for.

    Parameters
    ----------
    session
        The plugin's session.
    pytest_session
        pytest's own, with the selected tests.

    Returns
    -------
    ServerConfig, dict or None
        The session's configuration and the changes to it; None if no test needs a server, this
        worker may get none that does, or it cannot be known.
    """
    option = pytest_session.config.option
    if pytest_session.testsfailed and not option.continue_on_collection_errors:
        return None  # pytest stops here
    found = needing(session, pytest_session.items)
    first = next(found, None)
    if first is not None and _goes_to_others(session, pytest_session, first[1], found):
        return None
    if first is None or not _gets_one(session, pytest_session.config, first[0], found):
        return None
    return session.config, first[1]


def _goes_to_others(
    session: Session,
    pytest_session: pytest.Session,
    changes: dict[str, Any],
    others: Iterable[tuple[pytest.Item, dict[str, Any]]],
) -> bool:
    """Tell whether this xdist worker may begin with the tests of another model than the first."""
    if not session.choices or worker_number(session.worker) == 0:
        return False
    if _dist(pytest_session.config) == "each":
        return False
    return any(other != changes for _, other in others)


def needing(
    session: Session, items: Iterable[pytest.Item]
) -> Iterator[tuple[pytest.Item, dict[str, Any]]]:
    """Return the tests that will ask for a server, with the changes to the configuration."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        if OURS[1] not in names:
            continue
        changes = _changes(item, names)
        if changes is None or _skips(item, changes.get("engine") or session.config.engine):
            continue
        yield item, changes


def _changes(item: pytest.Item, names: Iterable[str]) -> dict[str, Any] | None:
    """Return what a test's server differs in from the session's; None if that is not known."""
    definitions = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009 - not in its type
    for name in OURS:
        if any(
            made.func.__module__ != f"{__package__}.plugin" for made in definitions.get(name, ())
        ):
            return None
    if OURS[0] in names:
        return matrix.changes_of(item)
    for name in names:
        for made in definitions.get(name, ()):
            changes: dict[str, Any] | None = getattr(made.func, "mlc_changes", None)
            if changes is not None:
                return changes
    return None


def _skips(item: pytest.Item, engine: str | None) -> bool:
    """Tell whether a test will skip, or perhaps not run at all, before it asks for a server."""
    marker = item.get_closest_marker("mlc_engine")
    if marker is not None and engine not in marker.args:
        return True
    if "mlc_sim" in getattr(item, "fixturenames", ()) and engine != "sim":
        return True
    if "_mlc_openai" in getattr(item, "fixturenames", ()) and find_spec("openai") is None:
        return True
    if any(mark.kwargs.get("run") is False for mark in item.iter_markers("xfail")):
        return True
    if not any(item.iter_markers("skip")) and not any(item.iter_markers("skipif")):
        return False
    try:
        from _pytest.skipping import evaluate_skip_marks

        return evaluate_skip_marks(item) is not None
    except (Exception, pytest.fail.Exception):
        # Another pytest, or a condition that cannot be evaluated: the test itself will tell.
        return True


def _gets_one(
    session: Session,
    config: pytest.Config,
    first: pytest.Item,
    others: Iterable[tuple[pytest.Item, dict[str, Any]]],
) -> bool:
    """Tell whether this xdist worker will get a test that needs a server.

    Which worker gets which test is decided later. With fewer tests (or groups of tests that stay
    together) than workers, the last workers get none, and would load a model for nothing.
    """
    number = worker_number(session.worker)
    if session.scope == "run" or number == 0:
        return True
    mode = _dist(config)
    if mode == "each":
        return True
    units = {_unit(first, mode)}
    for item, _ in others:
        if len(units) > number:
            break
        units.add(_unit(item, mode))
    return len(units) > number


def _dist(config: pytest.Config) -> str:
    mode: str = getattr(config, "workerinput", {}).get("mlc_run", {}).get("dist", "load")
    return mode


def _unit(item: pytest.Item, mode: str) -> str:
    """Return what xdist keeps on one worker."""
    if mode == "loadscope":
        return item.nodeid.rpartition("::")[0]
    if mode == "loadfile":
        return item.nodeid.partition("::")[0]
    if mode == "loadgroup":
        group = item.get_closest_marker("xdist_group")
        if group is not None:
            return f"@{group.args[0] if group.args else group.kwargs.get('name')}"
    return item.nodeid
