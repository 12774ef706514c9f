"""A server lent to a test: given, taken back when the next wants another, begun ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_mlc_server import early, matrix
from pytest_mlc_server.factory import ServerFactory

if TYPE_CHECKING:
    import pytest

    from pytest_mlc_server.models import Choice
    from pytest_mlc_server.pool import ServerPool
    from pytest_mlc_server.server import PopenServer
    from pytest_mlc_server.session import Session


def lent(
    request: pytest.FixtureRequest, factory: ServerFactory, session: Session
) -> Iterator[PopenServer]:
    """Give the server that the parameter of the fixture asks for, until the parameter changes."""
    __tracebackhide__ = True
    choice = matrix.checked(getattr(request, "param", None), "this test")
    if not isinstance(factory, ServerFactory):
        # Somebody's own, in place of ours: it is called, as it always was.
        yield factory(**(choice.changes if choice is not None else {}))
        return
    server = factory.lend(choice)
    begin_next(request, session, factory, choice)
    yield server
    factory.take_back(server)


def begin_next(
    request: pytest.FixtureRequest,
    session: Session,
    factory: ServerFactory,
    choice: Choice | None,
) -> None:
    """Begin to start the server of the tests that follow, if there may be one more.

    Which tests an xdist worker gets is not known: there `begin_for` does this, test by test.
    """
    if session.start == "lazy" or session.worker or not session.choices:
        return
    items = request.session.items
    current = getattr(request, "_pyfuncitem", None)
    later = items[items.index(current) + 1 :] if current in items else []
    for item, changes in early.needing(session, later):
        if (
            matrix.SERVER in getattr(item, "fixturenames", ())
            and matrix.choice_of(item) is not choice
        ):
            factory.begin(**changes)
            return


def begin_for(item: pytest.Item, before: pytest.Item, session: Session, pool: ServerPool) -> None:
    """Begin to start the server of a test while the one before it runs, if there may be one more.

    Parameters
    ----------
    item
        The test.
    before
        The one that runs now.
    session, pool
        The plugin's session, and its servers.
    """
    names = getattr(item, "fixturenames", ())
    if (
        session.start == "lazy"
        or matrix.SERVER not in names
        or matrix.changes_of(item) == matrix.changes_of(before)
    ):
        return
    for _, changes in early.needing(session, [item]):
        ServerFactory(pool, session.config).begin(**changes)


def spare(item: pytest.Item, pool: ServerPool) -> list[PopenServer]:
    """Return the servers that were lent to tests before this one, and that it does not use."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    if matrix.SERVER not in getattr(item, "fixturenames", ()):
        return []
    wanted = params.get(matrix.SERVER)
    return [
        server
        for server in pool.running
        if id(server) in pool.lent_for and pool.lent_for[id(server)][1] is not wanted
    ]
