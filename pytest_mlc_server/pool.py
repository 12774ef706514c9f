"""The servers of one process: one for each configuration, all stopped together."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pytest_mlc_server import bounds, logs
from pytest_mlc_server.bounds import Bound, BoundError
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.errors import MLCServerError
from pytest_mlc_server.server import PopenServer
from pytest_mlc_server.slots import FullError
from pytest_mlc_server.workers import with_port

if TYPE_CHECKING:
    from pytest_mlc_server.models import Choice
    from pytest_mlc_server.sharing import Share
    from pytest_mlc_server.warm import Parents


def _environ() -> dict[str, str]:
    """Return the environment, without what pytest changes in it for each test."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


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
    assign
        Gives a configuration the GPUs of this process, before its server starts.
    share
        Tells who else may hold the server of a configuration.
    elsewhere
        Returns the server of a configuration that is started elsewhere, on another host.
    bound
        How many servers live at once.
    """

    def __init__(
        self,
        name: str = "server",
        *,
        port_offset: int = 0,
        live_output: int = 2,
        assign: Callable[[ServerConfig], ServerConfig] = lambda config: config,
        share: Callable[[ServerConfig], Share | None] = lambda _: None,
        elsewhere: Callable[[ServerConfig], PopenServer | None] = lambda _: None,
        bound: Bound | None = None,
    ) -> None:
        self.keep_logs = False
        self.history: list[PopenServer] = []
        """Every server that became ready, stopped ones included."""
        self.ready_at: dict[str, int] = {}
        """Size of each log when its server became ready, by path."""
        self._name = name
        self._port_offset = port_offset
        self._assign = assign
        self._share = share
        self._elsewhere = elsewhere
        self._live_output = live_output
        self._discardable: list[PopenServer] = []
        self.on_again: Callable[[PopenServer], None] = lambda _: None
        """Called with a server before it is lent again."""
        self.waiting: Callable[[PopenServer], contextlib.AbstractContextManager[object]] = (
            lambda _: contextlib.nullcontext()
        )
        """Returns what surrounds a wait for a server that starts."""
        self.on_ready: Callable[[PopenServer], None] = lambda _: None
        """Called with a server that a test is about to get."""
        self.on_ending: Callable[[PopenServer], None] = lambda _: None
        """Called with a server that is stopped while a test that used it goes on."""
        self.on_leaving: Callable[[PopenServer], None] = lambda _: None
        """Called with a server before it is stopped, or let go of, when no test uses it."""
        self.lent_for: dict[int, tuple[str, Choice | None]] = {}
        """What the servers of `lend` are and were chosen by, while they are lent, by their `id`."""
        self.parents: Parents | None = None
        """The warm parents that servers are forked from, and that outlive each of them."""
        self._bound = bound or Bound()
        self._by_key: dict[str, PopenServer] = {}
        self._kept: set[str] = set()
        self.running: list[PopenServer] = []
        """The servers in use, in the order of their starts."""
        self._idle: dict[str, PopenServer] = {}
        """Those that were lent before, the least recently used first."""
        self._failures: dict[str, MLCServerError] = {}
        self._begun: dict[str, PopenServer] = {}
        self._environ: dict[str, str] = {}

    # --- giving servers ---------------------------------------------------------------------------

    def get(self, config: ServerConfig) -> PopenServer:
        """Return the server of a configuration, started by the first who asks.

        It is in use until the pool is closed.

        Raises
        ------
        ConfigError, StartError
            If it cannot be started. It is tried once: whoever asks again gets the same error.
        """
        __tracebackhide__ = True
        server = self._obtain(config, asked=True)
        self._kept.add(config.key())
        return server

    def lend(self, config: ServerConfig, choice: Choice | None = None) -> PopenServer:
        """Give the server of a configuration until `take_back`.

        Afterwards it is idle: it is there for the next one who asks, and makes room for others.

        Parameters
        ----------
        config
            The configuration.
        choice
            What it was chosen by.
        """
        __tracebackhide__ = True
        server = self._obtain(config, asked=False)
        self.lent_for[id(server)] = (config.key(), choice)
        return server

    def take_back(self, server: PopenServer) -> None:
        """Take back what `lend` gave."""
        key, _ = self.lent_for.pop(id(server), ("", None))
        if key in self._kept or key not in self._by_key:
            return  # the factory gave it as well, or the pool was closed
        del self._by_key[key]
        self.running.remove(server)
        shared = server.share is not None and not server.share.exclusive
        if shared or server.poll() != "ready":
            self._leave(server)  # who else needs it, or the room, must not wait for this process
        else:
            self._idle[key] = server

    def _obtain(self, config: ServerConfig, *, asked: bool) -> PopenServer:
        __tracebackhide__ = True
        key = config.key()
        if key in self._failures:
            raise self._failures[key].with_traceback(None)
        if key in self._by_key:
            return self._by_key[key]
        if key in self._idle:
            server = self._idle[key]
            if server.poll() == "ready":
                self.on_again(server)
                self.on_ready(server)
                self._by_key[key] = self._idle.pop(key)
                self.running.append(server)
                return server
            self._leave(self._idle.pop(key))  # it ended while nobody used it
        begun = self._begun.pop(key, None)
        if begun is not None and self._environ != _environ():
            # A fixture has set a variable since: the server is to see it.
            begun.terminate()
            begun = None
        try:
            server = begun or self._make(config, shared=True)
            self._by_key[key] = self._started(server, asked=asked, begun=begun is not None)
        except BoundError:
            raise  # whoever asks again may find room
        except MLCServerError as error:
            self._failures[key] = error
            raise
        return self._by_key[key]

    def _leave(self, server: PopenServer) -> None:
        self.on_leaving(server)
        server.keep_log = server.keep_log or self.keep_logs
        server.terminate()

    def begin(self, config: ServerConfig) -> None:
        """Begin to start the server of a configuration: whoever asks for it first waits less.

        Nothing makes room for it. What is wrong is told to whoever asks.
        """
        key = config.key()
        if any(key in known for known in (self._failures, self._by_key, self._idle, self._begun)):
            return
        try:
            server = self._make(config, shared=True)
            if not self._bound.allows(server, self):
                return
            self._environ = _environ()
            server.begin()
        except FullError:
            return
        except MLCServerError as error:
            self._failures[key] = error
        else:
            self._begun[key] = server

    # --- how many there are -----------------------------------------------------------------------

    def count(self) -> int:
        """Return how many servers live or start here, external ones left out."""
        servers = [*self.running, *self._idle.values(), *self._begun.values()]
        return sum(server.config.engine != "external" for server in servers)

    def stop_idle(self, *, begun: bool) -> bool:
        """Stop the idle server that was not used for longest; tell whether there was one.

        Parameters
        ----------
        begun
            Whether one that was begun, and that nobody has used yet, counts as idle.
        """
        for servers in (self._idle, self._begun) if begun else (self._idle,):
            for key, server in servers.items():
                if server.config.engine != "external":
                    del servers[key]
                    server.keep_log = server.keep_log or self.keep_logs
                    bounds.end(server)
                    return True
        return False

    def give_up(self, *, but: ServerConfig | None = None, hurry: bool = False) -> None:
        """Stop servers that were begun and that nobody asked for.

        Parameters
        ----------
        but
            The configuration whose server goes on starting.
        hurry
            Leave the end to the guardians instead of waiting for it.
        """
        keep = None if but is None else but.key()
        for key in [key for key in self._begun if key != keep]:
            server = self._begun.pop(key)
            if hurry:
                server.release()
            else:
                server.terminate()

    def fresh(self, config: ServerConfig) -> PopenServer:
        """Start a server that nobody else gets; it stops with the pool, if not before."""
        __tracebackhide__ = True
        return self._started(self._make(config, shared=False), asked=True)

    def _make(self, config: ServerConfig, *, shared: bool) -> PopenServer:
        __tracebackhide__ = True
        server = self._elsewhere(config) if shared else None
        if server is not None:
            return server
        config = with_port(self._assign(config), self._port_offset)
        share = self._share(config) if shared else None
        server = PopenServer.from_config(config, name=self._name, share=share)
        server.live_output, server.parents = self._live_output, self.parents
        return server

    def _started(self, server: PopenServer, *, asked: bool, begun: bool = False) -> PopenServer:
        __tracebackhide__ = True
        with self.waiting(server):
            self._bound.start(server, self, asked=asked, begun=begun)
        self.running.append(server)
        self._remember(server)
        server.life.lent_at = time.time()
        if server.log_path is not None:
            self.ready_at[server.log_path] = logs.size(server.log_path)
        self.on_ready(server)
        return server

    def _remember(self, server: PopenServer) -> None:
        if server.share is not None:
            # The same server, which this process has let go of and holds again.
            address = (server.base_url, server.config.key())
            self.history = [
                one for one in self.history if (one.base_url, one.config.key()) != address
            ]
        self.history.append(server)

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
            self.on_ending(server)
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
        self.give_up(hurry=hurry)
        running = [*self.running, *self._idle.values()]
        self.running, self._by_key, self._idle = [], {}, {}
        for server in running:
            server.keep_log = server.keep_log or self.keep_logs
            if not hurry:
                self.on_leaving(server)
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
