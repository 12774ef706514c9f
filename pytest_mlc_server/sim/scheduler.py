"""Who may generate: no more sequences at a time than ``max_num_sequence``; the others wait."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class Scheduler:
    """Places for running sequences, given in the order in which they are asked for.

    Parameters
    ----------
    capacity : int
        How many sequences may run at a time.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.running = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return len(self._queue)

    def places(self, sequences: int) -> _Places:
        """Return the places of a request: an asynchronous context manager.

        A request for more sequences than there are places gets all of them, and has its sequences
        take turns.
        """
        return _Places(self, min(sequences, self.capacity))

    async def acquire(self, count: int) -> None:
        """Wait for `count` places."""
        if not self._queue and self.running + count <= self.capacity:
            self.running += count
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._admit()
            else:
                # Its turn had come when it went away.
                self.release(count)
            raise

    def release(self, count: int) -> None:
        """Give `count` places back."""
        self.running -= count
        self._admit()

    def _admit(self) -> None:
        while self._queue:
            count, turn = self._queue[0]
            if not turn.done():
                if self.running + count > self.capacity:
                    return
                self.running += count
                turn.set_result(None)
            self._queue.popleft()


class _Places:
    """The places of one request."""

    __slots__ = ("_count", "_scheduler")

    def __init__(self, scheduler: Scheduler, count: int) -> None:
        self._scheduler = scheduler
        self._count = count

    async def __aenter__(self) -> None:
        await self._scheduler.acquire(self._count)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._scheduler.release(self._count)
