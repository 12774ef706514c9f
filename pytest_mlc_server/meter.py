"""Asks a server for its counters, over a connection that is kept, and never waits long."""

from __future__ import annotations

import os
import select
from http.client import HTTPConnection, HTTPSConnection, IncompleteRead
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_mlc_server.access_log import OWN_PATH
from pytest_mlc_server.metrics import parse
from pytest_mlc_server.usage import Counters

if TYPE_CHECKING:
    from pytest_mlc_server.server import PopenServer

#: How long an answer may take, in seconds. A dead engine never gives one.
TIMEOUT = 2.0

#: What is read of an answer, in bytes. Other servers than MLC's may have long ones.
LONGEST = 1 << 20

#: What the simulator neither records nor has faults for.
USER_AGENT = "pytest-mlc-server-probe"

NO_COUNTERS = "its engine counts no tokens"


class Meter:
    """Reads the counters of one server.

    A question that is not answered in time is the last one until its answer comes after all, or the
    server is started again: a run whose engine died must not wait for each of its tests.

    Parameters
    ----------
    server
        The server.

    Attributes
    ----------
    why : str
        Why `ask` returned nothing.
    """

    def __init__(self, server: PopenServer) -> None:
        self.why = ""
        self._server = server
        self._connection: HTTPConnection | None = None
        self._of: tuple[object, ...] = ()
        self._late = self._never = False

    def ask(self) -> Counters | None:
        """Return the counters; None if there are none to be had."""
        of = (self._server.base_url, self._server.pid, self._server.restarts, os.getpid())
        if of != self._of:  # started again, or this process was forked: another connection
            self.close()
            self._of, self._never = of, False
        state = self._server.poll()
        if state != "ready":
            self.why = f"the server is {state}"
            return None
        if self._never:
            return None
        if self._late and not self._answered_late():
            return None
        text = self._get()
        if text is None:
            return None
        counters = Counters.of(parse(text))
        if counters is None:
            self.why, self._never = NO_COUNTERS, True
        return counters

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        self._late = False
        if connection is not None:
            connection.close()

    def _answered_late(self) -> bool:
        channel = self._connection.sock if self._connection is not None else None
        if channel is not None and not select.select([channel], [], [], 0)[0]:
            return False
        self.close()
        return True

    def _get(self) -> str | None:
        for used_before in (self._connection is not None, False):
            try:
                return self._exchange()
            except TimeoutError:
                self._late = True
                self.why = f"GET /metrics was not answered within {TIMEOUT:g} s"
                return None
            except Exception as error:  # a test may have forbidden sockets, or put others there
                self.close()
                self.why = f"GET /metrics: {type(error).__name__}: {error}"
                if not used_before:  # else the server had closed it, as servers do after seconds
                    return None
        return None

    def _exchange(self) -> str | None:
        if self._connection is None:
            self._connection = self._connect()
        connection = self._connection
        headers = {"User-Agent": USER_AGENT}
        if self._server.api_key:
            headers["Authorization"] = f"Bearer {self._server.api_key}"
        connection.request("GET", urlsplit(self._server.base_url).path + OWN_PATH, headers=headers)
        response = connection.getresponse()
        body = response.read(LONGEST)
        if not body or (response.length and len(body) < LONGEST):  # a short read says nothing
            raise IncompleteRead(body, response.length)
        if response.status != 200 or not response.isclosed():
            self.close()
        if response.status != 200:
            self._never = response.status < 500  # what stands before a server may be there later
            self.why = f"GET /metrics answers {response.status}"
            return None
        return body.decode("utf-8", "replace")

    def _connect(self) -> HTTPConnection:
        parts = urlsplit(self._server.base_url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        # Straight to the server: `http.client` knows no proxies.
        return kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
