"""Shows what starts while somebody waits for it: as a live line, or as a line now and then."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TextIO

from pytest_mlc_server import progress, status_row
from pytest_mlc_server.progress import Snapshot, Starting

if TYPE_CHECKING:
    from pytest_mlc_server.handle import Handle

#: Pause between two looks at what starts, in seconds.
LOOK_EVERY = 0.1

#: How long somebody waits before a live line is shown, in seconds: a start that is over by then
#: needs none.
LIVE_AFTER = 0.75

#: Time between two lines where there is no terminal, in seconds. Plain lines are for logs.
PLAIN_EVERY = 10.0

READY, FAILED, LEFT = "ready", "did not start", "nobody waits for it any more"


class Sink(Protocol):
    """Takes what starts."""

    def update(self, starts: Sequence[Snapshot], now: float) -> None:
        """Take what starts now: at least one."""

    def end(self, outcome: str) -> None:
        """Nobody waits any more."""


class Display:
    """Shows what starts.

    Parameters
    ----------
    row
        The terminal's row for a live line; None to write lines.
    say
        Writes a whole line, at any moment of a wait.
    conclude
        Writes the last line of a wait, if there was one before.
    """

    def __init__(
        self,
        row: status_row.StatusRow | None,
        say: Callable[[str], object],
        conclude: Callable[[str], object] | None = None,
    ) -> None:
        self._row = row
        self._say = say
        self._conclude = conclude or say
        self._frame = 0
        self._next: dict[str, float] = {}
        self._told: dict[str, Snapshot] = {}

    def update(self, starts: Sequence[Snapshot], now: float) -> None:
        """Show what starts now."""
        if self._row is not None:
            if now - min(one.began for one in starts) >= LIVE_AFTER:
                text = progress.status(starts, now, self._frame, self._row.fine)
                self._row.show(text)
                self._frame += 1
            return
        for key in set(self._next) - {one.key for one in starts}:
            del self._next[key]  # it has a log now, and is known by that
            self._told.pop(key, None)
        for one in starts:
            if now >= self._next.setdefault(one.key, one.began + PLAIN_EVERY):
                self._next[one.key] = now + PLAIN_EVERY - (now - one.began) % PLAIN_EVERY
                self._told[one.key] = one
                self._say(progress.plain(one, now))

    def over(self, key: str, outcome: str, now: float) -> None:
        """Say how one ended, if anything was said of it."""
        self._next.pop(key, None)
        told = self._told.pop(key, None)
        if told is not None:
            after = progress.elapsed(now - told.began)
            self._conclude(f"{progress.NAME}: {told.what}: {outcome or LEFT}, after {after}")

    def end(self, outcome: str) -> None:
        """Give the terminal back, or say how it ended."""
        if self._row is not None:
            self._row.close()
        for key in list(self._next):
            self.over(key, outcome, time.monotonic())


class Waiting:
    """A block that waits for a server: follows its start in a thread of its own.

    Parameters
    ----------
    server
        The server.
    sink
        Where what it is doing goes. Its `update` is called in the thread, its `end` by whoever
        waited.
    after
        Called at the very end.
    """

    def __init__(
        self, server: Handle, sink: Sink, after: Callable[[], object] = lambda: None
    ) -> None:
        self._server = server
        self._sink = sink
        self._after = after
        self._starting = Starting.of_server(server)
        self._before = server.on_phase
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlc-progress", daemon=True)

    def __enter__(self) -> None:
        """Begin."""
        self._server.on_phase = self._hear
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End: when this returns, nothing is shown any more."""
        self._server.on_phase = self._before
        self._over.set()
        self._thread.join()
        try:
            self._sink.end(READY if kind is None else FAILED)
        finally:
            self._after()

    def _hear(self, text: str) -> None:
        self._starting.hear(text)
        if self._before is not None:
            self._before(text)

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # whatever is wrong with a display: no test fails
            while not self._over.wait(LOOK_EVERY):
                self._sink.update([self._starting.look()], time.monotonic())


def on_stream(stream: TextIO) -> Display:
    """Return a display for a program that writes to a stream, and whose output is not captured."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # no file at all
        descriptor = -1

    def say(text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=stream, flush=True)

    return Display(row_of(descriptor, stream), say)


def row_of(descriptor: int, stream: TextIO) -> status_row.StatusRow | None:
    """Return the row of a terminal, None where there is none."""
    if os.name == "nt" or not status_row.possible(descriptor):
        return None
    return status_row.StatusRow(descriptor, getattr(stream, "encoding", None) or "ascii")
