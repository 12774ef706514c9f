"""The fixture `mlc_server_factory`: servers that differ from the session's in some fields."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pytest_mlc_server import models
from pytest_mlc_server.errors import EngineUnavailableError, MLCServerError

if TYPE_CHECKING:
    from pytest_mlc_server.config import ServerConfig
    from pytest_mlc_server.pool import ServerPool
    from pytest_mlc_server.server import PopenServer


def _ignore(error: EngineUnavailableError) -> None:
    """Let the error go on."""


class ServerFactory:
    """Gives servers with changes to the session's configuration: the fixture `mlc_server_factory`.

    Parameters
    ----------
    pool
        Where the servers live.
    config
        The session's configuration.
    on_unavailable
        Called with the error when an engine or its hardware is missing; may raise another one.
    """

    def __init__(
        self,
        pool: ServerPool,
        config: ServerConfig,
        on_unavailable: Callable[[EngineUnavailableError], None] = _ignore,
    ) -> None:
        self._pool = pool
        self._config = config
        self._on_unavailable = on_unavailable

    def __call__(self, *, fresh: bool = False, **changes: Any) -> PopenServer:
        """Return a running server.

        Parameters
        ----------
        fresh
            Start one that nobody else gets.
        **changes
            Fields of `ServerConfig`. Without a `port` among them, a changed server is on a port
            of its own choice, whatever the session's configuration says.

        Raises
        ------
        ConfigError, StartError
            If it cannot be started.
        """
        __tracebackhide__ = True
        config = self._changed(changes, fresh)
        try:
            return self._pool.fresh(config) if fresh else self._pool.get(config)
        except EngineUnavailableError as error:
            self._on_unavailable(error)
            raise

    def begin(self, **changes: Any) -> None:
        """Begin to start what a call with the same arguments returns; errors are told then."""
        try:
            config = self._changed(changes, False)
        except MLCServerError:
            return
        self._pool.begin(config)

    def lend(self, choice: models.Choice | None = None) -> PopenServer:
        """Give a server until `take_back`; it may make room for another one afterwards.

        Parameters
        ----------
        choice
            What it differs in; None for the session's own.

        Raises
        ------
        ConfigError, StartError
            If it cannot be started.
        """
        __tracebackhide__ = True
        config = self._chosen(choice)
        try:
            return self._pool.lend(config, choice)
        except EngineUnavailableError as error:
            self._on_unavailable(error)
            raise

    def take_back(self, server: PopenServer) -> None:
        """Take back what `lend` gave."""
        self._pool.take_back(server)

    def _chosen(self, choice: models.Choice | None) -> ServerConfig:
        __tracebackhide__ = True
        if choice is None:
            return self._config
        config = models.changed(self._config, choice)
        if "port" not in choice.changes and config != self._config:
            return config.replace(port="auto").replace(origins=config.origins)
        return config

    @contextlib.contextmanager
    def temporary(self, **changes: Any) -> Iterator[PopenServer]:
        """Start a server for the length of a ``with`` block."""
        __tracebackhide__ = True
        with contextlib.ExitStack() as stack:
            try:
                server = stack.enter_context(self._pool.temporary(self._changed(changes, True)))
            except EngineUnavailableError as error:
                self._on_unavailable(error)
                raise
            yield server

    def _changed(self, changes: dict[str, Any], fresh: bool) -> ServerConfig:
        config = self._config.replace(**changes) if changes else self._config
        if "port" not in changes and (fresh or config != self._config):
            config = config.replace(port="auto")  # the session's own server may hold the port
        return config
