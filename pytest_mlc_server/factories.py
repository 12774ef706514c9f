"""Session fixtures with a configuration of their own.

.. code-block:: python

    from pytest_mlc_server import factories

    mlc_small = factories.mlc_server(overrides="max_num_sequence=1")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_mlc_server.factory import ServerFactory
    from pytest_mlc_server.server import PopenServer


def mlc_server(*, fresh: bool = False, **changes: Any) -> Any:
    """Make a session fixture that is a running server.

    Parameters
    ----------
    fresh
        Start a server that no other fixture gets, even with the same configuration.
    **changes
        Fields of `ServerConfig` that differ from the session's configuration.

    Returns
    -------
    fixture
        Bind it to a name in a test module or a ``conftest.py``; the name is the fixture's.
    """

    def server(mlc_server_factory: ServerFactory) -> PopenServer:
        __tracebackhide__ = True
        return mlc_server_factory(fresh=fresh, **changes)

    if not fresh:
        server.mlc_changes = changes  # type: ignore[attr-defined]  # known before the fixture is made
    return pytest.fixture(scope="session")(server)
