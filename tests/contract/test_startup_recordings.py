"""The simulator, started as the real server was, starts or fails the same.

Compared are the exit code, what is on stdout and on stderr, and in which order. Of a traceback only
the error at its end counts: the frames are those of another program.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.sim.simulator import (
    DEADLINE_S,
    MODEL_DIRECTORY,
    simulator_command,
    simulator_environment,
)

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDINGS = Path(__file__).parent / "startup"
WEIGHTS = Path(__file__).parent.parent / "data" / "tensor-cache.json"

# What the simulator answers differently on purpose.
DIFFERENT = {
    "start-device-cuda-absent": "the machine that is simulated has GPUs",
    "start-hf-model": "nothing is downloaded",
}

# Starts that the real server never ended. Each log ends with what its engine's thread died of.
HANGING = [
    "start-missing-param-shard",
    "start-model-lib-not-a-lib",
    "start-overrides-gpu-util-zero",
    "start-overrides-kv-too-big",
]

# What was missing of the model that these starts served, and what was a file that says nothing.
MISSING = {
    "start-missing-param-shard": "params_shard_0.bin",
    "start-missing-tokenizer": "tokenizer.json",
}
CORRUPT = {"start-corrupt-config": "mlc-chat-config.json"}


@cache
def load(name: str) -> dict[str, Any]:
    recording: dict[str, Any] = json.loads((RECORDINGS / f"{name}.json").read_text("utf-8"))
    return recording


def names(*, ending: bool) -> list[str]:
    everything = sorted(path.stem for path in RECORDINGS.glob("*.json"))
    ended = [name for name in everything if load(name)["returncode"] is not None]
    served = [name for name in everything if name not in ended and name not in HANGING]
    return [name for name in (ended if ending else served) if name not in DIFFERENT]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The directory in which the recorded servers were started, as far as they looked at it."""
    whole = tmp_path / "dist" / "tiny-llama-q0f32-MLC"
    shutil.copytree(MODEL_DIRECTORY, whole)
    shutil.copy(WEIGHTS, whole)
    (whole / "params_shard_0.bin").write_bytes(b"\0" * 64)
    (whole / "tiny-llama-q0f32-cpu.so").write_bytes(b"\x7fELF" + b"\0" * 60)
    shutil.copytree(whole, tmp_path / "dist" / "broken-llama-q0f32-MLC")
    (tmp_path / "dist" / "hf").mkdir()
    (tmp_path / "dist" / "not-a-lib.so").touch()
    return tmp_path


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class Started:
    """A simulator whose stderr is read until a line that is waited for."""

    def __init__(self, name: str, cwd: Path, port: int = 0, *more: str) -> None:
        *_, command, model = load(name)["cmd"][2:4]
        flags = list(load(name)["cmd"][4:])
        flags[flags.index("--port") + 1] = str(port)
        self._process = subprocess.Popen(
            simulator_command(command, model, *flags, *more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**simulator_environment(), "COLUMNS": "80"},
        )
        # What hangs against expectation ends in a failure, and not in the limit of the whole run.
        self._watchdog = threading.Timer(DEADLINE_S, self._process.kill)
        self._watchdog.start()

    def until(self, text: str) -> str:
        assert self._process.stderr is not None
        lines = []
        for line in self._process.stderr:
            lines.append(line)
            if text in line:
                break
        return "".join(lines)

    def end(self, number: signal.Signals | None = None) -> tuple[int, str, str]:
        if number is not None:
            self._process.send_signal(number)
        stdout, stderr = self._process.communicate()
        self._watchdog.cancel()
        return self._process.returncode, stdout, stderr


def comparable(log: str) -> list[str]:
    """Return the lines of a log without what differs from run to run."""
    lines: list[str] = []
    error: list[str] | None = None
    for line in log.splitlines():
        if " simulator: " in line:
            continue
        if line.endswith("Traceback (most recent call last):"):
            error = []
        elif error is not None and (not line or line.startswith(" ")):
            continue
        else:
            error = None
        lines.append(_without_run(line))
    return [line for line in lines if line]


def _without_run(line: str) -> str:
    line = re.sub(r"^\[(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d\]", "[TIME]", line)
    line = re.sub(r"server process \[\d+\]", "server process [PID]", line)
    line = re.sub(r": \[errno \d+\] ", ": ", line)  # asyncio of Python 3.13 says it twice
    return re.sub(r"(127\.0\.0\.1(?::|', ))\d+", r"\1PORT", line)


def damage(name: str, models: Path) -> None:
    broken = models / "dist" / "broken-llama-q0f32-MLC"
    if name in MISSING:
        (broken / MISSING[name]).unlink()
    if name in CORRUPT:
        (broken / CORRUPT[name]).write_text("{", encoding="utf-8")


@pytest.mark.parametrize("name", names(ending=True))
def test_ends_as_the_real_server_did(name: str, models: Path, taken_port: int) -> None:
    damage(name, models)
    port = taken_port if name == "start-port-in-use" else 0

    code, stdout, stderr = Started(name, models, port).end()

    assert code == load(name)["returncode"]
    assert stdout == load(name)["stdout"]
    assert comparable(stderr) == comparable(load(name)["stderr"])


@pytest.mark.parametrize("name", names(ending=False))
def test_serves_as_the_real_server_did(name: str, models: Path) -> None:
    started = Started(name, models)
    log = started.until("Uvicorn running on")
    code, stdout, _ = started.end(signal.SIGINT)
    assert (code, stdout) == (0, "")
    assert comparable(log) == comparable(load(name)["stderr"])


@pytest.mark.parametrize("name", HANGING)
def test_says_of_what_the_real_server_hangs(name: str, models: Path) -> None:
    damage(name, models)
    code, stdout, stderr = Started(name, models).end()
    assert (code, stdout) == (1, "")
    assert comparable(stderr) == comparable(load(name)["stderr"])
    assert "--sim-imitate wedge" in stderr.splitlines()[-1]


@pytest.mark.parametrize("name", HANGING)
def test_hangs_as_the_real_server_did(name: str, models: Path) -> None:
    damage(name, models)
    started = Started(name, models, 0, "--sim-imitate", "wedge")
    started.until("tvm.error.InternalError: ")
    started._process.send_signal(signal.SIGINT)
    code, _, _ = started.end(signal.SIGTERM)
    assert code == -signal.SIGTERM


def test_differences_and_mistakes_are_recordings() -> None:
    assert {*DIFFERENT, *HANGING, *MISSING, *CORRUPT} <= {
        path.stem for path in RECORDINGS.glob("*.json")
    }
