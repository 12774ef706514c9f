"""The last requests of a test, each once, from all who saw it: client, simulator, log."""

from __future__ import annotations

import dataclasses
import http.client
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_mlc_server import access_log, exchanges, logs
from pytest_mlc_server.errors import SimulatorError
from pytest_mlc_server.masking import mask_url

if TYPE_CHECKING:
    import pytest

    from pytest_mlc_server.pool import ServerPool
    from pytest_mlc_server.reporting.watch import TestWatch
    from pytest_mlc_server.server import PopenServer
    from pytest_mlc_server.session import Session

#: Requests that a failing test shows of each server, and that its report carries.
SHOWN, CARRIED = 20, 50

#: How long the simulator may take to say what it was asked, in seconds.
ANSWER_WITHIN = 3.0

#: What the clients of this package's own purposes call themselves.
OWN_CLIENT = "pytest-mlc-server"

_ACCESS = re.compile(r'^INFO:\s+\S+ - "([A-Z]+) (\S+) HTTP/[\d.]+"(?: (\d{3}))?', re.MULTILINE)

Row = dict[str, Any]


class Requests:
    """Adds the last requests to what a failing test shows, and to what reports carry.

    Parameters
    ----------
    session
        The plugin's session.
    pool
        Its servers.
    tests
        Knows where each log stood when the test began.
    """

    def __init__(self, session: Session, pool: ServerPool, tests: TestWatch) -> None:
        self._session = session
        self._pool = pool
        self._tests = tests
        self._began = 0.0
        self._shown = False

    def begin(self, began: float) -> None:
        """Begin with a test, at this time in seconds since 1970."""
        self._began, self._shown = began, False

    def wanted(self, call: pytest.CallInfo[None]) -> bool:
        """Tell whether `add` is to be called: after a failure, and for a report of the run."""
        return call.excinfo is not None or (bool(self._session.reports) and call.when == "call")

    def add(
        self, report: pytest.TestReport, call: pytest.CallInfo[None], ends: Mapping[str, int]
    ) -> None:
        """Add the requests of a test that failed; for a report of the run, of each test.

        Parameters
        ----------
        report, call
            The test's.
        ends
            Where the logs ended before the server was asked whether it works: that is not the
            test's request.
        """
        if report.skipped or (report.failed and self._shown):
            return
        found = [(server, self._of(server, call.stop, ends)) for server in self._pool.history]
        found = [(server, rows) for server, rows in found if rows]
        if found:
            self._shown = report.failed
            every = sorted((row for _, rows in found for row in rows), key=_start)
            report.__dict__["mlc_requests"] = every[-CARRIED:]
            for server, rows in found if report.failed else ():
                report.sections.append((_title(server, rows), text_of(rows)))

    def _of(self, server: PopenServer, until: float, ends: Mapping[str, int]) -> list[Row]:
        seen = simulated(server, self._began, until)
        if seen is None:
            seen = self._logged(server, ends)
        sent = [
            {**dataclasses.asdict(one), "source": "client"}
            for one in exchanges.since(server.base_url, self._began)
        ]
        rows = together(seen, sent)
        for row in rows:
            row["path"] = logs.plain(server.hide_secrets(row["path"]))
            row["error"] = logs.plain(server.hide_secrets(row["error"]))
        return rows

    def _logged(self, server: PopenServer, ends: Mapping[str, int]) -> list[Row]:
        path = server.log_path
        if path is None:
            return []
        text = logs.read(path, self._tests.start_of(path), ends.get(path))
        return [
            row(server, method=method, path=where, status=int(status) if status else None)
            for method, where, status in _ACCESS.findall(access_log.own_lines(text))
        ]


def row(server: PopenServer, *, source: str = "log", **known: Any) -> Row:
    """Return a request of which some things are known."""
    names = ("status", "start", "seconds", "ttft_s", "prompt_tokens", "completion_tokens")
    unknown = dict.fromkeys(names)
    return {"server": server.base_url, **unknown, "error": "", **known, "source": source}


def simulated(server: PopenServer, began: float, until: float) -> list[Row] | None:
    """Return what a simulator was asked in a time; None if it is none, or does not answer."""
    if not server.sim_token or server.poll() != "ready":
        return None
    from pytest_mlc_server.simulator.control import Control

    control = Control(server.base_url, server.sim_token)
    try:
        connection = control.connect(ANSWER_WITHIN)
        try:
            path = f"/sim/requests/lines?since={began!r}&limit={2 * CARRIED}"
            answer = control.ask(connection, "GET", path)
        finally:
            connection.close()
        return [
            row(
                server,
                source="simulator",
                error="" if line.pop("finished") else "the answer was not sent to its end",
                **line,
            )
            for line in answer["requests"]
            if not line.pop("client").startswith(OWN_CLIENT)
            and not line["path"].endswith(logs.OWN_QUERY)
            and line["start"] <= until
        ]
    except (OSError, http.client.HTTPException, SimulatorError, ValueError, TypeError, KeyError):
        return None  # one that a test has made to refuse connections, say: the log is left


def together(seen: Sequence[Row], sent: Sequence[Row]) -> list[Row]:
    """Return what a server saw and what clients sent, each request once.

    Parameters
    ----------
    seen
        In the server's order.
    sent
        As the clients know it: of these, more is known.
    """
    rows = list(seen)
    free = list(range(len(rows)))
    for one in sent:
        same = [place for place in free if _same(rows[place], one)]
        if not same:
            rows.append(dict(one))  # it did not get there, or the server's word was not heard
            continue
        match = min(same, key=lambda place: _apart(rows[place], one))  # else, the first
        free.remove(match)
        # Only who knows that it was a stream knows what its first byte was.
        streamed = rows[match]["source"] != "simulator" or rows[match]["ttft_s"] is not None
        rows[match] = {**one, "ttft_s": one["ttft_s"] if streamed else None}
    if all(one["start"] is not None for one in rows):
        rows.sort(key=_start)
    return rows


def _same(seen: Row, sent: Row) -> bool:
    statuses = {seen["status"], sent["status"]} - {None}
    places = [str(one["path"]).partition("?")[0] for one in (seen, sent)]
    return seen["method"] == sent["method"] and places[0] == places[1] and len(statuses) < 2


def _apart(seen: Row, sent: Row) -> tuple[float, float]:
    """Return how far a request as it was seen is from the client's own time, and from its start.

    A busy server sees a request late, maybe nearer to the one after it; but never before it was
    sent, or after it was over for its client.
    """
    if seen["start"] is None or sent["start"] is None:
        return (0.0, 0.0)
    late = seen["start"] - sent["start"]
    after = late - sent["seconds"] if sent["seconds"] is not None else 0.0
    return (max(0.0, -late, after), abs(late))


def _start(one: Row) -> float:
    return one["start"] or 0.0


def _title(server: PopenServer, rows: Sequence[Row]) -> str:
    title = f"mlc server requests ({server.engine}, {mask_url(server.base_url)})"
    logged = any(one["source"] == "log" for one in rows)
    if logged and server.share is not None and not server.share.exclusive:
        title += ": some may be of other workers' tests"
    return title


def text_of(rows: Sequence[Row]) -> str:
    """Return the last requests as a section shows them: request, status, duration."""
    shown = rows[-SHOWN:]
    lines = [] if len(rows) <= SHOWN else [f"[{len(rows) - SHOWN} earlier ones left out]"]
    names = [f"{one['method']} {shortened(one['path'])}" for one in shown]
    width = max(map(len, names), default=0)
    for name, one in zip(names, shown, strict=True):
        status = "-" if one["status"] is None else str(one["status"])
        took = "-" if one["seconds"] is None else f"{one['seconds']:.2f} s"
        more = [_tokens(one), one["error"] if one["source"] != "simulator" or took != "-" else ""]
        words = "; ".join(filter(None, more))
        lines.append(f"{name:{width}}  {status:>3}  {took:>7}{f'  {words}' if words else ''}")
    if any(one["source"] == "log" for one in shown):
        lines.append('"-": all that is known of it is a line of the server\'s log, without times')
    if any(one["source"] == "simulator" and one["seconds"] is None for one in shown):
        lines.append('"-": it was still being answered')
    return "\n".join(lines)


def shortened(path: str) -> str:
    """Return a path that leaves room for the rest of its line."""
    return path if len(path) <= 60 else f"{path[:57]}..."


def _tokens(one: Row) -> str:
    words = []
    # Of an answer that comes in one piece, the first byte is no token.
    if one["ttft_s"] is not None and one["ttft_s"] < 0.9 * (one["seconds"] or 0.0):
        words.append(f"first token after {one['ttft_s']:.2f} s")
    if one["prompt_tokens"] is not None or one["completion_tokens"] is not None:
        counts = [one["prompt_tokens"], one["completion_tokens"]]
        known = ["?" if count is None else str(count) for count in counts]
        words.append(f"{known[0]} prompt + {known[1]} completion tokens")
    return ", ".join(words)
