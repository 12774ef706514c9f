"""From the start of the simulator to its first answer, and what of that the imports take.

`listening` is the time to the line that names the port, `answering` that to the first answer. The
imports are timed twice: as programs of their own, which import what the simulator is built on and
nothing else, and, in the last table, by the interpreter itself, whose clock slows them down. CPU
time is what other programs on the machine change least.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from _measure import Results, _print_rows, interleave, ms, report, runs_argument, table, verdict
from _sim import MODELS, simulator

OURS = "simulator, model directory: answering"
IMPORTS = {
    "interpreter alone": "pass",
    "import fastapi, uvicorn": "import gc; gc.disable(); import fastapi, uvicorn",
    "import of all that a start imports": (
        "import gc; gc.disable(); import fastapi, uvicorn, uvicorn.protocols.http.h11_impl,"
        " uvicorn.lifespan.on, tokenizers,"
        " pytest_mlc_server.sim.cli, pytest_mlc_server.sim.startup, pytest_mlc_server.sim.serve"
    ),
}
#: What the last table has: each with what it imports, as far as nothing before it did.
SHOWN = ("fastapi", "uvicorn", "tokenizers", "pytest_mlc_server.sim")

GOAL = 0.7

_IMPORTED = re.compile(r"import time: +(\d+) \| +(\d+) \| ( *)(\S+)")


def imported(code: str) -> tuple[float, float]:
    """Run a program that imports, return its wall-clock and its CPU time."""
    began = time.perf_counter()
    # Without the interpreter's own end, which takes a simulator no time before its first answer.
    child = subprocess.Popen([sys.executable, "-c", f"{code}; import os; os._exit(0)"])
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"{code!r} ended with {child.returncode}")
    return wall, usage.ru_utime + usage.ru_stime


def shares() -> dict[str, float]:
    """Return the seconds that the imports of a start take, by package."""
    code = IMPORTS["import of all that a start imports"]
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = dict.fromkeys(SHOWN, 0.0)
    for _, total, indent, name in _IMPORTED.findall(done.stderr):
        for package in SHOWN:
            # Those at the left are what the program itself names, or what belongs to that.
            if not indent and (name == package or name.startswith(f"{package}.")):
                found[package] += int(total) / 1e6
    return found


def main() -> None:
    runs = runs_argument(__doc__, 10)
    with report("start of the simulator"):
        cpu: Results = {}
        listening: Results = {}

        def starter(name: str, told: str) -> Callable[[], float]:
            def start() -> float:
                with simulator(MODELS[name], told) as started:
                    cpu.setdefault(title(name, told), []).append(started.cpu())
                    listening.setdefault(title(name, told), []).append(started.listening)
                return started.answering

            return start

        def importer(name: str) -> Callable[[], float]:
            def start() -> float:
                wall, used = imported(IMPORTS[name])
                cpu.setdefault(name, []).append(used)
                return wall

            return start

        candidates: dict[str, Callable[[], float]] = {
            f"{title(name, told)}: answering": starter(name, told)
            for name, told in (
                ("model directory", "nothing"),
                ("built-in model", "nothing"),
                ("model directory", "token"),
                ("model directory", "script"),
            )
        }
        candidates.update({name: importer(name) for name in IMPORTS})
        for candidate in candidates.values():
            candidate()  # the byte code is there from now on
        cpu.clear()
        listening.clear()
        results = interleave(candidates, runs)
        table("from the start", results, ours=OURS)
        table("listening", listening, ours=title("model directory", "nothing"))
        table("CPU time until the first answer", cpu, ours=title("model directory", "nothing"))
        each = [shares() for _ in range(runs)]
        rows = [(package, ms(statistics.median(one[package] for one in each))) for package in SHOWN]
        _print_rows([("import, with the interpreter's clock", "median"), *rows])
        verdict("median from the start to the first answer", statistics.median(results[OURS]), GOAL)


def title(name: str, told: str) -> str:
    return f"simulator, {name}" + ("" if told == "nothing" else f", {told}")


if __name__ == "__main__":
    main()
