"""Functions of a test that answer for the simulator: called here, when the simulator asks."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.errors import SimulatorError
from pytest_mlc_server.simulator.replies import as_reply
from pytest_mlc_server.simulator.requests import SimRequest

if TYPE_CHECKING:
    from pytest_mlc_server.simulator.control import Control

#: How long one question for the next call stays open at the simulator, in seconds.
WAIT = 30.0

#: How long a function that still runs at the end of its test may go on, in seconds.
GRACE = 5.0


class Functions:
    """The reply functions of one test, and the thread that waits for their calls.

    Parameters
    ----------
    control
        The simulator.
    """

    def __init__(self, control: Control) -> None:
        self.failures: list[str] = []
        """Tracebacks of functions that raised."""
        self._control = control
        self._functions: dict[str, Callable[[SimRequest], object]] = {}
        self._lock = threading.Lock()
        self._closing = False
        self._connection: http.client.HTTPConnection | None = None
        self._poller: threading.Thread | None = None
        self._running: list[threading.Thread] = []

    def add(self, make_rule: Callable[[], str], function: Callable[[SimRequest], object]) -> str:
        """Make a rule that a function answers, and return its id."""
        __tracebackhide__ = True
        with self._lock:  # a call that comes at once waits until its function is known
            id_ = make_rule()
            self._functions[id_] = function
            # After a restart of the server the first one has ended.
            if self._poller is None or not self._poller.is_alive():
                self._poller = threading.Thread(
                    target=self._poll, name="mlc-sim-functions", daemon=True
                )
                self._poller.start()
        return id_

    def close(self) -> None:
        """End the waiting; a function that still runs may come to its end first."""
        with self._lock:
            self._closing = True
            connection = self._connection
            if connection is not None and connection.sock is not None:
                # The other thread waits in this socket: closing it alone would not wake it.
                with contextlib.suppress(OSError):  # the simulator was faster
                    connection.sock.shutdown(socket.SHUT_RDWR)
        if self._poller is not None:
            self._poller.join(GRACE)
        for thread in self._running:
            thread.join(GRACE)
            if thread.is_alive():
                self.failures.append(f"{thread.name} still runs after the test's end")

    def _poll(self) -> None:
        while not self._closing:
            try:
                with self._lock:
                    if self._closing:
                        return
                    self._connection = connection = self._control.connect(timeout=2 * WAIT)
            except OSError:
                return  # the simulator has ended, as its handle tells
            try:
                self._serve(connection)
            except (SimulatorError, ValueError) as error:
                # Not silently: requests would wait for answers that nobody gives.
                self.failures.append(f"mlc_sim can no longer hear of calls: {error}")
                return
            except (OSError, http.client.HTTPException):
                continue  # this connection has ended: perhaps the simulator has not
            finally:
                connection.close()

    def _serve(self, connection: http.client.HTTPConnection) -> None:
        while not self._closing:
            call = self._control.ask(connection, "GET", f"/sim/calls?wait={WAIT:g}")
            if call is not None:
                # Each in a thread of its own: one function may wait for what another one does.
                thread = threading.Thread(target=self._answer, args=(call,), daemon=True)
                thread.name = f"the reply function of {call['rule_id']}"
                self._running.append(thread)
                thread.start()

    def _answer(self, call: dict[str, Any]) -> None:
        with self._lock:
            function = self._functions[call["rule_id"]]
        answer: dict[str, Any]
        try:
            request = SimRequest.from_record(call["request"])
            answer = {"reply": as_reply(function(request)).data}
            self._send(call, answer)
        except BaseException:  # that of pytest.fail is no Exception
            text = traceback.format_exc()
            self.failures.append(text)
            self._send(call, {"error": text}, quietly=True)

    def _send(self, call: dict[str, Any], answer: dict[str, Any], *, quietly: bool = False) -> None:
        try:
            self._control.call("POST", f"/sim/calls/{call['call_id']}", answer)
        except SimulatorError:
            pass  # whoever asked has gone, or the simulator has: nobody misses the answer
        except ValueError:
            if not quietly:
                raise
