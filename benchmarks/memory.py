"""Memory of the guardian's two processes while a server is ready.

RSS counts pages that processes share as often as they are shared; PSS divides them; USS leaves them
out: it is what the end of the process would give back. No peer has such a process: bare
interpreters of the same kind stand beside it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile

import psutil
from _child import program
from _measure import report, runs_argument, table, verdict
from _peers import MODEL

from pytest_mlc_server import PopenServer

KINDS = ("rss", "pss", "uss")
BOTH = "guardian, both processes"


def mib(size: float) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def sizes(pid: int) -> dict[str, float]:
    full = psutil.Process(pid).memory_full_info()
    return {kind: getattr(full, kind) for kind in KINDS}


def guardian(server: PopenServer) -> dict[str, int]:
    """Return the watcher and the keeper: the server's grandparent and parent."""
    keeper = psutil.Process(server.pid).parent()
    watcher = keeper.parent() if keeper else None
    if keeper is None or watcher is None:
        raise RuntimeError("the server has no guardian")
    return {"guardian: watcher": watcher.pid, "guardian: keeper": keeper.pid}


def bare(*flags: str) -> dict[str, float]:
    """Measure an interpreter that does nothing."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, *flags, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("no pipes")
        child.stdout.readline()
        found = sizes(child.pid)
        child.stdin.close()
    return found


def main() -> None:
    runs = runs_argument(__doc__, 5)
    with report("memory of the guardian"), tempfile.TemporaryDirectory() as directory:
        child = program(directory)
        taken: dict[str, list[dict[str, float]]] = {}
        for _ in range(runs):
            with PopenServer(
                MODEL,
                engine="mock",
                port="auto",
                python=child,
                env={"CHILD_NOTES": directory, "CHILD_DELAY": "0.5"},
            ) as server:
                found = {name: sizes(pid) for name, pid in guardian(server).items()}
            found[BOTH] = {kind: sum(one[kind] for one in found.values()) for kind in KINDS}
            found["python -c pass"] = bare()
            found["python -I -S -c pass"] = bare("-I", "-S")
            for name, one in found.items():
                taken.setdefault(name, []).append(one)
        for kind in KINDS:
            results = {name: [one[kind] for one in values] for name, values in taken.items()}
            table(kind.upper(), results, ours=BOTH, show=mib)
        both = statistics.median(one["rss"] for one in taken[BOTH])
        verdict("RSS of both together", both, 30 << 20, show=mib)


if __name__ == "__main__":
    main()
