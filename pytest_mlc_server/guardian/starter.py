"""How the loop's server comes to be: executed or forked, and followed until it is ready."""

from __future__ import annotations

import os
import time

from pytest_mlc_server import logs
from pytest_mlc_server.guardian.spawn import SpawnError, spawn
from pytest_mlc_server.guardian.start import Start

TYPE_CHECKING = False
if TYPE_CHECKING:
    import selectors
    from collections.abc import Sequence

    from pytest_mlc_server.guardian.adoption import Adoption
    from pytest_mlc_server.guardian.building import Build, Turn
    from pytest_mlc_server.guardian.forked import Forked
    from pytest_mlc_server.guardian.importing import Importing
    from pytest_mlc_server.guardian.loop import Loop


class Starter:
    """Starts the server, waits for its turn before that, and tells the loop what came of it.

    Parameters
    ----------
    loop
        The loop.
    selector
        Where to wait for a warm parent.
    began
        When the server was executed, on the monotonic clock.
    problem
        Why it could not be executed.
    build
        What the server may compile or download; None for nothing.
    forked
        The server, where a warm parent was asked for it.
    held
        Descriptors that are open for as long as anything of the server is left.
    """

    def __init__(
        self,
        loop: Loop,
        selector: selectors.BaseSelector,
        began: float,
        problem: str,
        build: Build | None,
        forked: Forked | None,
        held: Sequence[int],
    ) -> None:
        self.adoption: Adoption | None = None
        self._loop = loop
        self._selector = selector
        self._began = began
        self._problem = problem
        self._build = build
        self._held = held
        self._start: Start | Importing | None = None
        self._turn: Turn | None = None
        self._phases: dict[str, float] = {}
        if forked is not None:
            self._adopt(forked)

    @property
    def root(self) -> int:
        """The process below which the server's tree is."""
        return os.getpid() if self.adoption is None else self.adoption.root

    @property
    def forked(self) -> Forked | None:
        """The server, if a warm parent forked it or was asked for it."""
        return None if self.adoption is None else self.adoption.server

    # --- beginning --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Follow the start of a server that has been executed, or wait until it may be."""
        self._loop.on_starting()
        if self.adoption is not None and self.adoption.server is not None:
            self.adoption.follow()
        elif self._build is not None and not self._loop.pid and not self._problem:
            self._turn = self._build.turn(self._loop.holders.tell, self._loop.order.log)
        else:
            self._follow()

    def begin_again(self, port: int, reason: str) -> None:
        """Start the server again, in the same log, on the port that the holder wishes."""
        loop, order = self._loop, self._loop.order
        self._problem = ""
        with open(order.log, "a", encoding="utf-8", errors="replace") as log:
            log.write(f"\n--- {reason}; started again ---\n")
        loop.reader = logs.LogReader(order.log, logs.size(order.log))
        order.set_port(port)
        loop.told["port"] = port
        loop.pid = 0
        if self.adoption is not None:
            self.adoption.end()
        if (self._build is None or self._build.enter()) and not self._execute():
            loop.on_starting()
            return
        self.begin()

    def _execute(self) -> bool:
        """Have the server executed, or asked for; tell whether it is there already."""
        try:
            if self._loop.order.parent:
                from pytest_mlc_server.guardian.forked import launch

                self._loop.pid, forked = launch(self._loop.order, self._held)
                if forked is not None:
                    self._adopt(forked).follow()
                    return False
            else:
                self._loop.pid = spawn(self._loop.order)
        except SpawnError as error:
            self._problem = str(error)
        self._began = time.monotonic()
        return True

    def _adopt(self, forked: Forked) -> Adoption:
        if self.adoption is None:
            from pytest_mlc_server.guardian.adoption import Adoption

            self.adoption = Adoption(self._loop, self._selector)
        self.adoption.begin(forked)
        return self.adoption

    def follow_fork(self, pid: int, began: float, problem: str, waited: float) -> None:
        """Follow the start of a server that was asked for, once it is forked or executed."""
        from pytest_mlc_server.guardian.forked import WAITING

        self._loop.pid, self._began, self._problem = pid, began, problem
        self._phases[WAITING] = waited
        if self._loop.stopping is None:
            self._follow(waited)

    def _follow(self, waited: float = 0.0) -> None:
        loop = self._loop
        loop.holders.tell(event="spawned", pid=loop.pid, keeper=os.getpid())
        if loop.told["forks"]:
            from pytest_mlc_server.guardian.importing import Importing

            self._start = Importing(
                loop.told, loop.order.log, self._began, self._selector, loop.retire
            )
        else:
            self._start = Start(
                loop.pid,
                self._began,
                loop.told,
                loop.reader,
                loop.alarm.ring,
                lambda phase: loop.holders.tell(event="phase", phase=phase),
                root=self.root,
                waited=waited,
            )
        phases, self._phases = self._phases, {}
        self._start.phases.update(phases)
        if self._problem:
            self._start.fail("spawn", self._problem)
            self._look_at(self._start)

    # --- what comes of it -------------------------------------------------------------------------

    def pause(self) -> float | None:
        """Return how long to wait before `look`, in seconds; None if nothing is starting."""
        if self._start is not None:
            return self._start.pause()
        if self._turn is not None:
            return self._turn.pause
        if self.adoption is not None and self.adoption.awaited:
            return self.adoption.pause()
        return None

    def look(self) -> bool:
        """Look how far the start has come; tell whether there was one."""
        if self._start is not None:
            self._look_at(self._start)
        elif self._turn is not None:
            self._await_turn(self._turn)
        elif self.adoption is not None and self.adoption.awaited:
            self.adoption.look()
        else:
            return False
        return True

    def _await_turn(self, turn: Turn) -> None:
        if turn.has_come():
            self._turn = None
            self._phases = turn.phases
            if self._execute():
                self._follow()

    def _look_at(self, start: Start | Importing) -> None:
        start.look()
        outcome, loop = start.outcome, self._loop
        if self._build is not None:
            ready = outcome is not None and outcome["event"] == "ready"
            self._build.look(loop.reader, loop.told["build"], loop.order.cwd, ready=ready)
        if outcome is None:
            return
        start.close()
        self._start = None
        if outcome["event"] == "ready":
            loop.on_ready(outcome, start.serving)
        else:
            loop.on_failed(outcome)

    def exited(self, evidence: str) -> bool:
        """End a start whose server has ended; tell whether there was one."""
        if self._start is None:
            return False
        self._start.fail("exited", evidence)
        return True

    def cancel(self) -> None:
        """Follow no start any more: the server is being stopped."""
        if self._start is not None:
            self._start.close()
            self._start = None
        self._turn = None

    def leave_build(self) -> None:
        """Let others compile: nothing is left of the server."""
        if self._build is not None:
            self._build.leave()
