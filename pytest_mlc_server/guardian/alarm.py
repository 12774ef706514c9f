"""What wakes the loop beside its sockets: signals, children that end, other threads."""

from __future__ import annotations

import queue
import selectors
import signal
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


class Alarm:
    """Wakes the loop, and remembers why.

    Parameters
    ----------
    selector
        What the loop sleeps in.

    Attributes
    ----------
    signalled
        Whether this process was asked to end.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.signalled = False
        self._news: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._sleeper, self._waker = socket.socketpair()
        for end in (self._sleeper, self._waker):
            end.setblocking(False)
        selector.register(self._sleeper, selectors.EVENT_READ, self._drain)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # its byte on the socket is what counts
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.signalled = True  # acted on in the loop: a handler may interrupt any line

    def _drain(self) -> None:
        try:
            while self._sleeper.recv(4096):
                pass
        except BlockingIOError:
            pass

    def call(self, function: Callable[[], None]) -> None:
        """Have the loop call a function; for other threads."""
        self._news.put(function)
        self.ring()

    def ring(self) -> None:
        """Wake the loop."""
        try:
            self._waker.send(b"!")
        except BlockingIOError:
            pass  # so many wake-ups wait already that this one is not needed

    def hear(self) -> None:
        """Call what other threads asked for."""
        while not self._news.empty():
            self._news.get()()

    def close(self) -> None:
        """Close the sockets; for tests, which outlive their loops."""
        self._sleeper.close()
        self._waker.close()
