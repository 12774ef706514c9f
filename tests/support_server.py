"""For the tests of servers and their guardians: who is who, and scripts that hold servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from pytest_mlc_server import PopenServer
from tests.conftest import WATCHDOG, await_, await_gone, standin_env, write_model

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what Linux offers")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make temporary logs below the test's own directory, in every module that imports this."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return directory


@dataclass(frozen=True)
class Kin:
    """A server and the processes that own it."""

    server: int
    keeper: int
    watcher: int

    @classmethod
    def of(cls, server: PopenServer) -> Kin:
        assert server.pid is not None
        keeper = psutil.Process(server.pid).ppid()
        return cls(server.pid, keeper, psutil.Process(keeper).ppid())

    def await_gone(self) -> None:
        for pid in (self.server, self.keeper, self.watcher):
            await_gone(pid)


def ask(server: PopenServer, prompt: str = "Hello") -> dict[str, Any]:
    """Send a completion to the stand-in; "environment" makes it say how it was started."""
    http = requests.Session()
    http.trust_env = False
    if server.api_key:
        http.headers["Authorization"] = f"Bearer {server.api_key}"
    with http:
        response = http.post(
            f"{server.openai_v1_base_url}/completions", json={"prompt": prompt}, timeout=WATCHDOG
        )
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def run_python(code: str, *arguments: object) -> Any:
    """Run a script in an interpreter of its own and return the JSON that it printed last."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=WATCHDOG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


#: What every holder does; `{body}` is what the test is about.
_HOLDER = """
import gc, json, os, resource, signal, sys, threading, time
import psutil
from pytest_mlc_server import PopenServer

options = json.loads(sys.argv[1])
path = sys.argv[2]

def tell(name="facts", **facts):
    with open(f"{path}/{name}.part", "w") as file:
        json.dump(facts, file)
    os.rename(f"{path}/{name}.part", f"{path}/{name}")

def kin(server):
    keeper = psutil.Process(server.pid).ppid()
    watcher = psutil.Process(keeper).ppid()
    return {"server": server.pid, "keeper": keeper, "watcher": watcher}

def make(stop_timeout=5.0):
    return PopenServer(options["model"], port="auto", env=options["env"], stop_timeout=stop_timeout)

"""

STARTED = "server = make()\nserver.start()\ntell(**kin(server))\n"


@contextmanager
def holding(
    directory: Path,
    body: str,
    *words: str,
    env: Mapping[str, str] | None = None,
    stdout: int | None = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[str]]:
    """Run a script that holds a server of the stand-in; end it after the block at the latest.

    Parameters
    ----------
    directory
        Where it leaves its facts.
    body
        What it does, after the definitions of `_HOLDER`.
    words
        Orders for the stand-in.
    """
    model = directory / "model"
    model.mkdir()
    write_model(model)
    options = {"model": str(model), "env": {**standin_env(*words), **(env or {})}}
    script = _HOLDER + body
    command = [sys.executable, "-c", script, json.dumps(options), str(directory)]
    with (directory / "stderr").open("w") as errors:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=errors,
            text=True,
            # Ctrl-C at the terminal of these tests is not for the holder.
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(directory)},
        )
    with popen:
        try:
            yield popen
        finally:
            popen.kill()


def facts(directory: Path, name: str = "facts") -> dict[str, Any]:
    """Wait for what a holder has to tell."""

    def told_or_failed() -> bool:
        errors = (directory / "stderr").read_text()
        if "Traceback" in errors and not (directory / name).exists():
            pytest.fail(f"the holder failed:\n{errors}")
        return (directory / name).exists()

    await_(told_or_failed, f"the holder's {name}")
    told: dict[str, Any] = json.loads((directory / name).read_text())
    return told


def kin_of(directory: Path) -> Kin:
    return Kin(**facts(directory))
