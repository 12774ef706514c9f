"""A process that holds a forked server, for those who kill one of all that has to do with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.conftest import await_, write_model
from tests.support_launch import launch_env

#: Who may be killed, and when: while the parent imports, while the server starts, when it is ready.
VICTIMS = (
    "holder",
    "keeper",
    "watcher",
    "server",
    "reaper",
    "parent",
    "parent_keeper",
    "parent_watcher",
)
MOMENTS = ("imports", "start", "ready")

#: What ends with a victim at once, while its holder lives.
ALONE = {
    "keeper": {"keeper", "watcher", "server", "reaper"},
    "watcher": {"watcher"},
    "server": {"server", "reaper"},
    "reaper": {"server", "reaper"},
    "parent": {"server", "reaper", "parent", "parent_keeper", "parent_watcher"},
    "parent_keeper": {"server", "reaper", "parent", "parent_keeper", "parent_watcher"},
    "parent_watcher": {"parent_watcher"},
}

_HOLDER = """
import json, sys, threading
from pytest_mlc_server import PopenServer, warm

model, env = json.loads(sys.argv[1])
server = PopenServer(model, "cpu", port="auto", env=env, launch="warm", stop_timeout=1.0)
server.parents = warm.Parents()
try:
    server.start()
    open(sys.argv[2], "w").close()
except Exception as error:
    print(error)
threading.Event().wait()
"""


class Family:
    """A holder and all below it.

    Parameters
    ----------
    path
        Where its files are.
    moment
        When one of it is to be killed.
    """

    def __init__(self, path: Path, moment: str) -> None:
        self.path = path
        model, self._runtime = path / "model", path / "runtime"
        model.mkdir()
        self._runtime.mkdir()
        write_model(model)
        self._daemon = path / "daemon"
        words = [f"import-gate={path / 'gate'}"] if moment == "imports" else []
        server = f"daemon={self._daemon} scrub"
        if moment == "start":
            server += f" wait={path / 'gate'}"
        options = [str(model), launch_env(*words, server=server)]
        self._ready = path / "ready"
        with (path / "output").open("wb") as output:
            self.holder = subprocess.Popen(
                [sys.executable, "-c", _HOLDER, json.dumps(options), str(self._ready)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                start_new_session=True,
                env={
                    **os.environ,
                    "FAMILY": str(path),
                    "XDG_RUNTIME_DIR": str(self._runtime),
                    "TMPDIR": str(path),
                },
            )
        self._pids: dict[str, int] = {"holder": self.holder.pid}
        self._find("parent_watcher", "holder", lambda words: any("forks=" in w for w in words))
        self._find("watcher", "holder", lambda words: not any("forks=" in w for w in words))
        self._find("keeper", "watcher")
        self._find("parent_keeper", "parent_watcher")
        self._find("parent", "parent_keeper", lambda words: "warm" in words)
        if moment != "imports":
            self._find("reaper", "parent")
            self._find("server", "reaper")
            await_(self._daemon.exists, "the daemon of the server")
        if moment == "ready":
            await_(self._ready.exists, "a server that is ready")

    def _find(
        self, name: str, parent: str, accept: Callable[[list[str]], bool] = lambda _: True
    ) -> None:
        def found() -> int | None:
            with suppress(psutil.Error):
                for child in psutil.Process(self._pids[parent]).children():
                    if accept(child.cmdline()):
                        return child.pid
            return None

        self._pids[name] = await_(found, name)

    def kill(self, name: str) -> None:
        """Kill one of them."""
        with suppress(ProcessLookupError):  # it ended with another one
            os.kill(self._pids[name], signal.SIGKILL)
        if name == "holder":
            self.holder.wait()

    def alive(self) -> set[str]:
        """Return who of them runs."""
        return {name for name, pid in self._pids.items() if _runs(pid)}

    def left(self) -> list[str]:
        """Return what runs of all that ever belonged to them."""
        found = [] if not self._daemon.exists() else [int(self._daemon.read_text())]
        left = [str(pid) for pid in found if _runs(pid)]
        word = str(self.path).encode()
        for entry in os.listdir("/proc"):
            with suppress(OSError):
                if entry.isdigit() and _mentions(Path("/proc", entry), word):
                    left.append(entry)
        return left

    def end(self) -> None:
        """End what a failed test would leave."""
        self.holder.kill()
        self.holder.wait()
        for pid in self.left():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def _mentions(process: Path, word: bytes) -> bool:
    return any(word in (process / name).read_bytes() for name in ("environ", "cmdline"))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def family(path: Path, moment: str) -> Iterator[Family]:
    """Have a family, of which nothing may be left in the end."""
    made = Family(path, moment)
    try:
        yield made
    finally:
        made.end()
