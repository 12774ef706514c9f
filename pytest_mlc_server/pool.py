"""The servers of one process: one for each configuration, all stopped together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from pytest_mlc_server import logs
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.errors import ConfigError, EngineUnavailableError, MLCServerError
from pytest_mlc_server.server import PopenServer


class ServerPool:
    """Starts each configuration once, and remembers a start that failed.

    Parameters
    ----------
    name
        What the names of the log files begin with.
    port_offset
        Added to every given port: the number of the pytest-xdist worker.
    live_output
        Descriptor that `log_live` copies logs to.
    """

    def __init__(self, name: str = "server", *, port_offset: int = 0, live_output: int = 2) -> None:
        self.keep_logs = False
        self.history: list[PopenServer] = []
        """Every server that became ready, stopped ones included."""
        self.ready_at: dict[str, int] = {}
        """Size of each log when its server became ready, by path."""
        self._name = name
        self._port_offset = port_offset
        self._live_output = live_output
        self._discardable: list[PopenServer] = []
        self._by_key: dict[str, PopenServer] = {}
        self.running: list[PopenServer] = []
        """The servers that are to be stopped with the pool, in the order of their starts."""
        self._failures: dict[str, MLCServerError] = {}

    def get(self, config: ServerConfig) -> PopenServer:
        """Return the server of a configuration, started by the first who asks.

        Raises
        ------
        ConfigError, StartError
            If it cannot be started. It is tried once: whoever asks again gets the same error.
        """
        __tracebackhide__ = True
        key = config.key()
        if key in self._failures:
            raise self._failures[key].with_traceback(None)
        if key not in self._by_key:
            try:
                self._by_key[key] = self.fresh(config)
            except MLCServerError as error:
                self._failures[key] = error
                raise
        return self._by_key[key]

    def fresh(self, config: ServerConfig) -> PopenServer:
        """Start a server that nobody else gets; it stops with the pool, if not before."""
        __tracebackhide__ = True
        server = PopenServer.from_config(self._own_port(config), name=self._name)
        server.live_output = self._live_output
        server.start()
        self.running.append(server)
        self.history.append(server)
        if server.log_path is not None:
            self.ready_at[server.log_path] = logs.size(server.log_path)
        return server

    @contextlib.contextmanager
    def temporary(self, config: ServerConfig) -> Iterator[PopenServer]:
        """Start a server for the length of a block."""
        __tracebackhide__ = True
        server = self.fresh(config)
        try:
            yield server
        except BaseException:
            server.keep_log = True
            raise
        finally:
            self.running.remove(server)
            # The test that used it may fail yet, and then shows the log.
            kept, server.keep_log = server.keep_log, True
            server.terminate()
            if not kept:
                self._discardable.append(server)

    def close(self, *, hurry: bool = False) -> None:
        """Stop all servers.

        Parameters
        ----------
        hurry
            Leave the end to the guardians instead of waiting for it.
        """
        running, self.running, self._by_key = self.running, [], {}
        for server in running:
            server.keep_log = server.keep_log or self.keep_logs
        for server in [] if self.keep_logs else self._discardable:
            if not server.died:
                server.discard_log()
        if hurry:
            for server in running:
                server.release()
        elif len(running) == 1:
            running[0].terminate()
        elif running:
            from concurrent.futures import ThreadPoolExecutor  # 4 ms that one server never needs

            # Each may take its whole stop-timeout: together they should not take longer than one.
            with ThreadPoolExecutor(len(running)) as executor:
                for future in [executor.submit(server.terminate) for server in running]:
                    future.result()

    def _own_port(self, config: ServerConfig) -> ServerConfig:
        if config.port == "auto" or not self._port_offset:
            return config
        port = int(config.port) + self._port_offset
        if port > 65535:
            raise ConfigError(
                f"{config.describe('port')}: this pytest-xdist worker would get port {port} "
                f"(+ {self._port_offset}), which is above 65535; use a lower one, or auto"
            )
        origins = {**config.origins, "port": f"{config.origins.get('port', 'port')} + worker"}
        return config.replace(port=port).replace(origins=origins)


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
        with self._availability():
            return self._pool.fresh(config) if fresh else self._pool.get(config)

    @contextlib.contextmanager
    def temporary(self, **changes: Any) -> Iterator[PopenServer]:
        """Start a server for the length of a ``with`` block."""
        __tracebackhide__ = True
        with contextlib.ExitStack() as stack:
            with self._availability():
                server = stack.enter_context(self._pool.temporary(self._changed(changes, True)))
            yield server

    def _changed(self, changes: dict[str, Any], fresh: bool) -> ServerConfig:
        config = self._config.replace(**changes) if changes else self._config
        if "port" not in changes and (fresh or config != self._config):
            config = config.replace(port="auto")  # the session's own server may hold the port
        return config

    @contextlib.contextmanager
    def _availability(self) -> Iterator[None]:
        __tracebackhide__ = True
        try:
            yield
        except EngineUnavailableError as error:
            self._on_unavailable(error)
            raise
