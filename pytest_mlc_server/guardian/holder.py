"""The keeper's end of a lease: messages of its holder, and the holder's end."""

from __future__ import annotations

import json
import os
import selectors
import socket

from pytest_mlc_server import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: How often a holder is looked for where the kernel does not tell of its end, in seconds.
LOOK_EVERY = 0.25

#: A holder that sends more than this without ending its line does not speak our language.
LONGEST_MESSAGE = 16 << 20


class Holder:
    """One holder of a lease.

    Parameters
    ----------
    descriptor
        The lease's socket.
    selector
        Where to wait for it.
    on_message
        Called with each message.
    on_lost
        Called once, when the holder has closed the socket or its process has ended.
    """

    def __init__(
        self,
        descriptor: int,
        selector: selectors.BaseSelector,
        on_message: Callable[[dict[str, Any]], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._selector = selector
        self._on_message = on_message
        self._on_lost = on_lost
        self._inbox = b""
        self._pidfds: list[int] = []
        self._looked_for: list[int] = []
        self._lost = False
        selector.register(self._socket, selectors.EVENT_READ, self._read)

    @property
    def must_be_looked_for(self) -> bool:
        """Whether `look` must be called now and then: the kernel tells nothing."""
        return bool(self._looked_for) and not self._lost

    def watch_process(self, pid: int, start: str) -> None:
        """Watch a process without which there is no lease; a fork may keep the socket open.

        Parameters
        ----------
        pid
            Its number.
        start
            What tells it from a later process with that number (`process.start_time`).
        """
        if self._lost:
            return
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self.lose()
            return
        except (AttributeError, OSError):
            self._looked_for.append(pid)  # no pidfd on this platform: the loop calls `look`
            return
        self._pidfds.append(pidfd)
        if process.start_time(pid) != start:
            self.lose()
            return
        self._selector.register(pidfd, selectors.EVENT_READ, self.lose)

    def look(self) -> None:
        """Look whether the processes are there."""
        for pid in self._looked_for:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                self.lose()
            except PermissionError:
                pass

    def send(self, **message: Any) -> None:
        """Tell the holder something; one that is gone cannot be told."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass

    def lose(self) -> None:
        """Take the lease for lost."""
        if self._lost:
            return
        self._lost = True
        watching: list[socket.socket | int] = [self._socket, *self._pidfds]
        for watched in watching:
            try:
                self._selector.unregister(watched)
            except (KeyError, ValueError):
                continue
        self._on_lost()

    def close(self) -> None:
        """Close the socket, and stop watching processes."""
        watching: list[socket.socket | int] = [self._socket, *self._pidfds]
        for watched in watching:
            try:
                self._selector.unregister(watched)
            except (KeyError, ValueError):
                continue
        self._socket.close()
        for pidfd in self._pidfds:
            os.close(pidfd)
        self._pidfds.clear()

    def _read(self) -> None:
        try:
            data = self._socket.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.lose()
            return
        *lines, self._inbox = (self._inbox + data).split(b"\n")
        for line in lines:
            message = parse(line)
            if message is None:
                self.lose()
                return
            self._on_message(message)
        if len(self._inbox) > LONGEST_MESSAGE:
            self.lose()


def parse(line: bytes) -> dict[str, Any] | None:
    """Read a message; None if it is none: whoever sent it holds no lease of ours."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def seconds(value: Any) -> float:
    """Read a time; raise ValueError if it is none that can be waited for."""
    number = float(value)
    if not 0 <= number < 1e9:
        raise ValueError(f"{value!r} is no number of seconds")
    return number


def processes(message: dict[str, Any], name: str = "holders") -> list[tuple[int, str]]:
    """Read processes and what tells each from a later one with its number.

    Raises
    ------
    KeyError, TypeError, ValueError
        If there are none, or what is there is no process.
    """
    found = [(int(pid), str(start)) for pid, start in message[name]]
    if not all(0 < pid < 1 << 31 for pid, _ in found):
        raise ValueError("a number is no process id")
    return found


def checked(order: dict[str, Any]) -> list[tuple[int, str]]:
    """Check a holder's first message; return the processes that hold the lease.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is no order.
    """
    for name in ("startup_timeout", "startup_limit", "stop_timeout"):
        order[name] = seconds(order[name])
    order["port"] = int(order["port"])
    build = order.get("build") or {}
    order["build"] = {
        "configs": [str(path) for path in build.get("configs", ())],
        "libraries": int(build.get("libraries", 1)),
        "until_ready": bool(build.get("until_ready", False)),
    }
    order["forks"] = str(order.get("forks", ""))
    order["parent"] = place_of(order.get("parent") or {})
    expected = order["expected"]
    texts = (order["mark"], expected["model"], expected["api_key"] or "")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text is none")
    expected["generate"] = bool(expected["generate"])
    if "share" in order:
        share = order["share"]
        share["linger"] = seconds(share["linger"])
        share["files"] = [str(path) for path in share["files"]]
        for name in ("failure", "discard", "run"):
            share[name] = str(share[name])
        processes(share, "runs")
    return processes(order)


def place_of(parent: dict[str, Any]) -> dict[str, Any]:
    """Read where the guardian of a warm parent is; empty if there is none.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is no such place.
    """
    if not parent:
        return {}
    return {"door": str(parent["door"]), "linger": seconds(parent["linger"])}
