"""What xdist's workers wait for, told to their controller: a worker has no terminal.

By datagrams on the loopback interface: nothing is left behind by a process that is killed, and what
is not repeated is forgotten.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_mlc_server.progress import Snapshot
from pytest_mlc_server.waiting import LOOK_EVERY, Display

#: How often a worker repeats what has not changed, and when it is believed no more, in seconds.
REPEAT_EVERY, BELIEVED_FOR = 1.0, 10.0

#: How long the controller waits for news while no worker waits, in seconds.
IDLE = 1.0

#: What a datagram holds at most, in bytes.
LONGEST = 8192

_HOST = "127.0.0.1"


class Sender:
    """A worker's end.

    Parameters
    ----------
    told
        What the controller's `Receiver.address` was.
    worker
        The worker's id.
    """

    def __init__(self, told: Mapping[str, Any], worker: str) -> None:
        self._told = told
        self._worker = worker
        self._sent: Mapping[str, Any] = {}
        self._again = 0.0

    def update(self, starts: Sequence[Snapshot], now: float) -> None:
        """Tell what this worker waits for, if that is news."""
        message = starts[0].message()
        if message != self._sent or now >= self._again:
            self._sent, self._again = message, now + REPEAT_EVERY
            self.tell(starting=message)

    def end(self, outcome: str) -> None:
        """Tell that it waits no more."""
        if self._sent:
            self.tell(ended=outcome)
        self._sent = {}

    def tell(self, **message: object) -> None:
        """Send a message; whether it arrives is not known."""
        data = {"token": self._told["token"], "worker": self._worker, **message}
        with (
            contextlib.suppress(Exception),  # plugins that forbid sockets raise what they like
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            sender.sendto(json.dumps(data).encode(), (_HOST, int(self._told["port"])))


class Receiver:
    """The controller's end: shows what the workers wait for.

    Parameters
    ----------
    display
        Shows it.

    Raises
    ------
    OSError
        If this host has no loopback interface.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        self._token = secrets.token_hex(16)
        self._waiting: dict[str, tuple[Snapshot, float]] = {}
        self._closing = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((_HOST, 0))
        self._thread = threading.Thread(target=self._run, name="mlc-progress", daemon=True)
        self._thread.start()

    @property
    def address(self) -> dict[str, Any]:
        """What a worker needs to know."""
        return {"port": self._socket.getsockname()[1], "token": self._token}

    def forget(self, worker: str) -> None:
        """Take note that a worker is no more."""
        Sender(self.address, worker).tell(ended="")

    def close(self) -> None:
        """End: when this returns, nothing is shown any more."""
        self._closing = True
        Sender(self.address, "").tell()  # wakes the thread
        self._thread.join()
        self._socket.close()
        self._display.end("")

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # whatever is wrong with a display: no test fails
            while not self._closing:
                self._socket.settimeout(LOOK_EVERY if self._waiting else IDLE)
                with contextlib.suppress(TimeoutError):
                    self._take(self._socket.recv(LONGEST), time.monotonic())
                self._show(time.monotonic())

    def _take(self, data: bytes, now: float) -> None:
        try:
            message = json.loads(data)
            if not secrets.compare_digest(str(message["token"]), self._token):
                return
            worker = str(message["worker"])
            if "starting" in message:
                self._waiting[worker] = Snapshot.of(message["starting"]), now
                return
        except (ValueError, KeyError, TypeError):  # not from our workers
            return
        self._end(worker, str(message.get("ended", "")), now)

    def _end(self, worker: str, outcome: str, now: float) -> None:
        snapshot, _ = self._waiting.pop(worker, (None, 0.0))
        still = {one.key for one, _ in self._waiting.values()}
        if snapshot is not None and snapshot.key not in still:
            self._display.over(snapshot.key, outcome, now)

    def _show(self, now: float) -> None:
        for worker, (_, heard) in list(self._waiting.items()):
            if now - heard > BELIEVED_FOR:
                self._end(worker, "", now)
        starts: dict[str, Snapshot] = {}
        for one, _ in self._waiting.values():
            # Several workers may wait for one server: it is as old as the longest wait.
            first = starts.get(one.key, one)
            starts[one.key] = one if one.began <= first.began else first
        if starts:
            self._display.update(list(starts.values()), now)
        else:
            self._display.end("")
