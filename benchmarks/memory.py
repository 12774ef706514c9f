"""Memory of the guardian's two processes while a server is ready.

RSS counts pages that processes share as often as they are shared; PSS divides them; USS leaves them
out: it is what the end of the process would give back.
"""

from __future__ import annotations

import tempfile

import psutil
from _alone import alone
from _child import program
from _results import BYTES, Cell, Grid, Table
from _rounds import Effort

from pytest_mlc_server import PopenServer, engines

KINDS = ("rss", "pss", "uss")
BOTH = "pytest-mlc-server: the guardian"
WATCHER, KEEPER = f"{BOTH}, its watcher", f"{BOTH}, its keeper"
OTHERS = "all others"

WHAT = """
Beside the server, as long as it lives. RSS counts pages that processes share as often as they are
shared, PSS divides them, USS leaves them out. The others start no process of their own, but for
testcontainers, which has a container beside (Ryuk), and Docker's daemon.
"""


def sizes(pid: int) -> dict[str, float]:
    """Return the memory of a process in three ways of counting."""
    full = psutil.Process(pid).memory_full_info()
    return {kind: float(getattr(full, kind)) for kind in KINDS}


def guardian(server: PopenServer) -> dict[str, int]:
    """Return the watcher and the keeper: the server's grandparent and parent."""
    keeper = psutil.Process(server.pid).parent()
    watcher = keeper.parent() if keeper else None
    if keeper is None or watcher is None:
        raise RuntimeError("the server has no guardian")
    return {WATCHER: watcher.pid, KEEPER: keeper.pid}


def once(directory: str, child: str) -> dict[str, dict[str, float]]:
    """Measure all processes once."""
    with PopenServer(
        engines.mock_model(),
        engine="mock",
        port="auto",
        python=child,
        env={"CHILD_NOTES": directory, "CHILD_DELAY": "0.5"},
    ) as server:
        found = {name: sizes(pid) for name, pid in guardian(server).items()}
    both = {kind: sum(one[kind] for one in found.values()) for kind in KINDS}
    nothing = dict.fromkeys(KINDS, 0.0)
    return {BOTH: both, **found, OTHERS: nothing}


def measure(effort: Effort) -> list[Table]:
    """Measure the guardian, and what stands beside it."""
    rows: dict[str, dict[str, Cell]] = {}
    with tempfile.TemporaryDirectory() as directory:
        child = program(directory)
        for _ in range(effort.runs):
            for name, found in once(directory, child).items():
                row = rows.setdefault(name, {kind.upper(): Cell() for kind in KINDS})
                for kind, size in found.items():
                    row[kind.upper()].values.append(size)
    units = {kind.upper(): BYTES for kind in KINDS}
    return [Grid("memory", "Memory beside the server", WHAT, "", rows, BOTH, units)]


if __name__ == "__main__":
    alone(__doc__, measure, runs=5)
