"""Small pytest projects that the benchmarks run, and what such a run needs and takes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
from _child import program

#: Of the installed plugins, a run loads those that it names.
PLUGIN = ("-p", "pytest_mlc_server.plugin", "--mlc-engine=mock")

SAMPLE_EVERY = 0.1


@dataclass(frozen=True)
class Run:
    """What a run took.

    Parameters
    ----------
    wall
        Seconds from start to end.
    peak
        Highest sum of the resident memory of all its processes, in bytes; 0 if not watched.
    """

    wall: float
    peak: float


class Project:
    """A directory with tests, and the child that serves them.

    Parameters
    ----------
    directory
        Where to put it: it must be empty.
    files
        Text by name of the file.
    """

    def __init__(self, directory: str, files: Mapping[str, str]) -> None:
        self.directory = directory
        self.child = program(directory)
        self.notes = os.path.join(directory, "notes")
        # Servers that wait for their next run are this benchmark's own.
        self._runtime = os.path.join(directory, "runtime")
        for path in (self.notes, self._runtime):
            os.mkdir(path)
        for name, text in {"pytest.ini": "[pytest]\n", **files}.items():
            with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                file.write(text)

    def environment(self, variables: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a run."""
        return {
            **os.environ,
            "XDG_RUNTIME_DIR": self._runtime,
            "CHILD_NOTES": self.notes,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            **(variables or {}),
        }

    def run(self, *args: str, watch: bool = False, env: Mapping[str, str] | None = None) -> Run:
        """Run pytest; raise RuntimeError if a test fails."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args]
        began = time.perf_counter()
        with subprocess.Popen(
            command,
            cwd=self.directory,
            env=self.environment(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            with watching(process.pid) if watch else _nothing() as peak:
                output, _ = process.communicate()
            wall = time.perf_counter() - began
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
        return Run(wall, peak[0])

    def served(self, *args: str, watch: bool = False, env: Mapping[str, str] | None = None) -> Run:
        """Run pytest with the plugin and the child."""
        flags = (*PLUGIN, f"--mlc-python={self.child}", *args)
        return self.run(*flags, watch=watch, env=env)

    def stop_all(self) -> None:
        """Stop the servers that wait for their next run."""
        command = [sys.executable, "-m", "pytest_mlc_server", "stop", "--all"]
        subprocess.run(command, env=self.environment(), check=False, capture_output=True)

    def note(self, name: str) -> float:
        """Return the number that a run left in a file of that name."""
        with open(os.path.join(self.notes, name), encoding="ascii") as file:
            return float(file.read())


@contextmanager
def _nothing() -> Iterator[list[float]]:
    yield [0.0]


@contextmanager
def watching(pid: int) -> Iterator[list[float]]:
    """Sample the memory of a process and all below it; the list holds the highest sum."""
    peak, over = [0.0], threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_EVERY):
            peak[0] = max(peak[0], sum(map(_resident, _tree(pid))))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _resident(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss)
    except psutil.Error:
        return 0.0
