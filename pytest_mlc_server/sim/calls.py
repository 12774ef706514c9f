"""Requests that a function of the test answers: handed out by a long poll, answered by another."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.sim.rule_wire import Call

if TYPE_CHECKING:
    from pytest_mlc_server.sim.records import Entry
    from pytest_mlc_server.sim.rule_replies import Reply
    from pytest_mlc_server.sim.rule_wire import CallAnswer


class CallFailedError(RuntimeError):
    """The function gave no reply; says why."""


@dataclass
class _Pending:
    """A call that waits for its answer."""

    call_id: str
    rule: str
    entry: Entry
    answer: asyncio.Future[CallAnswer]


class Calls:
    """The calls of one epoch of a door."""

    _numbers = itertools.count(1)

    def __init__(self) -> None:
        self._waiting: deque[_Pending] = deque()
        self._pending: dict[str, _Pending] = {}
        self._changed = asyncio.Event()
        self._closed = False

    async def ask(self, rule: str, entry: Entry, timeout: float, gone: asyncio.Event) -> Reply:
        """Have the test answer a request.

        Parameters
        ----------
        rule : str
            Whose function it is.
        entry : Entry
            The request.
        timeout : float
            How many seconds the function may take.
        gone : asyncio.Event
            Is set when nobody waits for the answer any more.

        Raises
        ------
        CallFailedError
            Nobody answered in time, the function raised an exception, or the test has ended.
        """
        if self._closed:
            raise CallFailedError(_ENDED)
        future: asyncio.Future[CallAnswer] = asyncio.get_running_loop().create_future()
        call = _Pending(f"call-{next(self._numbers)}", rule, entry, future)
        self._pending[call.call_id] = call
        self._waiting.append(call)
        self._wake()
        left = asyncio.ensure_future(gone.wait())
        waited: set[asyncio.Future[Any]] = {future, left}
        try:
            await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            self._forget(call)
        if not future.done():
            raise CallFailedError(f"the function of {rule} did not answer within {timeout:g} s")
        answer = future.result()
        if answer.reply is None:
            raise CallFailedError(f"the function of {rule} failed:\n{answer.error}")
        return answer.reply

    async def next(self) -> Call | None:
        """Wait for a call and hand it out; None when the test has ended."""
        while not self._waiting:
            if self._closed:
                return None
            await self._changed.wait()
        call = self._waiting.popleft()
        return Call.model_construct(
            call_id=call.call_id,
            rule_id=call.entry.rule or call.rule,
            request=call.entry.as_record(),
        )

    def answer(self, call_id: str, answer: CallAnswer) -> bool:
        """Answer a call; False when nobody waits for that any more."""
        call = self._pending.get(call_id)
        if call is None or call.answer.done():
            return False
        call.answer.set_result(answer)
        return True

    def close(self) -> None:
        """End: whoever waits is told so."""
        self._closed = True
        for call in list(self._pending.values()):
            if not call.answer.done():
                call.answer.set_exception(CallFailedError(_ENDED))
        self._wake()

    def _forget(self, call: _Pending) -> None:
        del self._pending[call.call_id]
        if call in self._waiting:
            self._waiting.remove(call)

    def _wake(self) -> None:
        # Whoever waits at this moment wakes up; who comes later looks before waiting.
        self._changed.set()
        self._changed = asyncio.Event()


_ENDED = "the test that would have answered with a function has ended"
