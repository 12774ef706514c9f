"""What a plugin costs a project that has it installed and does not use it.

First the import of plugin modules in fresh interpreters that have imported pytest. Then
``pytest --collect-only`` on a directory with one test: the same command with and without each
plugin, in pairs, each pair in turn; the noise is the difference between two runs of one command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

import _candidates as names
from _alone import alone
from _results import Figures, Table
from _rounds import Effort, NotMeasuredError, rounds

#: What pytest imports of each plugin, and what a fixture of the two that have none imports.
MODULES = {
    names.OURS: "pytest_mlc_server.plugin",
    names.XDIST: "xdist.plugin",
    names.XPROCESS: "xprocess.pytest_xprocess",
    names.MIRAKURU: "mirakuru",
    names.TESTCONTAINERS: "testcontainers.core.container",
    names.DOCKER_TOOLS: "pytest_docker_tools.plugin",
    names.DOCKER: "pytest_docker",
}
NO_PLUGIN = {
    names.MIRAKURU: f"{names.MIRAKURU} (no plugin)",
    names.TESTCONTAINERS: f"{names.TESTCONTAINERS} (no plugin)",
}

PLUGINS = {
    names.OURS: ("pytest_mlc_server.plugin",),
    names.XDIST: ("xdist",),
    names.XPROCESS: ("xprocess.pytest_xprocess",),
    names.DOCKER_TOOLS: ("pytest_docker_tools.plugin",),
    names.DOCKER: ("pytest_docker",),
}
NOISE = "noise: the same command twice"

IMPORT = """
The import of a plugin's module in a fresh interpreter that has imported pytest: what every run of
every project pays that has it installed. mirakuru and testcontainers are no plugins: what their
fixtures import is paid by runs that use them.
"""

COLLECT = """
The CPU time of `pytest --collect-only` on one test, with the plugin less without it, in pairs.
Besides the import it has the registration of options and hooks.
"""

_IMPORT = """
import sys, pytest
from time import perf_counter
began = perf_counter()
import {module}
print(perf_counter() - began)
"""


def require(name: str) -> None:
    """Raise NotMeasuredError if a plugin is not installed."""
    if name in names.PACKAGES and not names.installed(name):
        raise NotMeasuredError(names.NOT_INSTALLED)


def import_time(name: str) -> float:
    """Import a plugin's module in a fresh interpreter, after pytest."""
    require(name)
    code = _IMPORT.format(module=MODULES[name])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return float(done.stdout)


def collect(directory: str, plugins: tuple[str, ...]) -> float:
    """Run ``pytest --collect-only``; return its CPU time."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    for name in plugins:
        command += ["-p", name]
    child = subprocess.Popen(
        command,
        cwd=directory,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"pytest --collect-only ended with {child.returncode}")
    return usage.ru_utime + usage.ru_stime


class Pairs:
    """Runs with and without a plugin, of which the first is now the one, now the other."""

    def __init__(self, directory: str, name: str) -> None:
        self._directory, self._name = directory, name
        self._turn = 0

    def difference(self) -> float:
        """Run a pair; return what the plugin added."""
        require(self._name)
        order = [PLUGINS.get(self._name, ()), ()]
        if self._turn % 2:
            order.reverse()
        taken = [collect(self._directory, plugins) for plugins in order]
        if self._turn % 2:
            taken.reverse()
        self._turn += 1
        return taken[0] - taken[1]


def _importer(name: str) -> Callable[[], float]:
    return lambda: import_time(name)


def measure(effort: Effort) -> list[Table]:
    """Measure imports and collections."""
    # As on a user's machine: nothing is compiled anew in each process.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    importers = {name: _importer(name) for name in MODULES}
    if not effort.quick:
        rounds(importers, 1)  # the byte code is there from now on
    imports = rounds(importers, effort.runs)
    named = {NO_PLUGIN.get(name, name): cell for name, cell in imports.items()}
    with tempfile.TemporaryDirectory() as directory:
        with open(os.path.join(directory, "test_one.py"), "w", encoding="ascii") as file:
            file.write("def test_one(): pass\n")
        wanted = (names.OURS, NOISE) if effort.quick else (*PLUGINS, NOISE)
        pairs = {name: Pairs(directory, name).difference for name in wanted}
        collected = rounds(pairs, effort.runs)
    return [
        Figures("import", "Import tax", IMPORT, named, names.OURS),
        Figures(
            "collect",
            "An installed plugin, in CPU time of a run",
            COLLECT,
            collected,
            names.OURS,
            compare=False,
            noise=NOISE,
        ),
    ]


if __name__ == "__main__":
    alone(__doc__, measure, runs=12)
