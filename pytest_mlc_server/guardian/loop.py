"""The keeper's loop: events in, decisions out. It is the only thread that decides."""

from __future__ import annotations

import json
import os
import queue
import selectors
import shutil
import signal
import socket
import threading
import time

from pytest_mlc_server import process
from pytest_mlc_server.guardian.stop import Stop
from pytest_mlc_server.logs import StartReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

#: Bounds of the pause between two looks for the server's socket, in seconds. A look costs from
#: 0.2 ms to several ms on a busy host; the pause is a multiple of the cost, so that looking takes
#: a few percent of one core however long the start is.
LOOK_EVERY = (0.004, 0.1)
LOOK_SHARE = 12

#: How long a dead engine's message may go on after its first line, in seconds.
MESSAGE_GRACE = 0.1

STARTING, READY, EXITED, STOPPING = "starting", "ready", "exited", "stopping"


class Loop:
    """One server's life.

    Parameters
    ----------
    lease
        Descriptor of the first lease.
    pid
        The server, or 0 if it could not be executed.
    log
        The server's log.
    problem
        Why it could not be executed.
    """

    def __init__(self, lease: int, pid: int, log: str, problem: str = "") -> None:
        self.started = time.monotonic()
        self.state = STARTING
        self.pid = pid
        self.returncode: int | None = None
        self.stop: Stop | None = None
        self.finished = False
        self._problem = problem
        self._lease = socket.socket(fileno=lease)
        self._lease.setblocking(False)
        self._inbox = b""
        self._order: dict[str, Any] = {}
        self._holder: int | None = None
        self._failure: dict[str, Any] | None = None
        self._discard = ""
        self._reader = StartReader(log)
        self._died_at = 0.0
        self._next_look = 0.0
        self._last_tree_look = 0.0
        self._probing = False
        self._outcomes: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._last_answer = ""
        self._signalled = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._lease, selectors.EVENT_READ, self._read_lease)
        self._wake = self._prepare_wakeup()

    def _prepare_wakeup(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, self._drain_wakeup)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._wakeup_reader = ours
        signal.signal(signal.SIGCHLD, lambda *_: None)  # its byte on the socket is what counts
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        return theirs

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signalled = True  # acted on in the loop: a handler may interrupt any line

    def _drain_wakeup(self) -> None:
        try:
            while self._wakeup_reader.recv(4096):
                pass
        except BlockingIOError:
            pass

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until the server and all of its tree are gone and nobody waits for news."""
        while not self.finished:
            for key, _ in self._selector.select(self._pause()):
                key.data()
            self._reap()
            if self._signalled and self.stop is None:
                self._lost_lease()
            if self._order:
                self._tick()
        self._lease.close()
        if self._discard:
            shutil.rmtree(self._discard, ignore_errors=True)

    def _pause(self) -> float | None:
        if not self._order:
            return None
        if self.stop is not None:
            return self.stop.pause()
        if self.state == STARTING:
            return max(0.0, self._next_look - time.monotonic())
        return None if self._holder is not None else 0.25

    def _tick(self) -> None:
        self._watch_holder()
        while not self._outcomes.empty():
            self._probing = False
            outcome = self._outcomes.get()
            if self.state == STARTING:
                outcome()
        if self._problem and self.stop is None:
            self._fail("spawn", self._problem)
        if self.stop is not None:
            self._advance_stop()
        elif self.state == STARTING:
            self._look()

    # --- leases -----------------------------------------------------------------------------------

    def _read_lease(self) -> None:
        try:
            data = self._lease.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost_lease()
            return
        *lines, self._inbox = (self._inbox + data).split(b"\n")
        for line in lines:
            self._message(json.loads(line))

    def _message(self, message: dict[str, Any]) -> None:
        if not self._order:
            self._order = message
            self._open_holder(message["holder"], message["holder_start"])
            self.send(event="spawned", pid=self.pid)
        elif message["op"] == "stop":
            self._discard = message.get("discard") or ""
            self.begin_stop(message["timeout"])

    def _open_holder(self, pid: int, start: str) -> None:
        """Watch the process that holds the lease: a fork of it may keep the socket open."""
        try:
            self._holder = os.pidfd_open(pid)
        except AttributeError:
            return  # no pidfd on this platform: `_watch_holder` looks four times a second
        except OSError:
            self._lost_lease()
            return
        if process.start_time(pid) != start:
            self._lost_lease()
            return
        self._selector.register(self._holder, selectors.EVENT_READ, self._lost_lease)

    def _watch_holder(self) -> None:
        if self._holder is not None or self.stop is not None:
            return
        try:
            os.kill(self._order["holder"], 0)
        except ProcessLookupError:
            self._lost_lease()

    def _lost_lease(self) -> None:
        for watched in (self._lease, self._holder):
            if watched is not None:
                try:
                    self._selector.unregister(watched)
                except (KeyError, ValueError):
                    continue
        if not self._order:
            # The holder ended before it said more than the command line.
            self._order = {"stop_timeout": 0.0, "mark": "", "holder": os.getpid()}
        self.begin_stop()

    def send(self, **message: Any) -> None:
        """Tell the holder; one that is gone cannot be told."""
        try:
            self._lease.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass

    # --- the start --------------------------------------------------------------------------------

    def _look(self) -> None:
        """Look for signs of life or death of a starting server."""
        now = time.monotonic()
        if now < self._next_look:
            return
        if self._reader.read() and self._reader.died and not self._died_at:
            self._died_at = now
        if self._died_at and now - self._died_at > MESSAGE_GRACE:
            self._fail("engine", self._reader.died)
            return
        if now - self.started > self._order["startup_timeout"]:
            self._fail("timeout", self._last_answer or "it listened on no TCP port")
            return
        if not self._probing:
            addresses = self._addresses()
            if addresses:
                self._probing = True
                threading.Thread(target=self._probe, args=(addresses,), daemon=True).start()
        cost = time.monotonic() - now
        self._next_look = time.monotonic() + min(
            max(LOOK_EVERY[0], LOOK_SHARE * cost), LOOK_EVERY[1]
        )

    def _addresses(self) -> list[tuple[str, int]]:
        found = process.listening([self.pid])
        now = time.monotonic()
        if not found and now - self._last_tree_look > LOOK_EVERY[1]:
            # Walking the tree reads every process of the host: less often than the server itself.
            found = process.listening(child.pid for child in process.descendants(os.getpid()))
            self._last_tree_look = now
        port = self._order["port"]
        return [_reachable(ip, number) for ip, number in found if port in (0, number)]

    def _probe(self, addresses: list[tuple[str, int]]) -> None:
        """Ask each address whether it is the server; runs in a thread, for it may block."""
        from pytest_mlc_server.guardian import probe

        outcome: Callable[[], None] = self._not_yet
        for address in addresses:
            remaining = self._order["startup_timeout"] - (time.monotonic() - self.started)
            url = f"http://{_url_host(address[0])}:{address[1]}"
            progress = _bind(self._note, url)
            try:
                usage = probe.probe(address, self._order["expected"], remaining, progress)
            except probe.NotYetError as error:
                progress(str(error))
            except probe.NeverError as error:
                outcome = _bind(self._fail, "refused", f"{url}: {error}")
            else:
                outcome = _bind(self._ready, address, usage)
                break
        self._outcomes.put(outcome)
        self._wake.send(b"!")

    def _note(self, url: str, text: str) -> None:
        self._last_answer = f"{url}: {text}"

    def _not_yet(self) -> None:
        """Look again."""

    def _ready(self, address: tuple[str, int], usage: dict[str, Any]) -> None:
        self.state = READY
        seconds = time.monotonic() - self.started
        self.send(event="ready", address=address[0], port=address[1], seconds=seconds, usage=usage)

    def _fail(self, reason: str, detail: str) -> None:
        """End a start that failed; the holder hears of it when nothing of it is left."""
        seconds = time.monotonic() - self.started
        self._failure = {"event": "failed", "reason": reason, "detail": detail, "seconds": seconds}
        self.begin_stop(0.0)

    # --- the end ----------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self._exited(os.waitstatus_to_exitcode(status))

    def _exited(self, returncode: int) -> None:
        self.returncode = returncode
        if self.stop is not None:
            return
        if self.state == STARTING:
            self._fail("exited", self._reader.died)
        else:
            self.state = EXITED
            self.send(event="exited", returncode=returncode)

    def begin_stop(self, timeout: float | None = None) -> None:
        """Begin to stop the server's tree; a second call can only shorten the time limit."""
        if timeout is None:
            timeout = self._order.get("stop_timeout", 0.0)
        if self.stop is None:
            self.state = STOPPING
            self.stop = Stop(self.pid, self._order.get("mark", ""), timeout)
        else:
            self.stop.hurry(timeout)

    def _advance_stop(self) -> None:
        stop = self.stop
        if stop is None or not stop.advance(alive=bool(self.pid) and self.returncode is None):
            return
        if self._failure is not None:
            self.send(**self._failure, returncode=self.returncode, left=stop.left)
        self.send(event="stopped", returncode=self.returncode, by=stop.by, left=stop.left)
        self.finished = True


def _bind(function: Callable[..., None], *args: object) -> Callable[..., None]:
    # `functools.partial` would be one import more in a process that is to stay small.
    return lambda *more: function(*args, *more)


def _reachable(ip: str, port: int) -> tuple[str, int]:
    """Turn the address that a socket listens on into one that can be connected to."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(ip, ip), port  # noqa: S104


def _url_host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
