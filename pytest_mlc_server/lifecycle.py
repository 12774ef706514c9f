"""Beginning, starting, restarting and ending a server: what a holder does with it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from pytest_mlc_server.errors import StartError
from pytest_mlc_server.launching import GUARDIAN_GRACE, port_taken
from pytest_mlc_server.observing import MEASURED_IN_HURRY, Observing

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

NOT_ON_WINDOWS = """\
this package cannot start servers on Windows: its guardian needs POSIX process groups and sockets
Start the server in WSL or on another machine, and attach to it with --mlc-url."""


class Lifecycle(Observing):
    """A handle that starts its server, and ends it."""

    def begin(self, extra_env: Mapping[str, str] | None = None) -> None:
        """Begin to start the server, and do not wait until it is ready: `start` does.

        Parameters
        ----------
        extra_env
            Environment variables of the server, on top of `os.environ` and `env`.

        Raises
        ------
        ConfigError
            If a mistake was found before anything was started.
        StartError
            If the server is started already.
        """
        __tracebackhide__ = True
        with self._lock:
            if self._lease is not None or self._attached or self._pending is not None:
                raise StartError(f"this server is started already: {self!r}")
            if self.config.engine == "external":
                return  # it is there: nothing takes time
            if os.name == "nt":
                raise StartError(NOT_ON_WINDOWS)
            self._extra_env = dict(extra_env or {})
            self._pending = self._open()

    def start(self, extra_env: Mapping[str, str] | None = None) -> None:
        """Start the server and wait until it is ready.

        After `begin`, only wait.

        Parameters
        ----------
        extra_env
            Environment variables of the server, on top of `os.environ` and `env`.

        Raises
        ------
        ConfigError
            If a mistake was found before anything was started.
        StartError
            If the server is started already, or did not become ready; nothing is left running.
        EngineUnavailableError
            If the engine or its hardware is not on this machine.
        """
        __tracebackhide__ = True
        with self._lock:
            if self._lease is not None or self._attached:
                raise StartError(f"this server is started already: {self!r}")
            if self.config.engine == "external":
                self._attach()
                return
            if self._pending is None:
                self.begin(extra_env)
            self._complete()

    def restart(self) -> None:
        """Stop the server and start it again, behind the same handle and in the same log.

        The port stays the same where it can be had. A server that is known to be wedged or that
        ended is not asked to stop: it would not.

        Raises
        ------
        StartError
            If there is no server to restart, or the new one did not become ready. An external
            server cannot be restarted.
        """
        __tracebackhide__ = True
        with self._lock:
            lease = self._lease
            if lease is None or not lease.mine:
                raise StartError(f"there is no server of this process to restart: {self!r}")
            if self.poll() == "starting":  # another holder of a shared server was first
                self.settle()
                return
            state, log = self.poll(), self.log_path or ""
            reason = {"ready": "restart was asked for", "exited": self._ending()}.get(state, state)
            timeout = self.config.stop_timeout if state == "ready" else 0.0
            port = self._server_port
            self.restarts += 1
            try:
                self._again(lease, log, port, timeout, reason)
            except StartError as error:
                if self._device_is_gone(error):  # its guardian would name it for ever
                    self._launch(log, self.config.replace(port=port))
                    return
                if self.config.port != "auto" or not port_taken(error):
                    raise
                # Somebody took the port between the old server and the new one.
                self._launch(log, self.config)
                with warnings.catch_warnings():
                    # Never an error, whatever the filters say: the server is there and works.
                    warnings.simplefilter("always")
                    warnings.warn(
                        f"the restarted MLC server could not have port {port} again and is on "
                        f"{self._port}: whoever remembers the old URL will not find it",
                        stacklevel=2,
                    )

    def terminate(self) -> None:
        """Stop the server and its whole process tree; of an external server, only detach.

        May be called at any time and any number of times. In a process that was forked from the
        one that started the server it stops nothing.
        """
        with self._lock:
            starting = self._pending is not None
            lease = self._let_go()
            if lease is None:
                return
            self._hear(lease)  # a server that died before it was stopped leaves its log
            if lease.shared:
                self._measure(lease)
                self._close_own_door()
                lease.release(keep_log=self.keep_log)
                self._end()
                return
            # A wedged server ignores SIGINT and SIGTERM for half a minute and more; one that is
            # still loading has nothing to close.
            in_order = self._state != "wedged" and not starting
            timeout = self.config.stop_timeout if in_order else 0.0
            lease.stop(timeout)
            ended = lease.wait(timeout + GUARDIAN_GRACE)
            self.returncode = ended.get("returncode", self.returncode)
            self.life.take(ended)
            self._end()
            if ended.get("left"):
                warnings.warn(f"processes {ended['left']} survived SIGKILL", stacklevel=2)

    def release(self) -> None:
        """Have the guardian stop the server, and do not wait for it.

        For a process that is in a hurry: pytest-xdist gives its workers about five seconds after
        Ctrl-C.
        """
        with self._lock:
            lease = self._let_go()
            if lease is None:
                return
            if self._state == "ready":
                self._measure(lease, MEASURED_IN_HURRY)
            discard = None if self.keep_log else self._temporary
            if lease.shared:
                self._close_own_door()
                lease.release(keep_log=self.keep_log)
            else:
                lease.stop(self.config.stop_timeout, discard=discard)
                lease.leave()
            if discard is not None:
                self._temporary = None
            self._end()

    def __enter__(self) -> Self:
        """Start the server."""
        __tracebackhide__ = True
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Stop the server; a temporary log stays when the block failed."""
        if exc_type is not None:
            self.keep_log = True
        self.terminate()
