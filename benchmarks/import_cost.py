"""What the plugin costs a project that has it installed and does not use it.

First the import of plugin modules in fresh interpreters that have imported pytest. Then
``pytest --collect-only`` on a directory with one test: the same command with and without each
plugin, in pairs, each pair in turn; the noise is the difference between two runs of one command.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from time import perf_counter

from _measure import Results, interleave, ms, report, runs_argument, table, verdict

MODULES = {
    "pytest-mlc-server": "pytest_mlc_server.plugin",
    "pytest-xdist": "xdist.plugin",
    "pytest-xprocess": "xprocess.pytest_xprocess",
    "mirakuru (no plugin)": "mirakuru",
}
BLOCKED = {
    "pytest-mlc-server": ("mlc_server",),
    "pytest-xdist": ("xdist", "xdist.looponfail"),
    "pytest-xprocess": ("xprocess",),
    "noise (same command)": (),
}
OURS = "pytest-mlc-server"

_IMPORT = """
import sys, pytest
from time import perf_counter
began = perf_counter()
import {module}
print(perf_counter() - began)
"""


def import_time(module: str) -> float:
    """Import a module in a fresh interpreter, after pytest."""
    code = _IMPORT.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def collect(directory: str, blocked: tuple[str, ...]) -> tuple[float, float]:
    """Run ``pytest --collect-only``; return its wall-clock and its CPU time."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    for name in blocked:
        command += ["-p", f"no:{name}"]
    began = perf_counter()
    child = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    wall = perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"pytest --collect-only ended with {child.returncode}")
    return wall, usage.ru_utime + usage.ru_stime


def spread(values: list[float]) -> float:
    """Return the half-width of the middle half of the values."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (0.0, 0.0, 0.0)
    return (high - low) / 2


def main() -> None:
    runs = runs_argument(__doc__, 12)
    with report("cost of an installed plugin"), tempfile.TemporaryDirectory() as directory:
        for module in MODULES.values():
            import_time(module)  # the byte code is there from now on

        def importer(module: str) -> Callable[[], float]:
            return lambda: import_time(module)

        imports = interleave({name: importer(one) for name, one in MODULES.items()}, runs)
        table("import after pytest", imports, ours=OURS)
        verdict("median", statistics.median(imports[OURS]), 0.001)

        with open(os.path.join(directory, "test_one.py"), "w", encoding="ascii") as file:
            file.write("def test_one(): pass\n")
        cpu: Results = {name: [] for name in BLOCKED}
        turn = iter(range(runs * len(BLOCKED)))

        def pair(name: str) -> Callable[[], float]:
            def measure() -> float:
                order = [(), BLOCKED[name]]
                if next(turn) // len(BLOCKED) % 2:  # the second run of a pair may have it easier
                    order.reverse()
                taken = [collect(directory, blocked) for blocked in order]
                if order[0] != ():
                    taken.reverse()
                cpu[name].append(taken[0][1] - taken[1][1])
                return taken[0][0] - taken[1][0]

            return measure

        wall = interleave({name: pair(name) for name in BLOCKED}, runs)
        table("collect-only, with - without (wall)", wall, ours=OURS, ratio=False)
        table("collect-only, with - without (CPU)", cpu, ours=OURS, ratio=False)
        noise = spread(wall["noise (same command)"])
        print(f"noise: half of all differences between equal commands are within +-{ms(noise)}")
        verdict("|median difference|, wall", abs(statistics.median(wall[OURS])), noise)


if __name__ == "__main__":
    main()
