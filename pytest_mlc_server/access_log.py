"""Requests as a server's log has them: uvicorn's access lines, counted as the log grows."""

from __future__ import annotations

import re

from pytest_mlc_server.logs import OWN_QUERY

#: What our own questions ask for: the query tells their lines in a log, whoever of a run asked.
#: uvicorn logs it, and the server does not look at it.
OWN_PATH = f"/metrics{OWN_QUERY}"

_OWN = re.compile(
    rf'^INFO:\s+\S+ - "[A-Z]+ \S*{re.escape(OWN_QUERY)} HTTP/[\d.]+"[^\n]*\n?', re.MULTILINE
)

# Bytes, because a test may have sent a hundred thousand requests.
_LINE = re.compile(
    rb'^INFO:\s+\S+ - "([A-Z]+) (\S+) HTTP/[\d.]+"(?: (\d{3}))?|^INFO:\s+Uvicorn (running) on ',
    re.MULTILINE,
)

#: What a guardian asks of a server that has just begun to listen, in this order.
_PROBES = ((b"GET", b"/v1/models"), (b"POST", b"/v1/completions"))

_CHUNK = 1 << 20

#: What is read of a log for one test, in bytes; 100,000 requests take a tenth of it.
LONGEST = 64 << 20


def own_lines(text: str) -> str:
    """Return a part of a log without the lines of what this package asked for its own purposes."""
    return _OWN.sub("", text) if OWN_QUERY in text else text


class AccessLog:
    """Counts the requests in a log from one reading to the next.

    Our own questions do not count, nor do those by which a start finds out that the server is
    ready.

    Parameters
    ----------
    path
        The log.
    offset
        Where to begin, in bytes.

    Attributes
    ----------
    requests, errors : int
        How many requests there were, and how many were answered with a status of 400 or more.
    resets : int
        How often the engine's state was reset.
    complete : bool
        Whether all of the log was read: false when it grew by more than `LONGEST` at once.
    """

    def __init__(self, path: str, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self._probes: list[tuple[bytes, bytes]] = []
        self.clear()

    def clear(self) -> None:
        """Count from 0 again."""
        self.requests = self.errors = self.resets = 0
        self.complete = True

    def skip(self, offset: int) -> None:
        """Go on elsewhere, and do not count what is left out."""
        self.offset = offset
        self._probes.clear()

    def read(self, end: int) -> None:
        """Count what came since, up to an offset in bytes."""
        if end - self.offset > LONGEST:
            self.complete = False
            self.offset = end - LONGEST
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                rest = b""
                left = end - self.offset
                while left > 0 and (data := file.read(min(left, _CHUNK))):
                    left -= len(data)
                    whole, newline, rest = (rest + data).rpartition(b"\n")
                    self._count(whole)
                    self.offset += len(whole) + len(newline)
        except OSError:  # it was removed with its server
            return

    def _count(self, lines: bytes) -> None:
        for method, path, status, running in _LINE.findall(lines):
            if running:
                self._probes[:] = _PROBES
            elif (method, path) in self._probes:
                self._probes.remove((method, path))
            elif not path.endswith(OWN_QUERY.encode()):
                self.requests += 1
                self.errors += status >= b"400"
                self.resets += path == b"/debug/reset_engine" and status == b"200"
