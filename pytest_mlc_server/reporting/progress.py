"""Shows what starts while tests wait for it: in one process, and in the controller of several."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlc_server import advertise, relay, waiting

if TYPE_CHECKING:
    from pytest_mlc_server.server import PopenServer
    from pytest_mlc_server.session import Session

    Shown = Callable[[PopenServer], AbstractContextManager[object]]

#: What workers are told: where to say what they wait for.
TOLD = "mlc_progress"

_Around = Generator[None, object, object]


def shown(config: pytest.Config, session: Session) -> Shown:
    """Return what shows the start of a server around whoever waits for it.

    Parameters
    ----------
    config
        pytest's configuration.
    session
        The plugin's session.
    """
    told = getattr(config, "workerinput", {}).get(TOLD)
    if session.worker is None:
        return _Once(lambda: _Own(config)) if _wanted(config) else _nothing
    if told is None or session.run is None or session.run.controller is None:
        return _nothing  # the controller is on another host, or shows nothing
    return _Once(lambda: relay.Sender(told, str(session.worker)))


def _nothing(_: object) -> AbstractContextManager[object]:
    return contextlib.nullcontext()


def _wanted(config: pytest.Config) -> bool:
    """Tell whether there is somebody who reads: not without a terminal reporter, and not in -qq."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return reporter is not None and config.option.verbose > -2


class _Once:
    """Shows one start at a time: a thread that waits beside another one waits unseen."""

    def __init__(self, sink: Callable[[], waiting.Sink]) -> None:
        self._sink = sink
        self._lock = threading.Lock()

    def __call__(self, server: PopenServer) -> AbstractContextManager[object]:
        if not self._lock.acquire(blocking=False):
            return contextlib.nullcontext()
        try:
            return waiting.Waiting(server, self._sink(), self._lock.release)
        except BaseException:
            self._lock.release()
            raise


class _Own:
    """Shows one wait of this process.

    What pytest captures meanwhile is not touched: the terminal's own descriptor is taken before.

    Parameters
    ----------
    config
        pytest's configuration.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._descriptor = -1
        self._encoding = "utf-8"
        row = None
        with self._uncaptured():
            writer = config.get_terminal_writer()
            writer.flush()
            self._inside = bool(writer.width_of_current_line)
            with contextlib.suppress(OSError, ValueError):  # in memory: nobody captures that
                self._descriptor = os.dup(sys.stdout.fileno())
                self._encoding = sys.stdout.encoding
                row = waiting.row_of(self._descriptor, sys.stdout)
        self._display = waiting.Display(row, self._say, self._conclude)
        self.update = self._display.update

    def end(self, outcome: str) -> None:
        """Give the terminal back, or say how it ended."""
        self._display.end(outcome)
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _say(self, text: str) -> None:
        # Behind the back of pytest's writer, whose file may be captured: `_conclude` tells it.
        begin, self._inside = "\n" if self._inside else "", False
        if self._descriptor < 0:
            self._config.get_terminal_writer().write_raw(f"{begin}{text}\n", flush=True)
        else:
            data = f"{begin}{text}\n".encode(self._encoding, "replace")
            while data:
                data = data[os.write(self._descriptor, data) :]

    def _conclude(self, text: str) -> None:
        with self._uncaptured():
            writer = self._config.get_terminal_writer()
            writer.line(text)
            writer.flush()
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if getattr(reporter, "showlongtestinfo", False):
            reporter.currentfspath = None  # it names the test again, before its outcome

    def _uncaptured(self) -> AbstractContextManager[None]:
        return uncaptured(self._config)


def uncaptured(config: pytest.Config) -> AbstractContextManager[None]:
    """Return a block in which what is written is not captured by pytest."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    if capture is None:
        return contextlib.nullcontext()
    block: AbstractContextManager[None] = capture.global_and_fixture_disabled()
    return block


class ControllerProgress:
    """Shows, in the controller, what xdist's workers wait for.

    Parameters
    ----------
    config
        pytest's configuration.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._receiver: relay.Receiver | None = None
        # The thread that shows it must not write between two words of pytest's own.
        self._writing = threading.RLock()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker where to say what it waits for."""
        if not _wanted(self._config) or advertise.is_remote(node.gateway.spec):
            return
        if self._receiver is None:
            with contextlib.suppress(OSError):
                row = self._row()
                self._receiver = relay.Receiver(waiting.Display(row, self._say))
                self._config.add_cleanup(self._close)
        if self._receiver is not None:
            node.workerinput[TOLD] = self._receiver.address

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Forget what a worker said that is no more."""
        if self._receiver is not None:
            self._receiver.forget(node.gateway.id)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Show nothing any more: the summary follows."""
        self._close()

    def _close(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.close()

    def _row(self) -> Any:
        try:
            return waiting.row_of(sys.stdout.fileno(), sys.stdout)
        except (OSError, ValueError):
            return None

    def _say(self, text: str) -> None:
        with self._writing:
            writer = self._config.get_terminal_writer()
            reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
            if writer.width_of_current_line and not reporter.currentfspath:
                writer.line()  # behind dots: pytest does not call that a line that was begun
            reporter.write_line(text)
            writer.flush()

    def _alone(self) -> _Around:
        with self._writing:
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logstart(self) -> _Around:
        """Let pytest write its words together."""
        return (yield from self._alone())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(self) -> _Around:
        """Let pytest write its words together."""
        return (yield from self._alone())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logfinish(self) -> _Around:
        """Let pytest write its words together."""
        return (yield from self._alone())

    @pytest.hookimpl(wrapper=True, optionalhook=True)
    def pytest_testnodeready(self) -> _Around:
        """Let xdist write its words together."""
        return (yield from self._alone())
