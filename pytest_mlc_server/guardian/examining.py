"""Examinations of a server that is ready: who asked, what is running, what came of it."""

from __future__ import annotations

from pytest_mlc_server.guardian.check import READY as WORKING
from pytest_mlc_server.guardian.check import WEDGED, Check, verify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_mlc_server.guardian.holder import Holder
    from pytest_mlc_server.guardian.loop import Loop


class Examiner:
    """Answers holders who ask whether the server works.

    Parameters
    ----------
    loop
        The loop.

    Attributes
    ----------
    examined
        Whether nobody has to look whether the server still works: it has just become ready, or was
        examined since somebody attached to it after it had waited.
    waited
        How long it had waited for its latest user, in seconds; None if it had not.
    """

    def __init__(self, loop: Loop) -> None:
        self.examined = True
        self.waited: float | None = None
        self._loop = loop
        self._check: Check | None = None
        self._askers: list[Holder] = []
        self._verifiers: list[Holder] = []
        self._last_request = ""

    def on_start(self, state: str) -> None:
        """Tell those who wait for an answer that the server is started again."""
        self._answer(state)

    def on_ready(self) -> None:
        """Begin anew with a server that has become ready."""
        self._check, self.examined = None, True

    def request(self) -> str:
        """Return the last request of a client: those of an examination are our own."""
        return self._loop.reader.last_request if self._check is None else self._last_request

    def begin_check(self, holder: Holder, deadline: float) -> None:
        """Answer whether the server works, from what is known if that is enough."""
        loop = self._loop
        if loop.works:
            loop.reader.read()
            if loop.reader.died:
                loop.wedged(loop.reader.died)
        if not loop.works or loop.address is None:
            holder.send(event="checked", state=loop.state)
            return
        self._askers.append(holder)
        if self._check is None:
            self._last_request = loop.reader.last_request
            expected, log = loop.told["expected"], loop.order.log
            self._check = Check(
                loop.address, expected, log, deadline, self._has_ended, self._on_verdict
            )

    def _has_ended(self) -> bool:
        return self._loop.returncode is not None

    def _on_verdict(self, check: Check, verdict: str, evidence: str) -> None:
        """Take a verdict from the thread of the check to that of the loop."""
        self._loop.alarm.call(lambda: self._checked(check, verdict, evidence))

    def _checked(self, check: Check, verdict: str, evidence: str) -> None:
        if check is not self._check:
            return  # of a server that has been started again since: its askers were answered
        loop = self._loop
        if loop.works:
            loop.reader.read()
            if verdict == WEDGED or loop.reader.died:
                loop.wedged(loop.reader.died or evidence)
        self._check = None
        self._answer(verdict if loop.works and verdict != WORKING else loop.state)

    def _answer(self, state: str) -> None:
        askers, self._askers = self._askers, []
        for holder in askers:
            holder.send(event="checked", state=state)

    def begin_verify(self, holder: Holder, deadline: float, *, reset: bool) -> None:
        """Answer whether this is still the server that became ready, and works."""
        loop = self._loop
        if not loop.works or loop.address is None:
            holder.send(event="verified", problem=f"it is {loop.state}")
            return
        if self.examined:
            holder.send(event="verified", problem="")
            return
        self._verifiers.append(holder)
        if len(self._verifiers) > 1:
            return  # all who came to a server that had waited hear of the same examination

        def done(problem: str) -> None:
            loop.alarm.call(lambda: self._verified(problem))

        verify(
            loop.address, loop.told["expected"], deadline, done, reset=reset, root=loop.starter.root
        )

    def _verified(self, problem: str) -> None:
        self.examined = not problem and self._loop.works
        verifiers, self._verifiers = self._verifiers, []
        for holder in verifiers:
            holder.send(event="verified", problem=problem)
