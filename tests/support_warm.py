"""For the tests of warm parents: handles whose servers are forked, and who is who among them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_mlc_server import PopenServer, warm
from tests.conftest import WATCHDOG, await_, await_gone
from tests.support_launch import launch_env


@dataclass(frozen=True)
class Kin:
    """A forked server and all processes that have to do with it."""

    server: int
    reaper: int
    parent: int
    parent_keeper: int
    parent_watcher: int
    keeper: int
    watcher: int

    @classmethod
    def of(cls, server: PopenServer) -> Kin:
        assert server.pid is not None
        assert server._lease is not None
        reaper = psutil.Process(server.pid).ppid()
        parent = psutil.Process(reaper).ppid()
        keeper, its_keeper = server._lease._keeper, psutil.Process(parent).ppid()
        watcher, its_watcher = psutil.Process(keeper).ppid(), psutil.Process(its_keeper).ppid()
        return cls(server.pid, reaper, parent, its_keeper, its_watcher, keeper, watcher)

    def await_gone(self, *names: str) -> None:
        for name, pid in asdict(self).items():
            if not names or name in names:
                await_gone(pid)

    def alive(self) -> set[str]:
        return {name for name, pid in asdict(self).items() if runs(pid)}


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Warm:
    """Servers that are forked from one warm parent, in a runtime directory of their own.

    Parameters
    ----------
    path
        The runtime directory.
    model
        What the stand-in serves.
    """

    def __init__(self, path: Path, model: str) -> None:
        self.path = path
        self.parents = warm.Parents()
        self._model = model
        self._made: list[PopenServer] = []

    def handle(self, *words: str, server: str = "", **options: Any) -> PopenServer:
        """Make a handle that is not started.

        Parameters
        ----------
        words
            Orders for the stand-in's imports.
        server
            Orders for what serves.
        options
            Those of `PopenServer`.
        """
        env = {**launch_env(*words, server=server), **options.pop("env", {})}
        values = {"port": "auto", "launch": "warm", "startup_timeout": WATCHDOG, **options}
        made = PopenServer(self._model, "cpu", env=env, **values)
        made.parents = self.parents
        self._made.append(made)
        return made

    def started(self, *words: str, **options: Any) -> PopenServer:
        """Make a handle and start it."""
        made = self.handle(*words, **options)
        made.start()
        return made

    @property
    def files(self) -> list[str]:
        """What is left of warm parents, locks aside."""
        return [name for name in below(self.path) if name.endswith((".door", ".fork", ".json"))]

    def close(self) -> None:
        """Stop everything, and check that nothing is left."""
        for server in self._made:
            server.terminate()
        self.parents.close()
        await_(lambda: self.files == [], "the end of all warm parents")


@pytest.fixture
def forks(tmp_path: Path, model_dir: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warm]:
    """Servers that are forked; at the end nothing of them may be left."""
    temporary, runtime = tmp_path / "temporary", tmp_path / "runtime"
    for directory in (temporary, runtime):
        directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    made = Warm(runtime, model_dir)
    yield made
    made.close()
    await_(lambda: "warm.log" not in below(temporary), "the removal of the parents' logs")


def below(path: Path) -> list[str]:
    """Return the names of all files in a directory, which others may remove meanwhile."""
    return [name for _, _, names in os.walk(path) for name in names]


def log_of(server: PopenServer) -> str:
    """Return what a server's log says."""
    return Path(server.log_path or "").read_text()


def was_forked(server: PopenServer) -> bool:
    """Tell whether a server's process came from a warm parent."""
    assert server.pid is not None
    return "warm" in psutil.Process(psutil.Process(server.pid).ppid()).cmdline()
