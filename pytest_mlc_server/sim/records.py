"""What came in, and what became of it: kept for the test that asks."""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.sim.rule_wire import Reason, Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mlc_server.sim.matching import Question

#: How many records a door keeps, and how many bytes of bodies: the newest ones.
MAX_RECORDS = 10_000
MAX_BYTES = 64 * 2**20

#: How much of one body is kept.
MAX_BODY = 2**20


@dataclass
class Entry:
    """One record in the making.

    Attributes
    ----------
    id : int
        The request's number at its door.
    query : str
        As sent.
    question : Question
        The request.
    came : float
        When, in seconds since 1970.
    status : int, optional
        The status of the answer, once it has one.
    content_type : str
        Of the answer.
    answer : bytearray
        The body of the answer, as far as it was sent.
    finished : bool
        Whether it was sent to its end.
    began, ended : float, optional
        When the first byte of its body was sent, and when nothing more happened, in seconds since
        1970.
    rule, fault : str, optional
        The rule that matched and the fault that happened.
    reasons : list, optional
        Why no rule matched.
    refused : bool
        Whether the default, to fail, answered.
    size : int
        How many bytes of bodies it holds.
    dropped : bool
        Whether it had to make room for others.
    """

    id: int
    query: str
    question: Question
    came: float = field(default_factory=time.time)
    status: int | None = None
    content_type: str = ""
    answer: bytearray = field(default_factory=bytearray)
    finished: bool = False
    began: float | None = None
    ended: float | None = None
    rule: str | None = None
    fault: str | None = None
    reasons: list[tuple[str, str]] | None = None
    refused: bool = False
    size: int = 0
    dropped: bool = False

    def answered(self, message: Any) -> None:
        """Take in an ASGI message of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = dict(message.get("headers", ()))
            self.content_type = headers.get(b"content-type", b"").decode("latin-1")
        elif message["type"] == "http.response.body":
            if self.began is None and message.get("body"):
                self.began = time.time()
            self.answer += message.get("body", b"")[: max(0, MAX_BODY - len(self.answer))]
            self.finished = not message.get("more_body", False)

    def as_line(self) -> dict[str, Any]:
        """Return what a list of requests shows of it: no headers, no bodies."""
        ended, began = self.ended, self.began
        streamed = self.content_type.startswith("text/event-stream")
        return {
            "method": self.question.method,
            "path": f"{self.question.path}?{self.query}" if self.query else self.question.path,
            "status": self.status,
            "start": self.came,
            "seconds": None if ended is None else ended - self.came,
            "ttft_s": began - self.came if streamed and began is not None else None,
            "finished": self.finished,
            "client": self.question.headers.get("user-agent", ""),
        }

    def as_record(self) -> Record:
        """Return what a test sees."""
        question = self.question
        truncated = len(question.content) > MAX_BODY
        reasons = [Reason(rule=rule, reason=reason) for rule, reason in self.reasons or ()]
        return Record.model_construct(
            id=self.id,
            time=self.came,
            method=question.method,
            path=question.path,
            query=self.query,
            headers=question.headers,
            body=None if truncated else question.body,
            text=question.content[:MAX_BODY].decode("utf-8", "replace"),
            truncated=truncated,
            status=self.status,
            rule=self.rule,
            fault=self.fault,
            reply=reply_text(self.content_type, bytes(self.answer)),
            finished=self.finished,
            unmatched=None if self.reasons is None else reasons,
        )


class Records:
    """The newest requests of a door."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self.dropped = 0

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def since(self, moment: float, limit: int) -> list[Entry]:
        """Return the newest entries that came since a moment, oldest first."""
        newest = itertools.takewhile(lambda entry: entry.came >= moment, reversed(self._entries))
        return list(itertools.islice(newest, limit))[::-1]

    def add(self, entry: Entry) -> None:
        """Keep `entry`, and drop the oldest ones where there are too many."""
        self._entries.append(entry)
        self._grow(entry, len(entry.question.content))

    def end(self, entry: Entry) -> None:
        """Take note that nothing more happens to `entry`."""
        entry.ended = time.time()
        # What was parsed takes many times the memory of the text, and can be parsed again.
        entry.question.forget()
        self._grow(entry, len(entry.answer))

    def _grow(self, entry: Entry, size: int) -> None:
        if entry.dropped:
            return
        entry.size += size
        self._bytes += size
        while len(self._entries) > MAX_RECORDS or (self._bytes > MAX_BYTES and self._entries):
            oldest = self._entries.popleft()
            oldest.dropped = True
            self._bytes -= oldest.size
            self.dropped += 1


def reply_text(content_type: str, answer: bytes) -> str | None:
    """Return the text of the first choice of an answer, None where there is none.

    Parameters
    ----------
    content_type : str
        Of the answer.
    answer : bytes
        Its body, which may be cut off anywhere.
    """
    if content_type.startswith("text/event-stream"):
        events = answer.decode("utf-8", "replace").split("\n\n")
        texts = [_text_of(_json(event.removeprefix("data: "))) for event in events]
        said = [text for text in texts if text is not None]
        return "".join(said) if said else None
    if content_type.startswith("application/json"):
        return _text_of(_json(answer.decode("utf-8", "replace")))
    return None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _text_of(body: Any) -> str | None:
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list):
        return None
    for choice in choices:
        if isinstance(choice, dict) and choice.get("index") == 0:
            message = choice.get("message") or choice.get("delta") or choice
            if message.get("tool_calls"):
                return json.dumps(message["tool_calls"], ensure_ascii=False)
            text = message.get("content", message.get("text"))
            return text if isinstance(text, str) else None
    return None
