"""One request on its way: what it is answered with, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse, Response

from pytest_mlc_server.sim.calls import CallFailedError
from pytest_mlc_server.sim.latency import RequestLatency, request_latency
from pytest_mlc_server.sim.matching import choose
from pytest_mlc_server.sim.replies import default_source, source_of
from pytest_mlc_server.sim.rule_base import ANSWERING, ENDPOINTS, GENERATING
from pytest_mlc_server.sim.rule_replies import happens_within

if TYPE_CHECKING:
    from pytest_mlc_server.sim.connection import Connection
    from pytest_mlc_server.sim.door import Door, Epoch
    from pytest_mlc_server.sim.matching import Choice, Question, RuleState
    from pytest_mlc_server.sim.records import Entry
    from pytest_mlc_server.sim.rule_faults import Fault
    from pytest_mlc_server.sim.rule_replies import Reply
    from pytest_mlc_server.sim.sources import Source


@dataclass
class Turn:
    """One request.

    Attributes
    ----------
    door : Door
        Through which it came.
    epoch : Epoch
        In which it came.
    entry : Entry
        Its record.
    connection : Connection
        Over which it came.
    number : int
        Which one it is in its epoch.
    reply : Reply, optional
        What a rule says.
    fault : Fault, optional
        What goes wrong.
    latency : RequestLatency, optional
        How long it takes.
    failure : Response, optional
        The answer, where there can be no other.
    """

    door: Door
    epoch: Epoch
    entry: Entry
    connection: Connection
    number: int
    reply: Reply | None = None
    fault: Fault | None = None
    latency: RequestLatency | None = None
    failure: Response | None = None

    @property
    def question(self) -> Question:
        """The request."""
        return self.entry.question

    @property
    def source(self) -> Source:
        """Where the text of the answer comes from."""
        if self.reply is None:
            return default_source(self.epoch.default, self.question)
        return source_of(self.reply, self.question, self.epoch.default)

    async def decide(self) -> None:
        """Find out what the request is answered with, and what goes wrong."""
        self.fault = self.epoch.draw_fault(self.question)
        if self.fault is None or happens_within(self.fault):
            choice = choose(self.epoch.all_rules(), self.question)
            if choice.state is not None and choice.reply is not None:
                await self._follow(choice.state, choice.reply)
            elif self.question.path in ANSWERING and self.question.method == "POST":
                self._nothing_matches(choice)
        if self.entry.rule is None and self.question.path in ANSWERING:
            self.latency = request_latency(self.epoch.latency, self.number)
        self.entry.fault = None if self.fault is None else self.fault.kind
        if self._waits_here():
            await self.wait()

    async def wait(self) -> None:
        """Wait as long as a first token would take."""
        if self.latency is not None:
            await asyncio.sleep(self.latency.first_token(0, 1))

    def _waits_here(self) -> bool:
        """Tell whether no engine takes the time that an answer has to take."""
        if self.question.path == ENDPOINTS["embeddings"]:
            return self.fault is None or happens_within(self.fault) or self.entry.rule is not None
        if self.entry.rule is None:
            return False
        engine_answers = self.fault is None or happens_within(self.fault)
        return self.question.path not in GENERATING or not engine_answers

    def _nothing_matches(self, choice: Choice) -> None:
        self.entry.reasons = choice.reasons
        if self.epoch.default.default == "fail":
            self.entry.refused = True
            self.failure = _error(complaint(self.entry))

    async def _follow(self, state: RuleState, reply: Reply) -> None:
        self.reply = reply
        self.entry.rule = state.id
        own = state.rule.latency
        if own is not None or self.question.path in ANSWERING:
            self.latency = request_latency(self.epoch.latency if own is None else own, self.number)
        if reply.function:
            calls, ended = self.epoch.calls, self.connection.ended
            try:
                self.reply = await calls.ask(state.title, self.entry, reply.timeout, ended)
            except CallFailedError as error:
                self.failure = _error(str(error))
                return
        self.fault = self.fault or self.reply.fault or reply.fault


def _error(message: str) -> Response:
    # Half a surrogate pair is a text for JSON, and none for UTF-8.
    text = message.encode("utf-8", "backslashreplace").decode()
    return JSONResponse({"object": "error", "message": text, "code": 500}, status_code=500)


def complaint(entry: Entry) -> str:
    """Say what was asked, and why no rule was for it."""
    question = entry.question
    asked = question.last_message
    said = "(no message)" if asked is None else json.dumps(asked, ensure_ascii=False)
    lines = [f"The simulator has no rule for {entry.question.method} {question.path}: {said}"]
    lines += [f"- {rule}: {reason}" for rule, reason in entry.reasons or ()]
    if not entry.reasons:
        lines.append("There are no rules.")
    return "\n".join(lines)
