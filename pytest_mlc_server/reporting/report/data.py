"""What a report holds: the JSON of ``--mlc-report report.json``, and what the page is made of.

docs/reference/report.md tells each field, and ``schema.json`` beside this file says the same to
programs. A field that is added keeps the number of the schema; one that changes or goes does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

from pytest_mlc_server.reporting.report import texts

SCHEMA = 1

#: What a test can come to. "unfinished": the run ended while it was running.
OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed", "xpassed", "unfinished")

#: Those that a reader looks for first.
BAD = ("failed", "error", "unfinished")


class Setting(TypedDict):
    """A setting that somebody made."""

    name: str
    value: str
    source: str


class Run(TypedDict):
    """The run as a whole."""

    started_at: float
    ended_at: float
    exit_status: int
    ended: str
    """How it ended, where that was not with its last test: the reason, else empty."""
    workers: int
    counts: dict[str, int]
    versions: dict[str, str]
    settings: list[Setting]
    root: str


class Section(TypedDict):
    """A part of a failing test's output."""

    title: str
    text: str


class Rerun(TypedDict):
    """An attempt at a test that was followed by another one."""

    start: float
    stop: float
    text: str


class Test(TypedDict):
    """A test: the last attempt at it."""

    nodeid: str
    file: str
    name: str
    worker: str
    outcome: str
    start: float
    stop: float
    durations: dict[str, float]
    text: str
    """Why it failed or was skipped."""
    sections: list[Section]
    cost: dict[str, Any] | None
    requests: list[dict[str, Any]]
    trace: str | None
    reruns: list[Rerun]


class Trouble(TypedDict):
    """What went wrong outside of a test: a worker that crashed, a module not collected."""

    where: str
    text: str


class Start(TypedDict):
    """One start of a server: the first, or one again."""

    at: float
    seconds: float
    phases: dict[str, float]


class Server(TypedDict):
    """A server of the run, as `reporting.servers.describe` tells it."""

    id: str
    ids: list[str]
    worker: str
    engine: str
    model: str
    device: str
    scope: str
    base_url: str
    urls: list[str]
    launched_at: float | None
    ready_at: float | None
    ended_at: float | None
    startup_seconds: float | None
    phases: dict[str, float]
    starts: list[Start]
    restarts: int
    incidents: list[dict[str, Any]]
    peak_memory: int | None
    memory: list[list[float]]
    requests: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    log: str | None
    reused: bool
    reused_from: dict[str, Any] | None
    shared: bool


class Report(TypedDict):
    """All of it."""

    schema: int
    run: Run
    servers: list[Server]
    tests: list[Test]
    collection_errors: list[Trouble]
    crashed_workers: list[Trouble]
    internal_errors: list[Trouble]
    cut: str
    """What was left out to keep the report small; empty where nothing was."""


_NO_SERVER: Server = {
    "id": "", "ids": [], "worker": "", "engine": "", "model": "", "device": "", "scope": "",
    "base_url": "", "urls": [], "launched_at": None, "ready_at": None, "ended_at": None,
    "startup_seconds": None, "phases": {}, "starts": [], "restarts": 0, "incidents": [],
    "peak_memory": None, "memory": [], "requests": None, "prompt_tokens": None,
    "completion_tokens": None, "log": None, "reused": False, "reused_from": None, "shared": False,
}  # fmt: skip


def server(known: Mapping[str, Any]) -> Server:
    """Return a server as the report has it, from what is known of it."""
    return cast("Server", {**_NO_SERVER, **known})


def counts(tests: Sequence[Test]) -> dict[str, int]:
    """Return how many tests came to what, without those that came to nothing of the kind."""
    found = dict.fromkeys(OUTCOMES, 0)
    for test in tests:
        found[test["outcome"]] += 1
    return {outcome: number for outcome, number in found.items() if number}


def cleaned(report: Report, hidden: Sequence[str]) -> Report:
    """Return a copy in which every text can be written, and none has a secret."""
    return cast("Report", _cleaned(report, hidden))


#: Words of ours, which stay even where somebody's secret is one of them.
_WORDS = ("outcome", "engine", "scope", "method", "source")


def _cleaned(value: Any, hidden: Sequence[str]) -> Any:
    if isinstance(value, str):
        return texts.clean(value, hidden)
    if isinstance(value, dict):
        return {
            texts.clean(str(key)): _cleaned(one, () if key in _WORDS else hidden)
            for key, one in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_cleaned(one, hidden) for one in value]
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None  # JSON has no NaN and no infinity
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return texts.clean(str(value), hidden)
