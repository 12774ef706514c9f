"""One server for all workers of pytest-xdist: ours, xdist's documented recipe, and one for each.

The recipe is "Making session-scoped fixtures execute only once" of xdist's documentation: a file
lock, and a file in which the first worker leaves what the others need. It has no teardown; here the
worker that started the server stops it, or nobody does.
"""

from __future__ import annotations

from pathlib import Path

import _candidates as names
from _alone import alone
from _results import BYTES, COUNT, SECONDS, SHARE, Cell, Grid, Table
from _rounds import Effort, NotMeasuredError, rounds
from _suites import SUITES, Suite
from _trial import Bench, Watch, bench, run

WORKERS = 4
SCOPE_RUN = f"{names.OURS}, --mlc-scope run"
SCOPE_WORKER = f"{names.OURS}, a server each"
RECIPE = "file lock, the starter stops the server"
RECIPE_LEFT = "file lock, nobody stops the server"

#: What is left may take this much longer than pytest, in seconds.
GRACE = 2.0

WHAT = f"""
24 tests of 0.05 to 0.5 s, drawn anew for each run, with `-n {WORKERS}`; each asks the server once.
The server takes a second to start and 100 MiB. A run fails if a test fails: with the recipe the
first worker stops the server when it has no test left, while others still use it.
"""

_RECIPE = """
import json, subprocess
from urllib.request import urlopen
from filelock import FileLock

@pytest.fixture(scope="session")
def server(tmp_path_factory, worker_id):
    path = tmp_path_factory.getbasetemp().parent / "server.json"
    process = None
    with FileLock(f"{path}.lock"):
        if path.is_file():
            url = json.loads(path.read_text())
        else:
            port = free_port()
            url = f"http://127.0.0.1:{port}"
            process = subprocess.Popen(command(port), stdout=subprocess.DEVNULL)
            while True:
                try:
                    urlopen(f"{url}/v1/models").close()
                    break
                except OSError:
                    time.sleep(0.1)
            path.write_text(json.dumps(url))
    yield url
    if process is not None and os.environ["CHILD_STOPS"]:
        process.terminate()
        process.wait()
"""

_TESTS = """
import os, random, time
from urllib.request import urlopen
import pytest

DRAW = random.Random(os.environ["CHILD_SEED"])

@pytest.mark.parametrize("seconds", [round(0.05 + 0.45 * DRAW.random(), 3) for _ in range(24)])
def test_it(server, seconds):
    time.sleep(seconds)
    urlopen(f"{server}/v1/models", timeout=60).close()
"""

SUITES_HERE: dict[str, tuple[Suite, tuple[str, ...]]] = {
    SCOPE_RUN: (SUITES[names.OURS], ("--mlc-scope=run",)),
    RECIPE: (Suite(RECIPE, _RECIPE), ()),
    RECIPE_LEFT: (Suite(RECIPE_LEFT, _RECIPE), ()),
    SCOPE_WORKER: (SUITES[names.OURS], ("--mlc-scope=worker",)),
}

FAILED, STARTED, LEFT, TIME, MEMORY = (
    "runs that failed",
    "servers started",
    "left alive",
    "time of a run",
    "peak memory",
)
UNITS = {FAILED: SHARE, STARTED: COUNT, LEFT: COUNT, TIME: SECONDS, MEMORY: BYTES}


class Shared:
    """Runs of one way to share."""

    def __init__(self, place: Bench, name: str) -> None:
        self._place, self._name = place, name
        self._suite, self._flags = SUITES_HERE[name]
        self._home: Path = place.suite(self._suite, _TESTS)
        self._turn = 0
        self.cells = {column: Cell() for column in UNITS}

    def run(self) -> float:
        """Run once."""
        if not names.version_of("pytest-xdist"):
            raise NotMeasuredError(f"pytest-xdist is {names.NOT_INSTALLED}")
        if "filelock" in self._suite.fixture and not names.version_of("filelock"):
            raise NotMeasuredError(f"filelock is {names.NOT_INSTALLED}")
        self._turn += 1
        trial = run(
            self._place,
            self._home,
            self._suite,
            *("-p", "xdist", f"-n{WORKERS}", *self._flags),
            watch=Watch(memory=True, left=GRACE),
            CHILD_DELAY="1",
            CHILD_MEMORY="100",
            CHILD_SEED=str(self._turn),
            CHILD_STOPS="" if self._name == RECIPE_LEFT else "yes",
        )
        if not trial.starts:
            raise RuntimeError(f"no server was started: {trial.output[-300:]}")
        values = (float(trial.returncode != 0), trial.starts, trial.left, trial.wall, trial.peak)
        for column, value in zip(UNITS, values, strict=True):
            self.cells[column].values.append(float(value))
        return trial.wall


def measure(effort: Effort) -> list[Table]:
    """Run each way in turn."""
    with bench() as place:
        wanted = (SCOPE_RUN, RECIPE) if effort.quick else tuple(SUITES_HERE)
        ways = {name: Shared(place, name) for name in wanted}
        done = rounds({name: way.run for name, way in ways.items()}, effort.runs)
    rows = {name: way.cells for name, way in ways.items()}
    for name, cell in done.items():
        for column in rows[name].values():
            column.note = cell.note
    title = f"One server for {WORKERS} workers"
    return [Grid("sharing", title, WHAT, "", rows, SCOPE_RUN, dict(UNITS))]


if __name__ == "__main__":
    alone(__doc__, measure, runs=6)
