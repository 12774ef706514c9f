"""The start of a second run, of a server that takes three seconds to start.

A first run goes before each measurement. Then: the server that it left is taken again, or a process
that has imported the server's package already, or a server is started anew.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import _candidates as names
import _mistakes
from _alone import alone
from _results import Figures, Table
from _rounds import Effort, rounds
from _suites import SUITES, Suite
from _trial import Bench, Watch, bench, run

STANDIN = Path(__file__).resolve().parent.parent / "tests" / "standin"

SECONDS = "3"

REUSE = f"{names.OURS}, --mlc-reuse"
WARM = f"{names.OURS}, --mlc-launch warm"
AGAIN = f"{names.OURS}, started again"
KEPT = f"{names.XPROCESS}, left running"

WHAT = f"""
From asking for the fixture to having it, in the second of two runs, of a server that takes
{SECONDS} s to start. `--mlc-reuse` and xprocess without its `terminate` take the server that the
first run left; ours asks it for a token and resets its engine first, xprocess looks whether its
process lives. With `--mlc-launch warm` the {SECONDS} s are the import of the server's package,
which a waiting process has done; the others start anew.
"""

_KEPT = (
    SUITES[names.XPROCESS]
    .fixture.replace("    xprocess.getinfo(name).terminate()\n", "")
    .replace("free_port()", 'int(os.environ["CHILD_PORT"])')
)


#: What pytest is told beside each candidate's own flags.
FLAGS = {REUSE: ("--mlc-reuse=120",)}

SUITES_HERE = {
    REUSE: SUITES[names.OURS],
    WARM: Suite(names.OURS, SUITES[names.OURS].fixture),
    KEPT: Suite(names.XPROCESS, _KEPT, SUITES[names.XPROCESS].flags),
    AGAIN: SUITES[names.OURS],
    names.POPEN: SUITES[names.POPEN],
    names.UPSTREAM: SUITES[names.UPSTREAM],
    names.MIRAKURU: SUITES[names.MIRAKURU],
}


def warm_flags(home: Path) -> tuple[str, ...]:
    """Return the flags with which a stand-in's package is imported once, and then forked."""
    _mistakes.write_model(home)
    places = os.pathsep.join(str(STANDIN / name) for name in ("launch", ""))
    return (
        *("-p", "pytest_mlc_server.plugin", f"--mlc-model={home / 'model'}", "--mlc-device=cpu"),
        *("--mlc-launch=warm", "--mlc-warm=120", f"--mlc-python={sys.executable}"),
        f"--mlc-env=PYTHONPATH={places}",
        f"--mlc-env=STANDIN_LAUNCH=import={SECONDS}",
    )


class Second:
    """Second runs of one candidate."""

    def __init__(self, place: Bench, name: str) -> None:
        self._place, self._suite = place, SUITES_HERE[name]
        self._home = place.suite(self._suite)
        self._flags = warm_flags(self._home) if name == WARM else FLAGS.get(name, ())
        self._first = name in (REUSE, WARM, KEPT)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._port = str(server.getsockname()[1])

    def start(self) -> float:
        """Return the seconds from asking for the fixture to having it."""
        if self._first:
            self._run()
            self._first = False
        return self._run()

    def _run(self) -> float:
        trial = run(
            self._place,
            self._home,
            self._suite,
            *self._flags,
            watch=Watch(keep=True),
            CHILD_DELAY=SECONDS,
            CHILD_PORT=self._port,
        )
        if trial.returncode != 0:
            raise RuntimeError(f"pytest ended with {trial.returncode}: {trial.output[-300:]}")
        return trial.between("asked", "got")


def measure(effort: Effort) -> list[Table]:
    """Measure second runs in turn."""
    with bench() as place:
        wanted = (REUSE, KEPT) if effort.quick else tuple(SUITES_HERE)
        again = {name: Second(place, name) for name in wanted}
        fewer = dict.fromkeys([AGAIN, names.POPEN, names.UPSTREAM, names.MIRAKURU], 3)
        starts = {name: one.start for name, one in again.items()}
        cells = rounds(starts, effort.runs, fewer)
    return [Figures("reuse", "The start of a second run", WHAT, cells, REUSE)]


if __name__ == "__main__":
    alone(__doc__, measure, runs=6)
