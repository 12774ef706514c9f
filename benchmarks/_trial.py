"""One run of a candidate's suite, and what was noted in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import _candidates
import _docker
from _child import program
from _processes import bearing, kill_all, wait_until
from _project import watching
from _suites import Suite

from pytest_mlc_server import engines

#: How long the peers wait for a child that never becomes ready, in seconds.
LIMIT = 5.0

#: No run takes longer, in seconds: only a defect reaches it.
WATCHDOG = 120.0

#: In the environment of all processes of a run; its value is the run's directory.
TOKEN = "RUN_TOKEN"

ONE_TEST = "def test_it(server): pass\n"


@dataclass(frozen=True)
class Bench:
    """What all runs share.

    Parameters
    ----------
    directory
        Where everything is put.
    child
        The program that serves.
    image
        The image in which it serves; empty where there is no Docker daemon.
    """

    directory: Path
    child: str
    image: str

    def suite(self, suite: Suite, tests: str = ONE_TEST) -> Path:
        """Write a suite; return its directory."""
        home = Path(tempfile.mkdtemp(prefix="suite-", dir=self.directory))
        (home / "pytest.ini").write_text("[pytest]\n", encoding="ascii")
        (home / "conftest.py").write_text(suite.conftest, encoding="utf-8")
        (home / "test_it.py").write_text(tests, encoding="utf-8")
        return home

    def command(self, suite: Suite, *flags: str) -> list[str]:
        """Return the command line of a run."""
        words = [sys.executable, "-m", "pytest", *suite.flags, *flags]
        return [word.replace("{child}", self.child) for word in words]

    def environment(self, home: Path, variables: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a run in a directory, with a place for its notes."""
        ours = ("PYTEST_", "MLC_", "STANDIN", "CHILD_")
        keep = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        notes = tempfile.mkdtemp(prefix="notes-", dir=home)
        os.chmod(notes, 0o777)  # for the child in a container, who may be somebody else
        if not _docker.ryuk():
            keep["TESTCONTAINERS_RYUK_DISABLED"] = "true"
        return {
            **keep,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "TMPDIR": str(home),
            "XDG_RUNTIME_DIR": str(home),
            TOKEN: str(home),
            "CHILD": self.child,
            "CHILD_MODEL": engines.mock_model(),
            "CHILD_LIMIT": str(LIMIT),
            "CHILD_IMAGE": self.image,
            "CHILD_LABEL": _docker.LABEL,
            "CHILD_NOTES": notes,
            **variables,
        }


@contextmanager
def bench() -> Iterator[Bench]:
    """Set up what runs share; nothing of any run is left afterwards."""
    # As on a user's machine: nothing is compiled anew in each process.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="bench-") as path:
        directory = Path(os.path.realpath(path))
        child = program(str(directory))
        package = directory / "package" / "mlc_llm"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        shutil.copyfile(child, package / "__main__.py")
        try:
            with _docker.image() as image:
                yield Bench(directory, child, image)
        finally:
            kill_all(str(directory))
            _docker.remove(str(directory))


@dataclass
class Trial:
    """What came of a run: times are readings of the monotonic clock.

    Parameters
    ----------
    returncode, output
        How pytest ended, and what it said.
    notes
        Times by name: `asked`, `got`, `failed`, `teardown`, `torn-down` of pytest; `began`,
        `ready`, `end` of the child.
    texts
        What the notes say beside the time: of `failed`, type and text of the exception.
    starts
        How many servers were started.
    wall
        Seconds from the start of pytest to its end.
    peak
        Highest sum of the resident memory of all its processes, in bytes; 0 if not watched.
    left
        Processes that were left alive, after a grace if they were to be counted.
    """

    returncode: int
    output: str
    notes: dict[str, float]
    texts: dict[str, str]
    starts: int
    wall: float
    peak: float
    left: int

    @property
    def error(self) -> str:
        """Type and text of the exception with which the fixture failed; empty if it did not."""
        return self.texts.get("failed", "")

    def between(self, first: str, second: str) -> float:
        """Return the seconds between two notes.

        Raises
        ------
        RuntimeError
            If one is missing.
        """
        for name in (first, second):
            if name not in self.notes:
                said = " | ".join(self.output.splitlines()[-12:])
                raise RuntimeError(f"no note {name!r}; pytest ended with {self.returncode}: {said}")
        return self.notes[second] - self.notes[first]


def read_notes(directory: Path) -> tuple[dict[str, float], dict[str, str]]:
    """Return the times and the texts that were noted."""
    times, texts = {}, {}
    for path in directory.iterdir():
        if "." not in path.name:  # the others are no notes, or those of somebody who was killed
            first, _, texts[path.name] = path.read_text(encoding="utf-8").partition("\n")
            times[path.name] = float(first)
    return times, texts


@dataclass(frozen=True)
class Watch:
    """What a run is watched for.

    Parameters
    ----------
    memory
        Sample the memory of its processes.
    left
        Wait so long for what it leaves alive to end, in seconds.
    keep
        Do not kill what it leaves alive.
    """

    memory: bool = False
    left: float = 0.0
    keep: bool = False


def run(
    bench: Bench, home: Path, suite: Suite, *flags: str, watch: Watch = Watch(), **variables: str
) -> Trial:
    """Run a suite once; whatever it leaves alive is killed."""
    _candidates.require(suite.candidate)
    environment = bench.environment(home, variables)
    notes = environment["CHILD_NOTES"]
    began = time.monotonic()
    pytest = subprocess.Popen(
        bench.command(suite, "-q", *flags),
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        with watching(pytest.pid) if watch.memory else nullcontext([0.0]) as peak:
            output, _ = pytest.communicate(timeout=WATCHDOG)
        wall = time.monotonic() - began
        if watch.left:
            wait_until(lambda: not bearing(notes), watch.left, 0.02)
        left = len(bearing(notes))
    finally:
        if not watch.keep:
            kill_all(notes)
            _docker.remove(notes)
        if pytest.poll() is None:
            pytest.kill()
            pytest.wait()
    times, texts = read_notes(Path(notes))
    counted = Path(notes, "starts.txt")
    starts = len(counted.read_text()) if counted.exists() else 0
    return Trial(pytest.returncode, output, times, texts, starts, wall, peak[0], left)
