"""The keeper's loop: events in, decisions out. It is the only thread that decides."""

from __future__ import annotations

import os
import queue
import selectors
import shutil
import signal
import socket
import time

from pytest_mlc_server import logs
from pytest_mlc_server.guardian.check import READY as WORKING
from pytest_mlc_server.guardian.check import Check
from pytest_mlc_server.guardian.holder import LOOK_EVERY as LOOK_FOR_HOLDER_EVERY
from pytest_mlc_server.guardian.holder import Holder, checked, seconds
from pytest_mlc_server.guardian.spawn import Order, SpawnError, spawn
from pytest_mlc_server.guardian.start import MESSAGE_GRACE, Start
from pytest_mlc_server.guardian.stop import Stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    import psutil

STARTING, READY, WEDGED, EXITED, STOPPING = "starting", "ready", "wedged", "exited", "stopping"

#: How often the log of a server that is ready is looked at, in seconds: one system call.
READ_EVERY = 0.1


class Loop:
    """One server's life.

    Parameters
    ----------
    lease
        Descriptor of the first lease.
    order
        What was executed.
    pid
        The server, or 0 if it could not be executed.
    began
        When it was executed, on the monotonic clock.
    problem
        Why it could not be executed.
    """

    def __init__(self, lease: int, order: Order, pid: int, began: float, problem: str = "") -> None:
        self.state = STARTING
        self.pid = pid
        self.returncode: int | None = None
        self.finished = False
        self._order = order
        self._began = began
        self._problem = problem
        self._told: dict[str, Any] = {}
        self._start: Start | None = None
        self._stop: Stop | None = None
        self._then: Callable[[], None] = self._finish
        self._address: tuple[str, int] | None = None
        self._died_at = 0.0
        self._check: Check | None = None
        self._last_request = ""
        self._discard = ""
        self._leaving = False
        self._serving: psutil.Process | None = None
        self._signalled = False
        self._news: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._holder = Holder(lease, self._selector, self._on_message, self.begin_stop)
        self._reader = logs.LogReader(order.log)
        self._waker = self._prepare_wakeup()

    def _prepare_wakeup(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        self._sleeper = ours
        self._selector.register(ours, selectors.EVENT_READ, self._drain_wakeup)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # its byte on the socket is what counts
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        return theirs

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signalled = True  # acted on in the loop: a handler may interrupt any line

    def _drain_wakeup(self) -> None:
        try:
            while self._sleeper.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _wake(self) -> None:
        try:
            self._waker.send(b"!")
        except BlockingIOError:
            pass  # so many wake-ups wait already that this one is not needed

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until the server and all of its tree are gone and nobody waits for news."""
        while not self.finished:
            for key, _ in self._selector.select(self._pause()):
                key.data()
            self._reap()
            while not self._news.empty():
                self._news.get()()
            if self._signalled:
                self._signalled = False
                self.begin_stop()
            self._tick()
        self._holder.close()
        words = logs.words_path(self._order.log)
        if logs.size(words) == 0:
            try:
                os.unlink(words)
            except OSError:
                pass
        if self._discard:
            shutil.rmtree(self._discard, ignore_errors=True)

    def _pause(self) -> float | None:
        if self._stop is not None:
            return self._stop.pause()
        if self._start is not None:
            return self._start.pause()
        if self.state == READY:
            return READ_EVERY
        return LOOK_FOR_HOLDER_EVERY if self._holder.must_be_looked_for else None

    def _tick(self) -> None:
        if self._holder.must_be_looked_for and self._stop is None:
            self._holder.look()
        if self._stop is not None:
            self._advance_stop(self._stop)
        elif self._start is not None:
            self._advance_start(self._start)
        elif self.state == READY:
            self._watch_log()

    # --- messages of the holder -------------------------------------------------------------------

    def _on_message(self, message: dict[str, Any]) -> None:
        try:
            self._obey(message)
        except (KeyError, TypeError, ValueError, OverflowError):
            self._holder.lose()  # whoever sent this holds no lease of ours

    def _obey(self, message: dict[str, Any]) -> None:
        operation = message.get("op")
        if not self._told:
            holders = checked(message)
            self._told = message
            for pid, start in holders:
                self._holder.watch_process(pid, start)
            self._begin_start()
        elif operation == "stop":
            timeout = seconds(message["timeout"])
            self._discard = str(message.get("discard") or "")
            self.begin_stop(timeout)
        elif operation == "check":
            self._begin_check(seconds(message["deadline"]))
        elif operation == "restart" and not self._leaving:
            timeout, port = seconds(message["timeout"]), int(message["port"])
            reason = str(message["reason"])
            # Also while what a server that died has left is being ended.
            self._then = lambda: self._respawn(port, reason)
            self._begin_stop(timeout)

    # --- the start --------------------------------------------------------------------------------

    def _begin_start(self) -> None:
        self.state, self.returncode, self._died_at = STARTING, None, 0.0
        self._serving = None
        self._holder.send(event="spawned", pid=self.pid, keeper=os.getpid())
        self._start = Start(
            self.pid,
            self._began,
            self._told,
            self._reader,
            self._wake,
            lambda phase: self._holder.send(event="phase", phase=phase),
        )
        if self._problem:
            self._start.fail("spawn", self._problem)
            self._advance_start(self._start)

    def _advance_start(self, start: Start) -> None:
        start.look()
        outcome = start.outcome
        if outcome is None:
            return
        start.close()
        self._start = None
        if outcome["event"] == "ready":
            self.state, self._check, self._serving = READY, None, start.serving
            self._address = (outcome["address"], outcome["port"])
            self._holder.send(**outcome)
            return
        # The holder hears of a failure when nothing of it is left.
        self._leaving, self._then = True, lambda: self._fail(outcome)
        self._begin_stop(0.0)

    def _fail(self, outcome: dict[str, Any]) -> None:
        self._holder.send(**outcome, returncode=self.returncode)
        self._finish()

    def _respawn(self, port: int, reason: str) -> None:
        """Start the server again, in the same log, on the port that the holder wishes."""
        order, self._problem = self._order, ""
        with open(order.log, "a", encoding="utf-8", errors="replace") as log:
            log.write(f"\n--- {reason}; started again ---\n")
        self._reader = logs.LogReader(order.log, logs.size(order.log))
        order.set_port(port)
        self._told["port"] = port
        try:
            self.pid = spawn(order)
        except SpawnError as error:
            self.pid, self._problem = 0, str(error)
        self._began = time.monotonic()
        self._begin_start()

    # --- a server that is ready -------------------------------------------------------------------

    def _watch_log(self) -> None:
        self._reader.read()
        if not self._reader.died:
            return
        now = time.monotonic()
        self._died_at = self._died_at or now
        if now - self._died_at > MESSAGE_GRACE:
            self._wedged(self._reader.died)

    def _wedged(self, evidence: str) -> None:
        self.state = WEDGED
        self._holder.send(event="wedged", evidence=evidence, request=self._request())
        # At once, and not in order: it would ignore that, and whoever waits for an answer from it
        # is better served by a closed connection.
        self._then = lambda: None
        self._begin_stop(0.0)

    def _request(self) -> str:
        """Return the last request of a client: those of an examination are our own."""
        return self._reader.last_request if self._check is None else self._last_request

    def _begin_check(self, deadline: float) -> None:
        """Answer whether the server works, from what is known if that is enough."""
        if self.state == READY:
            self._reader.read()
            if self._reader.died:
                self._wedged(self._reader.died)
        if self.state != READY or self._address is None:
            self._holder.send(event="checked", state=self.state)
        elif self._check is None:
            self._last_request = self._reader.last_request
            self._check = Check(
                self._address, self._told["expected"], self._order.log, deadline, self._on_verdict
            )

    def _on_verdict(self, check: Check, verdict: str, evidence: str) -> None:
        """Take a verdict from the thread of the check to this one."""
        self._news.put(lambda: self._checked(check, verdict, evidence))
        self._wake()

    def _checked(self, check: Check, verdict: str, evidence: str) -> None:
        if check is not self._check:
            return  # of a server that has been started again since
        if self.state == READY:
            self._reader.read()
            if verdict == WEDGED or self._reader.died:
                self._wedged(self._reader.died or evidence)
        self._check = None
        state = verdict if self.state == READY and verdict != WORKING else self.state
        self._holder.send(event="checked", state=state)

    # --- the end ----------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid and self.returncode is None:
                self._exited(os.waitstatus_to_exitcode(status))

    def _exited(self, returncode: int) -> None:
        self.returncode = returncode
        if self._stop is not None:
            return
        self._reader.read()
        if self._start is not None:
            self._start.fail("exited", self._reader.died)
        elif self.state in (READY, WEDGED):
            self.state = EXITED
            self._holder.send(event="exited", returncode=returncode, request=self._request())
            # Its workers may live on, and hold the GPU's memory.
            self._then = lambda: None
            self._begin_stop(0.0)

    def begin_stop(self, timeout: float | None = None) -> None:
        """Begin to stop the server's tree and then the keeper.

        Parameters
        ----------
        timeout
            Total time limit in seconds; None takes the holder's `stop_timeout`. A second call can
            only shorten it.
        """
        self._leaving, self._then = True, self._finish
        self._begin_stop(self._told.get("stop_timeout", 0.0) if timeout is None else timeout)

    def _begin_stop(self, timeout: float) -> None:
        if self._start is not None:
            self._start.close()
            self._start = None
        if self._stop is None:
            self._stop = Stop(self.pid, self._told.get("mark", ""), timeout, self._serving)
        else:
            self._stop.hurry(timeout)

    def _advance_stop(self, stop: Stop) -> None:
        if not stop.advance(alive=bool(self.pid) and self.returncode is None):
            return
        self._stop = None
        then, self._then = self._then, self._finish
        self._holder.send(event="ended", returncode=self.returncode, by=stop.by, left=stop.left)
        then()

    def _finish(self) -> None:
        self.state = STOPPING
        self._holder.send(event="stopped")
        self.finished = True
