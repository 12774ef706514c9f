"""The engine's event trace, as Perfetto and ``chrome://tracing`` read it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import json
import os
import re
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pytest_mlc_server.logs import OWN_QUERY

if TYPE_CHECKING:
    from pytest_mlc_server.server import PopenServer

Event = Mapping[str, Any]

#: Time limit of a dump, in seconds: the real server takes 5 s for 40 requests of 100 tokens, and
#: dumps all requests since its start.
DUMP_WITHIN = 120.0

#: A longer answer is not taken, in bytes: parsed, it would need ten times that.
LONGEST = 256 << 20

#: Characters of a file's name that are the test's; with the rest, it fits any file system.
NAME_LENGTH = 80


class TraceError(Exception):
    """There is no trace, and why."""


class NoTracingError(TraceError):
    """The server dumps none at all: its debug endpoints or its tracing are off."""


# --- the file -------------------------------------------------------------------------------------


def perfetto(events: Iterable[Event]) -> dict[str, Any]:
    """Return a trace that viewers open, from the events that a server dumps.

    The server names threads after requests, by texts. The viewers want numbers there, and names
    apart from them: else every request ends up on the same line, or nothing is shown at all.

    Parameters
    ----------
    events
        What ``POST /debug/dump_event_trace`` answers.

    Returns
    -------
    dict
        To be written as JSON.
    """
    numbers: dict[tuple[Any, Any], int] = {}
    shown = []
    for event in events:
        thread = event.get("pid"), event.get("tid")
        number = numbers.setdefault(thread, len(numbers) + 1)
        shown.append({**event, "tid": number})
    names = [_name("thread_name", pid, number, tid) for (pid, tid), number in numbers.items()]
    return {"traceEvents": [*names, *shown], "displayTimeUnit": "ms"}


def of_test(
    test: str, began: float, ended: float, servers: Sequence[tuple[str, Sequence[Event]]]
) -> dict[str, Any]:
    """Return the trace of one test: what its servers did meanwhile, and the test itself.

    Parameters
    ----------
    test
        Its node id.
    began, ended
        When, in seconds since 1970.
    servers
        Each server's name, and its events of that time.
    """
    first, last = round(began * 1e6), round(ended * 1e6)
    own = {"name": test, "ph": "X", "ts": first, "dur": last - first, "pid": 0, "tid": "test"}
    events: list[Event] = [own]
    for number, (_, dumped) in enumerate(servers, 1):
        events += [{**event, "pid": number} for event in dumped]
    trace = perfetto(events)
    names = ["pytest", *(name for name, _ in servers)]
    trace["traceEvents"] += [_name("process_name", pid, 0, name) for pid, name in enumerate(names)]
    return {**trace, "otherData": {"test": test, "servers": names[1:]}}


def _name(what: str, pid: Any, tid: int, name: object) -> Event:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": str(name)}}


def between(events: Iterable[Event], began: float, ended: float) -> list[Event]:
    """Return the events of a time, without those of requests that only ask for the metrics.

    Parameters
    ----------
    events
        As dumped.
    began, ended
        In seconds since 1970.
    """
    within = [event for event in events if began * 1e6 <= event.get("ts", 0) <= ended * 1e6]
    happened: dict[Any, set[str]] = {}
    for event in within:
        happened.setdefault(event.get("tid"), set()).add(_kind(event))
    metrics = {
        request
        for request, names in happened.items()
        if "yield final usage" in names and not names & {"yield delta output", "detokenization"}
    }
    return [event for event in within if event.get("tid") not in metrics]


def _kind(event: Event) -> str:
    return str(event.get("name", "")).partition(" (")[0]


def write(trace: Mapping[str, Any], directory: str, test: str) -> str:
    """Write a trace to a new file, and return its path.

    Parameters
    ----------
    trace
        What to write.
    directory
        Where; made if it is not there.
    test
        The test's node id, which gives the file its name.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    os.makedirs(directory, exist_ok=True)
    stem = file_name(test)
    # A run removes no file, and takes no other's: earlier runs, workers and reruns have theirs.
    for number in itertools.count(1):
        ending = "" if number == 1 else f"-{number}"
        path = os.path.join(directory, f"{stem}{ending}.trace.json")
        try:
            file = open(path, "x", encoding="utf-8")  # noqa: SIM115 - closed below
        except FileExistsError:
            continue
        break
    try:
        with file:
            json.dump(trace, file, separators=(",", ":"))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)  # half a trace would open as if it were all
        raise
    return path


def file_name(test: str) -> str:
    """Return the beginning of a file's name for a test: safe everywhere, and the test's alone.

    Parameters
    ----------
    test
        Its node id.
    """
    plain = unicodedata.normalize("NFKD", test).encode("ascii", "ignore").decode()
    words = re.sub(r"[^A-Za-z0-9_]+", "-", plain.replace(".py", "")).strip("-")
    # The digest keeps apart what the words do not, and what differs in case alone; it also makes
    # sure that no name is one that a system has reserved.
    digest = hashlib.sha256(test.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{words[-NAME_LENGTH:].strip('-') or 'test'}-{digest}"


# --- the server -----------------------------------------------------------------------------------


def dump(server: PopenServer, timeout: float = DUMP_WITHIN) -> list[Event]:
    """Have a server dump all its events. It answers nothing else meanwhile.

    Parameters
    ----------
    server
        The server.
    timeout
        In seconds.

    Raises
    ------
    NoTracingError
        If it traces nothing.
    TraceError
        If it does not answer with a trace in time.
    """
    state = server.poll()
    if state != "ready":
        trouble = server.trouble.partition("\n")[0]
        raise TraceError(trouble or f"the server is {state}")
    where = "POST /debug/dump_event_trace"
    try:
        status, body = _ask(server, time.monotonic() + timeout)
    except TimeoutError:
        raise TraceError(f"{where}: no answer within {timeout:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise TraceError(f"{where}: {type(error).__name__}: {error}") from None
    if status != 200:
        words = body[:200].decode("utf-8", "replace").strip()
        kind = NoTracingError if status in (400, 404, 405) else TraceError
        raise kind(f"{where} answers {status}: {words or '(empty)'}")
    try:
        events = json.loads(body)
    except ValueError:
        events = None
    if isinstance(events, dict):
        events = events.get("traceEvents")
    if not isinstance(events, list):
        raise TraceError(f"{where} answers no list of events: {body[:100]!r}")
    return [event for event in events if isinstance(event, dict)]


def _ask(server: PopenServer, deadline: float) -> tuple[int, bytes]:
    parts = urlsplit(server.base_url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=deadline - time.monotonic())
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if server.api_key:
        headers["Authorization"] = f"Bearer {server.api_key}"
    try:
        path = f"{parts.path}/debug/dump_event_trace{OWN_QUERY}"
        connection.request("POST", path, json.dumps({"model": server.model}), headers)
        with connection.getresponse() as response:
            body = bytearray()
            while chunk := response.read1(1 << 20):
                body += chunk
                if time.monotonic() > deadline:
                    raise TimeoutError
                if len(body) > LONGEST:
                    raise http.client.HTTPException(f"more than {LONGEST >> 20} MiB of events")
            if response.length:  # it was cut off: a read of what is there does not say so
                raise http.client.IncompleteRead(bytes(body), response.length)
            return response.status, bytes(body)
    finally:
        connection.close()
