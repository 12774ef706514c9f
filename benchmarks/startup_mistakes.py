"""How a mistake is reported, and when: by this package, by its peers, by the real server.

Every recorded start of ``mlc_llm serve`` that failed is rebuilt with small files and a server that
behaves as the real one did: it prints the recorded log at once and ends with the recorded exit
code, or hangs for ever where the real one did. Seconds are those of a server that says at once what
the real one says after the seconds of the recording (a model of 0.3 MB on 2 cores).
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import _candidates as names
import _mistakes
from _alone import alone
from _mistakes import RECORDED
from _results import MORE, NEVER, SECONDS, SHARE, TAKEN_FOR_READY, Cell, Grid, Table
from _rounds import Effort, reason, together
from _suites import SUITES, UPSTREAM_LIMITED, Suite
from _trial import Bench, bench, run

#: How long those wait who do not notice, in seconds.
WAIT = 3.0

#: Runs at a time: most of the time is waiting.
JOBS = 4

REAL = "the real server says it after"

SUMMARY = f"""
{len(RECORDED)} mistakes in files, settings and ports that `mlc_llm serve` was recorded to fail
with, each in a suite with a fixture of each candidate. The server prints the recorded log at once
and ends, or hangs, as the real one did; who does not notice waits {WAIT:g} s. An error names the
cause if it has the setting, value or file that is wrong elsewhere than in the command line;
"anywhere in pytest's output" includes what the server wrote itself.
"""

EACH = """
From asking for the fixture to the error. The real server needs some seconds to get there, all of
which a candidate waits that does not look before it starts: they are in the first column, and not
in the others.
"""

#: The server: says what the real server said, and ends as it did.
_SERVER = """
import json, os, sys, threading, time
with open(os.path.join(os.environ["CHILD_NOTES"], "began"), "w") as file:
    file.write(repr(time.monotonic()))
with open(os.environ["RECORDED"], encoding="utf-8") as file:
    recorded = json.load(file)
print(recorded["stderr"], file=sys.stderr, flush=True)
if recorded["returncode"] is None:
    threading.Event().wait()
os._exit(recorded["returncode"])
"""

_COMMAND = """
import json

def command(port):
    return json.loads(os.environ["MISTAKE_COMMAND"])

def free_port():
    return int(os.environ["MISTAKE_PORT"])
"""

_OURS = """
@pytest.fixture(scope="session")
def server():
    from pytest_mlc_server import PopenServer

    variables = {name: os.environ[name] for name in ("PYTHONPATH", "RECORDED", "CHILD_NOTES")}
    with PopenServer(**json.loads(os.environ["MISTAKE_PARAMETERS"]), env=variables) as server:
        yield server.base_url
"""


def candidates() -> dict[str, Suite]:
    """Return the suites: those of everybody who starts a command."""
    mine = Suite(names.OURS, _COMMAND + _OURS, ("-p", "pytest_mlc_server.plugin"))
    fixtures = {name: SUITES[name] for name in (names.POPEN, names.XPROCESS, names.MIRAKURU)}
    fixtures[names.UPSTREAM] = UPSTREAM_LIMITED
    others = {
        name: Suite(name, _COMMAND + fixtures[name].fixture, fixtures[name].flags)
        for name in names.OWNERS
        if name in fixtures
    }
    return {names.OURS: mine, **others}


@dataclass
class Outcome:
    """What became of a mistake: the seconds, and where its cause was named."""

    seconds: float | None = None
    before: bool = False
    named: bool = False
    shown: bool = False
    note: str = ""


#: By mistake and candidate.
Found = dict[tuple[str, str], list[Outcome]]


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def somebody_else() -> Iterator[int]:
    """Have another program's web server at a port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def port_of(name: str) -> Iterator[int]:
    """Return the port for a mistake: one that is free, or that somebody else has."""
    with somebody_else() as port:
        if name == _mistakes.PORT_IN_USE:
            yield port
            return
    yield port


def make(place: Bench, suite: Suite, name: str) -> Outcome:
    """Make a mistake once."""
    home = place.suite(suite)
    try:
        _mistakes.write_files(home, name)
        package = home / "server" / "mlc_llm"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(_SERVER)
        with port_of(name) as port:
            return _attempt(place, home, suite, name, port)
    except Exception as error:  # one candidate's failure is not the others'
        return Outcome(note=reason(error))
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _attempt(place: Bench, home: Path, suite: Suite, name: str, port: int) -> Outcome:
    given = _mistakes.parameters(home, name, port)
    trial = run(
        place,
        home,
        suite,
        CHILD_LIMIT=str(WAIT),
        PYTHONPATH=str(home / "server"),
        RECORDED=str(home / "recorded.json"),
        MISTAKE_PORT=str(port),
        MISTAKE_PARAMETERS=json.dumps(given),
        MISTAKE_COMMAND=json.dumps(_mistakes.command(sys.executable, given, port)),
    )
    if "failed" not in trial.notes:
        return Outcome(note=TAKEN_FOR_READY)
    return Outcome(
        trial.between("asked", "failed"),
        before="began" not in trial.notes,
        named=_mistakes.names_cause(name, trial.error),
        shown=_mistakes.names_cause(name, trial.output),
    )


def measure(effort: Effort) -> list[Table]:
    """Make all mistakes with all candidates."""
    mistakes = list(RECORDED)[:: 12 if effort.quick else 1]
    suites = candidates()
    if effort.quick:
        suites = {name: suites[name] for name in (names.OURS, names.MIRAKURU)}
    found: Found = {}
    with bench() as place:
        pairs = [(name, who) for name in mistakes for who in suites] * effort.runs
        outcomes = together(JOBS, make, [(place, suites[who], name) for name, who in pairs])
    for pair, outcome in zip(pairs, outcomes, strict=True):
        found.setdefault(pair, []).append(outcome)
    return [_summary(found, mistakes, list(suites)), _each(found, mistakes, list(suites))]


def _summary(found: Found, mistakes: list[str], who: list[str]) -> Table:
    rows = {}
    for name in who:
        mine = [outcome for mistake in mistakes for outcome in found[mistake, name]]
        told = [one for one in mine if not one.note.startswith("failed")]
        why = names.missing(name)

        def share(values: list[bool], why: str = why) -> Cell:
            return Cell([float(value) for value in values], why)

        rows[name] = {
            "before anything is started": share([one.before for one in told]),
            "reported at all": share([one.seconds is not None for one in told]),
            "the error names the cause": share([one.named for one in told]),
            "anywhere in pytest's output": share([one.shown for one in told]),
            "time to the error": Cell([one.seconds for one in told if one.seconds is not None]),
        }
    columns = list(rows[names.OURS])
    units = dict.fromkeys(columns, SHARE) | {columns[-1]: SECONDS}
    better = dict.fromkeys(columns[:-1], MORE)
    return Grid(
        "mistakes", "Start-up mistakes", SUMMARY, "reported", rows, names.OURS, units, better
    )


def _each(found: Found, mistakes: list[str], who: list[str]) -> Table:
    rows = {}
    for mistake in mistakes:
        real = RECORDED[mistake]["seconds"]
        rows[mistake] = {REAL: Cell([real]) if real else Cell(note=NEVER)}
        for name in who:
            outcomes = found[mistake, name]
            seconds = [one.seconds for one in outcomes if one.seconds is not None]
            rows[mistake][name] = Cell(seconds, "" if seconds else outcomes[0].note)
    units = dict.fromkeys([REAL, *who], SECONDS)
    return Grid("mistakes-each", "Each mistake", EACH, "mistake", rows, names.OURS, units)


if __name__ == "__main__":
    alone(__doc__, measure, runs=1)
