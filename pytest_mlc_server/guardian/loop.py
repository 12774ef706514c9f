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
from pytest_mlc_server.guardian import files
from pytest_mlc_server.guardian.desk import Desk
from pytest_mlc_server.guardian.examining import Examiner
from pytest_mlc_server.guardian.holder import LOOK_EVERY as LOOK_FOR_HOLDER_EVERY
from pytest_mlc_server.guardian.holders import Holders
from pytest_mlc_server.guardian.memory import Memory
from pytest_mlc_server.guardian.spawn import Order, SpawnError, spawn
from pytest_mlc_server.guardian.start import MESSAGE_GRACE, Start
from pytest_mlc_server.guardian.stop import Stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType
    from typing import Any

    import psutil

    from pytest_mlc_server.guardian.adoption import Adoption
    from pytest_mlc_server.guardian.building import Build, Turn
    from pytest_mlc_server.guardian.forked import Forked
    from pytest_mlc_server.guardian.importing import Importing

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
        self._began = began
        self._problem = problem
        self._build = build
        self._turn: Turn | None = None
        self._phases: dict[str, float] = {}
        self.told: dict[str, Any] = {}
        self.doors = doors
        self.share: dict[str, Any] = {}
        self.generation = 0
        self.ready: dict[str, Any] = {}
        self.started_at = time.time()
        self.memory = Memory()
        self._start: Start | Importing | None = None
        self.stopping: Stop | None = None
        self.then: Callable[[], None] = self._finish
        self.address: tuple[str, int] | None = None
        self._died_at = 0.0
        self.discard = ""
        self.keep_log = self.failed = False
        self.leaving = False
        self._serving: psutil.Process | None = None
        self._signalled = False
        self._news: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self.desk, self.examiner = Desk(self), Examiner(self)
        self.holders = Holders(self._selector, self.desk.on_message, self.desk.on_nobody)
        self._first = self.holders.first(lease)
        self.reader = logs.LogReader(order.log)
        self._waker = self._prepare_wakeup()
        self._held = held
        self.adoption: Adoption | None = None
        self.memory.root = lambda: self.root
        if forked is not None:
            self._adopt(forked)

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

    def call(self, function: Callable[[], None]) -> None:
        """Have the loop call a function; for other threads."""
        self._news.put(function)
        self._wake()

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
        if self._start is not None:
            return self._start.pause()
        if self._turn is not None:
            return self._turn.pause
        if self.adoption is not None and self.adoption.awaited:
            return self.adoption.pause()
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
        elif self._start is not None:
            self._advance_start(self._start)
        elif self._turn is not None:
            self._await_turn(self._turn)
        elif self.adoption is not None and self.adoption.awaited:
            self.adoption.look()
        elif self.state == READY:
            self._watch_log()

    # --- the start --------------------------------------------------------------------------------

    def begin_start(self) -> None:
        """Follow the start of a server that has been executed, or wait until it may be."""
        self._reset()
        if self.adoption is not None and self.adoption.server is not None:
            self.adoption.follow()
        elif self._build is not None and not self.pid and not self._problem:
            self._turn = self._build.turn(self.holders.tell, self.order.log)
        else:
            self._follow_start()

    def _reset(self) -> None:
        self.state, self.returncode, self._died_at = STARTING, None, 0.0
        self._serving = None
        self.examiner.on_start(STARTING)

    def _await_turn(self, turn: Turn) -> None:
        if turn.has_come():
            self._turn = None
            self._phases = turn.phases
            if self._execute():
                self._follow_start()

    def _execute(self) -> bool:
        """Have the server executed, or asked for; tell whether it is there already."""
        try:
            if self.order.parent:
                from pytest_mlc_server.guardian.forked import launch

                self.pid, forked = launch(self.order, self._held)
                if forked is not None:
                    self._adopt(forked).follow()
                    return False
            else:
                self.pid = spawn(self.order)
        except SpawnError as error:
            self._problem = str(error)
        self._began = time.monotonic()
        return True

    def _follow_start(self, waited: float = 0.0) -> None:
        self.holders.tell(event="spawned", pid=self.pid, keeper=os.getpid())
        if self.told["forks"]:
            from pytest_mlc_server.guardian.importing import Importing

            self._start = Importing(
                self.told, self.order.log, self._began, self._selector, self._retire
            )
        else:
            self._start = Start(
                self.pid,
                self._began,
                self.told,
                self.reader,
                self._wake,
                lambda phase: self.holders.tell(event="phase", phase=phase),
                root=self.root,
                waited=waited,
            )
        phases, self._phases = self._phases, {}
        self._start.phases.update(phases)
        if self._problem:
            self._start.fail("spawn", self._problem)
            self._advance_start(self._start)

    def _advance_start(self, start: Start | Importing) -> None:
        start.look()
        outcome = start.outcome
        if self._build is not None:
            ready = outcome is not None and outcome["event"] == "ready"
            self._build.look(self.reader, self.told["build"], self.order.cwd, ready=ready)
        if outcome is None:
            return
        start.close()
        self._start = None
        if outcome["event"] == "ready":
            self.state, self._serving = READY, start.serving
            self.address = (outcome["address"], outcome["port"])
            self.examiner.on_ready()
            self.ready = {**outcome, "pid": self.pid, "generation": self.generation}
            self.ready["launched_at"] = time.time() - outcome["seconds"]
            self.holders.tell(**self.ready)
            self.memory.sample(self.pid)
            return
        # The holder hears of a failure when nothing of it is left.
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

    # --- a warm parent ----------------------------------------------------------------------------

    @property
    def root(self) -> int:
        """The process below which the server's tree is."""
        return os.getpid() if self.adoption is None else self.adoption.root

    def _adopt(self, forked: Forked) -> Adoption:
        if self.adoption is None:
            from pytest_mlc_server.guardian.adoption import Adoption

            self.adoption = Adoption(self, self._selector)
        self.adoption.begin(forked)
        return self.adoption

    def follow_fork(self, pid: int, began: float, problem: str, waited: float) -> None:
        """Follow the start of a server that was asked for, once it is forked or executed."""
        from pytest_mlc_server.guardian.forked import WAITING

        self.pid, self._began, self._problem = pid, began, problem
        self._phases[WAITING] = waited
        if self.stopping is None:
            self._follow_start(waited)

    def lost(self, returncode: int, evidence: str) -> None:
        """Hear of the end of a server that is not a child of this process."""
        if self.returncode is None and self.pid:
            self._exited(returncode, evidence)

    def _retire(self, message: dict[str, Any]) -> None:
        """Give a warm parent that forks nothing any more to nobody; its servers keep it."""
        self.holders.close_door()
        files.remove(self.share.get("files", []))
        self.share["linger"], self.leaving = 0.0, True
        self.holders.tell(**message)
        if self.holders.idle_since is not None:
            self.begin_stop()

    def respawn(self, port: int, reason: str) -> None:
        """Start the server again, in the same log, on the port that the holder wishes."""
        order, self._problem = self.order, ""
        with open(order.log, "a", encoding="utf-8", errors="replace") as log:
            log.write(f"\n--- {reason}; started again ---\n")
        self.reader = logs.LogReader(order.log, logs.size(order.log))
        order.set_port(port)
        self.told["port"] = port
        self.pid = 0
        if self.adoption is not None:
            self.adoption.end()
        if (self._build is None or self._build.enter()) and not self._execute():
            self._reset()
            return
        self.begin_start()

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
        if self._start is not None:
            self._start.fail("exited", self.reader.died or evidence)
        elif self.state in (READY, WEDGED):
            self.state, self.keep_log = EXITED, True
            more = {"evidence": evidence} if evidence else {}
            self.holders.tell(
                event="exited", returncode=returncode, request=self.examiner.request(), **more
            )
            # Its workers may live on, and hold the GPU's memory.
            self.then = self._after_death
            self.stop_tree(0.0)

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
        if self._start is not None:
            self._start.close()
            self._start = None
        self._turn = None
        if self.stopping is None:
            if self.returncode is None and self.pid:
                self.memory.sample(self.pid)
            forked = None if self.adoption is None else self.adoption.server
            mark = self.told.get("mark", "")
            self.stopping = Stop(self.pid, mark, timeout, self._serving, forked)
        else:
            self.stopping.hurry(timeout)

    def _advance_stop(self, stop: Stop) -> None:
        if not stop.advance(alive=bool(self.pid) and self.returncode is None):
            return
        self.stopping = None
        if self._build is not None:
            self._build.leave()  # not before: what it compiles with is gone only now
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
