"""A start in progress: signs of life, of death, of progress."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time

from pytest_mlc_server import logs, process
from pytest_mlc_server.guardian import probe  # here: a server that is ready must not wait for it

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import psutil

#: Bounds of the pause between two looks for the server's socket, in seconds. A look costs from
#: 0.2 ms to several ms on a busy host; the pause is a multiple of the cost, so that looking takes
#: a few percent of one core however long the start is.
LOOK_EVERY = (0.004, 0.1)
LOOK_SHARE = 12

#: Bounds of the pause between two probes of a server that is not ready yet, in seconds.
PROBE_EVERY = (0.005, 0.5)

#: How long a dead engine's message may go on after its first line, in seconds.
MESSAGE_GRACE = 0.1

#: Phases in which a server may be silent for minutes and yet work, and how often to look whether it
#: does, in seconds.
LONG_PHASES = (logs.DOWNLOADING, logs.COMPILING)
PROGRESS_EVERY = 1.0


class Start:
    """One start of a server, from its first instruction to ready or failed.

    Parameters
    ----------
    pid
        The server.
    began
        When it was executed, on the monotonic clock.
    order
        What the holder ordered: ``host``, ``port``, ``expected``, the time limits.
    reader
        The server's log.
    wake
        Called from another thread when there is something to look at.
    on_phase
        Called with each phase as it begins.
    root
        The process below which the server's tree is; 0 for this one.
    waited
        How long the start had to wait before there was a process, in seconds.
    """

    def __init__(
        self,
        pid: int,
        began: float,
        order: dict[str, Any],
        reader: logs.LogReader,
        wake: Callable[[], None],
        on_phase: Callable[[str], None],
        root: int = 0,
        waited: float = 0.0,
    ) -> None:
        self.began = began
        self.phases: dict[str, float] = {}
        """Seconds spent in each phase so far, by its name."""
        self.outcome: dict[str, Any] | None = None
        """The message for the holder, once the start is over."""
        self.serving: psutil.Process | None = None
        """The process that serves, where a launcher stands between it and the keeper."""
        self._pid = pid
        self._order = order
        self._reader = reader
        self._wake = wake
        self._on_phase = on_phase
        self._phase = ""
        self._root = root or os.getpid()
        self._phase_began = self._clock = self.began + waited
        self._died_at = 0.0
        self._next_look = 0.0
        self._next_tree_look = 0.0
        self._look_cost = 0.0
        self._next_progress = 0.0
        self._activity = 0.0
        self._held = hold_port(order["host"], order["port"])
        self._probing = False
        self._patience, self._next_probe = PROBE_EVERY[0], 0.0
        self._answers: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._last_answer = self._asking = ""

    @property
    def seconds(self) -> float:
        """How long the start has taken so far."""
        return time.monotonic() - self.began

    def pause(self) -> float:
        """Return how long to wait for an event before `look`, in seconds."""
        return max(0.0, self._next_look - time.monotonic())

    def look(self) -> None:
        """Look for signs of life or death; sets `outcome` when the start is over."""
        while not self._answers.empty():
            self._probing = False
            self._answers.get()()
        now = time.monotonic()
        if self.outcome is not None or now < self._next_look:
            return
        grew = self._reader.read()
        self._set_phase(self._reader.phase, now)
        if self._reader.died and not self._died_at:
            self._died_at = now
        if self._died_at and now - self._died_at > MESSAGE_GRACE:
            self.fail("engine", self._reader.died)
        elif self._out_of_time(now, grew):
            seen = "\nthen: ".join(filter(None, (self._last_answer, self._asking)))
            self.fail("timeout", seen or "it listened on no TCP port")
        elif not self._probing and now >= self._next_probe:
            self._look_for_socket()
        pause = min(max(LOOK_EVERY[0], LOOK_SHARE * self._look_cost), LOOK_EVERY[1])
        self._next_look = time.monotonic() + pause

    def fail(self, reason: str, detail: str) -> None:
        """End the start as failed."""
        self._set_phase("", time.monotonic())
        self.outcome = {
            "event": "failed",
            "reason": reason,
            "detail": detail,
            "seconds": self.seconds,
            "phase": self._reader.phase,
            "phases": self.phases,
        }

    def close(self) -> None:
        """Let go of the port."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def _set_phase(self, phase: str, now: float) -> None:
        if phase == self._phase:
            return
        if self._phase:
            spent = self.phases.get(self._phase, 0.0) + now - self._phase_began
            self.phases[self._phase] = spent
            self._phase_began = now  # the first one began with the process
        self._phase = phase
        if phase:
            self._on_phase(phase)

    # --- time -------------------------------------------------------------------------------------

    def _out_of_time(self, now: float, log_grew: bool) -> bool:
        if self._phase in LONG_PHASES and self._makes_progress(now, log_grew):
            self._clock = now
        # The limit ends what makes progress for ever.
        order = self._order
        late = bool(now - self._clock > order["startup_timeout"])
        return late or bool(now - self.began > order["startup_limit"])

    def _makes_progress(self, now: float, log_grew: bool) -> bool:
        if log_grew:
            return True
        if now < self._next_progress:
            return False
        self._next_progress = now + PROGRESS_EVERY
        before, self._activity = self._activity, process.activity(self._root)
        # Processes that end take their figures with them: less is a change, too.
        return self._activity != before

    def _remaining(self) -> float:
        return float(self._order["startup_timeout"] - (time.monotonic() - self._clock))

    # --- the socket -------------------------------------------------------------------------------

    def _look_for_socket(self) -> None:
        addresses = self._addresses()
        if addresses:
            self._probing = True
            threading.Thread(target=self._probe, args=(addresses,), daemon=True).start()

    def _addresses(self) -> list[tuple[str, int]]:
        began = time.thread_time()  # on a busy host, waiting for a core is no cost of the look
        found = process.listening([self._pid])
        self._look_cost = time.thread_time() - began
        now = time.monotonic()
        if not found and now >= self._next_tree_look:
            # Walking the tree reads every process of the host: less often than the server itself,
            # whose own looks must not become rarer for it.
            found = process.listening(child.pid for child in process.descendants(self._root))
            cost = time.monotonic() - now
            self._next_tree_look = now + cost + max(LOOK_EVERY[1], LOOK_SHARE * cost)
        port = self._order["port"]
        return [_reachable(ip, number) for ip, number in found if port in (0, number)]

    def _probe(self, addresses: list[tuple[str, int]]) -> None:
        """Ask each address whether it is the server; runs in a thread, for it may block."""
        answer = _bind(self._not_yet)
        for address in addresses:
            url = f"http://{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}"
            progress = _bind(self._ask, url)
            try:
                usage = probe.probe(address, self._order["expected"], self._remaining(), progress)
            except probe.NotYetError as error:
                self._note(url, str(error))
            except probe.NeverError as error:
                answer = _bind(self.fail, "refused", f"{url}: {error}")
            else:
                answer = _bind(self._ready, address, usage)
                break
        self._answers.put(answer)
        self._wake()

    def _ask(self, url: str, text: str) -> None:
        self._asking = f"{url}: {text}"

    def _note(self, url: str, text: str) -> None:
        self._last_answer, self._asking = f"{url}: {text}", ""

    def _not_yet(self) -> None:
        """Look again, less and less often: each probe is a line in the server's log."""
        self._patience = min(2 * self._patience, PROBE_EVERY[1])
        self._next_probe = time.monotonic() + self._patience

    def _serving(self, port: int) -> psutil.Process | None:
        """Return the process that listens, where it is not the one that was executed."""
        if any(number == port for _, number in process.listening([self._pid])):
            return None
        for child in process.descendants(self._root):
            if any(number == port for _, number in process.listening([child.pid])):
                return child
        return None

    def _ready(self, address: tuple[str, int], usage: dict[str, Any]) -> None:
        self.serving = self._serving(address[1])
        self._set_phase("", time.monotonic())
        self.outcome = {
            "event": "ready",
            "address": address[0],
            "port": address[1],
            "seconds": self.seconds,
            "phases": self.phases,
            "usage": usage,
        }


def hold_port(host: str, port: int) -> socket.socket | None:
    """Keep strangers away from a port that the server will bind when its load is over.

    The socket is bound and does not listen: a program that does not ask for `SO_REUSEADDR` finds
    the port occupied. The server asks for it, as uvicorn does, and binds beside it. What cannot be
    held is left to the server.
    """
    if not port:
        return None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        held = socket.socket(family, kind, protocol)
    except OSError:
        return None
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
    except OSError:
        held.close()
        return None
    return held


def _bind(function: Callable[..., None], *args: object) -> Callable[..., None]:
    # `functools.partial` would be one import more in a process that is to stay small.
    return lambda *more: function(*args, *more)


def _reachable(ip: str, port: int) -> tuple[str, int]:
    """Turn the address that a socket listens on into one that can be connected to."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(ip, ip), port  # noqa: S104
