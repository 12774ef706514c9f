"""The events of requests, as ``/debug/dump_event_trace`` shows them in Chrome's trace format."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from pytest_mlc_server.sim.engine import Delta, Step

#: How many events are kept, of all requests together: some 10 MB. The real recorder keeps all, and
#: a simulator that runs for days may not grow; what is dropped are whole requests, oldest first.
MAX_EVENTS = 100_000

# What happens to the logits of a step, in order; on a GPU some steps have other names.
_SAMPLING = (
    "start update logits",
    "start apply logit bias",
    "finish apply logit bias",
    "start apply penalty",
    "finish apply penalty",
    "start apply logit mask",
    "finish apply logit mask",
    "finish update logits",
    "start softmax",
    "finish softmax",
    "start copy probs to CPU",
    "finish copy probs to CPU",
    "start renormalize by top p",
    "finish renormalize by top p",
    "start sampling",
    "start sample token",
    "finish sample token",
    "finish sampling",
)
_PREFILL = ("start embedding", "finish embedding", "start prefill", "finish prefill", *_SAMPLING)
_DECODE = ("start embedding", "finish embedding", "start decode", "finish decode", *_SAMPLING)
_DETOKENIZATION = ("start detokenization", "finish detokenization")

_PHASES = {"start": "B", "finish": "E"}


class _Exchange(Protocol):
    """What of an exchange is traced."""

    request_id: str
    steps: AsyncGenerator[Step, None]


@dataclass
class _RequestEvents:
    """The events of one request: their names, numbers and times in microseconds."""

    events: list[tuple[str, int, int]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class TraceRecorder:
    """Records what happens to each request.

    Parameters
    ----------
    native : bool
        Whether the engine's own steps are recorded; the mock engine of the real server records
        none of them.
    max_events : int
        How many events are kept.
    """

    def __init__(self, *, native: bool = True, max_events: int = MAX_EVENTS) -> None:
        self._native = native
        self._max_events = max_events
        self._requests: dict[str, _RequestEvents] = {}
        self._number_of_events = 0

    def received(self, request_id: str, began: int) -> None:
        """Record that a request came in at the time `began`, and was tokenized since.

        Parameters
        ----------
        request_id : str
            The id that its response will have.
        began : int
            Microseconds since the epoch.
        """
        self._add(request_id, ("receive request", "start tokenization"), began)
        self._add(request_id, ("finish tokenization", "invoke generate"))

    def refused(self, request_id: str | None, began: int) -> None:
        """Record that a request came in at the time `began` which is not answered.

        Without an id of its own it is given one: its client never learns it.
        """
        self._add(request_id or f"cmpl-{uuid.uuid4().hex}", ("receive request",), began)

    def queried(self) -> None:
        """Record the request by which the server itself asks its engine for the metrics."""
        request_id = f"chatcmpl-{uuid.uuid4().hex}"
        self.received(request_id, now_us())
        self._add(request_id, ("start callback", "yield final usage", "finish"))

    def follow(self, exchange: _Exchange, *, says_skips: bool) -> AsyncGenerator[Step, None]:
        """Return the steps of `exchange`, which are recorded as they are taken.

        Parameters
        ----------
        exchange : Exchange
            A request that an engine is answering.
        says_skips : bool
            Whether steps without a text are recorded as skipped, as they are for a chat.
        """
        return self._follow(exchange.request_id, exchange.steps, says_skips=says_skips)

    def as_chrome_events(self) -> list[dict[str, Any]]:
        """Return all events, request after request, each request's in the order of time."""
        return [event for request_id in self._requests for event in self._events_of(request_id)]

    async def _follow(
        self, request_id: str, steps: AsyncGenerator[Step, None], *, says_skips: bool
    ) -> AsyncGenerator[Step, None]:
        prefilled = False
        async for step in steps:
            if not isinstance(step, list):
                self._add(request_id, ("start callback", "yield final usage"))
                yield step
                continue
            if self._native:
                self._engine_step(request_id, step, prefilled=prefilled)
            prefilled = True
            self._delivery(request_id, step, says_skips=says_skips)
            yield step
        self._add(request_id, ("finish",))

    def _engine_step(self, request_id: str, step: list[Delta], *, prefilled: bool) -> None:
        active = sum(delta.tokens > 0 for delta in step)
        if not prefilled:
            # A prompt is read once, whatever the number of choices that go on from it.
            self._add(request_id, ("request added to engine", *_PREFILL[: active * len(_PREFILL)]))
            return
        # All choices of a request have its id: each event is recorded once for each of them.
        self._add(request_id, [event for event in _DECODE for _ in range(active)])

    def _delivery(self, request_id: str, step: list[Delta], *, says_skips: bool) -> None:
        self._add(request_id, ("start callback", *_DETOKENIZATION * len(step), "finish callback"))
        empty = sum(not delta.text and delta.finish_reason is None for delta in step)
        if says_skips:
            self._add(request_id, ("skip empty delta text",) * empty)
        if empty < len(step):
            self._add(request_id, ("yield delta output",))

    def _add(self, request_id: str, events: Sequence[str], at: int | None = None) -> None:
        request = self._requests.setdefault(request_id, _RequestEvents())
        now = now_us() if at is None else at
        for event in events:
            request.events.append((event, request.counts[event], now))
            request.counts[event] += 1
        self._number_of_events += len(events)
        while self._number_of_events > self._max_events and len(self._requests) > 1:
            oldest = next(iter(self._requests))
            self._number_of_events -= len(self._requests.pop(oldest).events)

    def _events_of(self, request_id: str) -> Iterator[dict[str, Any]]:
        for event, number, time_us in sorted(
            self._requests[request_id].events, key=lambda entry: entry[2]
        ):
            # The event "finish" has a number alone for a name: so the real recorder cuts it.
            first, _, rest = f"{event} ({number})".partition(" ")
            phase = _PHASES.get(first)
            yield {
                "name": rest if phase else f"{event} ({number})",
                "ph": phase or "i",
                "ts": time_us,
                "pid": 1,
                "tid": request_id,
            }


def now_us() -> int:
    """Return the time in microseconds since the epoch."""
    return time.time_ns() // 1000
