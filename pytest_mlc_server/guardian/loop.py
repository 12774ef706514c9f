"""The keeper's loop: events in, decisions out. It is the only thread that decides."""

from __future__ import annotations

import os
import selectors
import shutil
import time

from pytest_mlc_server import logs
from pytest_mlc_server.guardian import files
from pytest_mlc_server.guardian.alarm import Alarm
from pytest_mlc_server.guardian.desk import Desk
from pytest_mlc_server.guardian.examining import Examiner
from pytest_mlc_server.guardian.holder import LOOK_EVERY as LOOK_FOR_HOLDER_EVERY
from pytest_mlc_server.guardian.holders import Holders
from pytest_mlc_server.guardian.memory import Memory
from pytest_mlc_server.guardian.spawn import Order
from pytest_mlc_server.guardian.start import MESSAGE_GRACE
from pytest_mlc_server.guardian.starter import Starter
from pytest_mlc_server.guardian.stop import Stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    import psutil

    from pytest_mlc_server.guardian.building import Build
    from pytest_mlc_server.guardian.forked import Forked

STARTING, READY, WEDGED, EXITED, STOPPING = "starting", "ready", "wedged", "exited", "stopping"

#: How often the log of a server that is ready is looked at, in seconds: one system call.
READ_EVERY = 0.1

#: The same while nobody holds the server.
READ_IDLE_EVERY = 0.5


class Loop:
    """One server's life.

    Parameters
    ----------
    lease
        Descriptor of the first lease.
    order
        What was executed.
    pid
        The server, or 0 if it could not be executed, or must wait for another's build.
    began
        When it was executed, on the monotonic clock.
    problem
        Why it could not be executed.
    doors
        Descriptor of the socket where others may ask for a lease, if they may.
    build
        What the server may compile or download; None for nothing.
    forked
        The server, where a warm parent was asked for it.
    held
        Descriptors that are open for as long as anything of the server is left.
    """

    def __init__(
        self,
        lease: int,
        order: Order,
        pid: int,
        began: float,
        problem: str = "",
        doors: Sequence[int] = (),
        build: Build | None = None,
        forked: Forked | None = None,
        held: Sequence[int] = (),
    ) -> None:
        self.state = STARTING
        self.pid = pid
        self.returncode: int | None = None
        self.finished = False
        self.order = order
        self.told: dict[str, Any] = {}
        self.doors = doors
        self.share: dict[str, Any] = {}
        self.generation = 0
        self.ready: dict[str, Any] = {}
        self.started_at = time.time()
        self.memory = Memory()
        self.stopping: Stop | None = None
        self.then: Callable[[], None] = self._finish
        self.address: tuple[str, int] | None = None
        self._died_at = 0.0
        self.discard = ""
        self.keep_log = self.failed = False
        self.leaving = False
        self._serving: psutil.Process | None = None
        self._selector = selectors.DefaultSelector()
        self.desk, self.examiner = Desk(self), Examiner(self)
        self.holders = Holders(self._selector, self.desk.on_message, self.desk.on_nobody)
        self._first = self.holders.first(lease)
        self.reader = logs.LogReader(order.log)
        self.alarm = Alarm(self._selector)
        self.starter = Starter(self, self._selector, began, problem, build, forked, held)
        self.memory.root = lambda: self.starter.root

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until the server and all of its tree are gone and nobody waits for news."""
        while not self.finished:
            for key, _ in self._selector.select(self._pause()):
                key.data()
            self._reap()
            self.alarm.hear()
            if self.alarm.signalled:
                self.alarm.signalled = False
                self.begin_stop()
            self._tick()
        self.holders.close()
        self._leave_no_file()

    def _leave_no_file(self) -> None:
        files.remove_words(self.order.log)
        files.remove(self.share.get("files", []))
        # What a warm parent says is said again by the server that is launched in its place.
        if self.discard and (not self.keep_log or self.told["forks"]):
            shutil.rmtree(self.discard, ignore_errors=True)
        run = self.share.get("run", "")
        if run and not self.failed and not self.holders.of_a_run:
            files.remove_run(run)

    def _pause(self) -> float | None:
        if self.stopping is not None:
            return self.stopping.pause()
        if (pause := self.starter.pause()) is not None:
            return pause
        if self.state == READY:
            return READ_EVERY if self.holders.idle_since is None else READ_IDLE_EVERY
        return LOOK_FOR_HOLDER_EVERY if self.holders.must_be_looked_for else None

    def _tick(self) -> None:
        if self.stopping is None:
            if self.holders.must_be_looked_for:
                self.holders.look()
            since = self.holders.idle_since if self.state == READY else None
            if since is not None and time.monotonic() - since >= self.desk.linger:
                self.begin_stop()
            if self.returncode is None:  # the number of one that ended may be another's
                self.memory.look(self.pid, idle=since is not None)
        # After all that may begin a stop: its first signal waits for the next event otherwise.
        if self.stopping is not None:
            self._advance_stop(self.stopping)
        elif not self.starter.look() and self.state == READY:
            self._watch_log()

    # --- the start --------------------------------------------------------------------------------

    def on_starting(self) -> None:
        """Forget the server that was: another start begins."""
        self.state, self.returncode, self._died_at = STARTING, None, 0.0
        self._serving = None
        self.examiner.on_start(STARTING)

    def on_ready(self, outcome: dict[str, Any], serving: psutil.Process | None) -> None:
        """Tell the holders of a server that has become ready."""
        self.state, self._serving = READY, serving
        self.address = (outcome["address"], outcome["port"])
        self.examiner.on_ready()
        self.ready = {**outcome, "pid": self.pid, "generation": self.generation}
        self.ready["launched_at"] = time.time() - outcome["seconds"]
        self.holders.tell(**self.ready)
        self.memory.sample(self.pid)

    def on_failed(self, outcome: dict[str, Any]) -> None:
        """End what a start that failed has left; the holders hear of it when nothing is left."""
        self.leaving, self.then = True, lambda: self._fail(outcome)
        self.stop_tree(0.0)

    def _fail(self, outcome: dict[str, Any]) -> None:
        self.failed = True
        failure = {**outcome, "returncode": self.returncode, "log": self.order.log}
        self.keep_log = True
        if self.share.get("failure"):
            # Before the door closes: who comes after that must find out that it was tried.
            files.write(self.share["failure"], failure)
        self.holders.tell(**failure)
        self._finish()

    # --- a server that is ready -------------------------------------------------------------------

    @property
    def works(self) -> bool:
        """Whether the server is ready, and nothing shows that it does not work."""
        return self.state == READY

    def _watch_log(self) -> None:
        self.reader.read()
        if not self.reader.died:
            return
        now = time.monotonic()
        self._died_at = self._died_at or now
        if now - self._died_at > MESSAGE_GRACE:
            self.wedged(self.reader.died)

    def wedged(self, evidence: str) -> None:
        """End a server whose engine is dead."""
        self.state, self.keep_log = WEDGED, True
        self.holders.tell(event="wedged", evidence=evidence, request=self.examiner.request())
        # At once, and not in order: it would ignore that, and whoever waits for an answer from it
        # is better served by a closed connection.
        self.then = self._after_death
        self.stop_tree(0.0)

    def _after_death(self) -> None:
        """Wait for what the holders want; without any there is nothing to wait for."""
        if self.holders.idle_since is not None or self.told.get("forks"):
            self._finish()

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

    def _exited(self, returncode: int, evidence: str = "") -> None:
        self.returncode = returncode
        if self.stopping is not None:
            return
        self.reader.read()
        if not self.starter.exited(self.reader.died or evidence) and self.state in (READY, WEDGED):
            self.state, self.keep_log = EXITED, True
            more = {"evidence": evidence} if evidence else {}
            self.holders.tell(
                event="exited", returncode=returncode, request=self.examiner.request(), **more
            )
            # Its workers may live on, and hold the GPU's memory.
            self.then = self._after_death
            self.stop_tree(0.0)

    def lost(self, returncode: int, evidence: str) -> None:
        """Hear of the end of a server that is not a child of this process."""
        if self.returncode is None and self.pid:
            self._exited(returncode, evidence)

    def retire(self, message: dict[str, Any]) -> None:
        """Give a warm parent that forks nothing any more to nobody; its servers keep it."""
        self.holders.close_door()
        files.remove(self.share.get("files", []))
        self.share["linger"], self.leaving = 0.0, True
        self.holders.tell(**message)
        if self.holders.idle_since is not None:
            self.begin_stop()

    def begin_stop(self, timeout: float | None = None) -> None:
        """Begin to stop the server's tree and then the keeper.

        Parameters
        ----------
        timeout
            Total time limit in seconds; None takes the holder's `stop_timeout`. A second call can
            only shorten it.
        """
        self.leaving, self.then = True, self._finish
        self.holders.close_door()
        self.stop_tree(self.told.get("stop_timeout", 0.0) if timeout is None else timeout)

    def stop_tree(self, timeout: float) -> None:
        """Begin to stop the server's tree; what follows is in `then`."""
        self.starter.cancel()
        if self.stopping is None:
            if self.returncode is None and self.pid:
                self.memory.sample(self.pid)
            mark = self.told.get("mark", "")
            self.stopping = Stop(self.pid, mark, timeout, self._serving, self.starter.forked)
        else:
            self.stopping.hurry(timeout)

    def _advance_stop(self, stop: Stop) -> None:
        if not stop.advance(alive=bool(self.pid) and self.returncode is None):
            return
        self.stopping = None
        self.starter.leave_build()  # not before: what it compiles with is gone only now
        then, self.then = self.then, self._finish
        self.holders.tell(
            event="ended",
            returncode=self.returncode,
            by=stop.by,
            left=stop.left,
            memory=self.memory.told(),
        )
        then()

    def _finish(self) -> None:
        self.state = STOPPING
        self.holders.close_door()
        self.holders.tell(event="stopped")
        self.finished = True
