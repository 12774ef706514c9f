"""GPUs that are not there: a stand-in for NVML's module, and one for ``nvidia-smi``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import ServerConfig
from pytest_mlc_server.devices import Devices
from tests.conftest import STANDIN

GIB = 1 << 30

ORIGIN = "devices = '...' (from --mlc-devices on the command line)"


def devices(wanted: str | Sequence[str] | None, **options: Any) -> Devices:
    """Return the GPUs that were asked for on a command line."""
    return Devices(wanted, origin=ORIGIN, **options)


def config(**fields: Any) -> ServerConfig:
    """Return a configuration for a GPU."""
    return ServerConfig(**{"model": "m", "device": "cuda", **fields})


def visible(assigned: ServerConfig) -> str:
    """Return the GPUs that a server would see."""
    return assigned.env["CUDA_VISIBLE_DEVICES"]


class Gpus:
    """What the drivers of this machine show, as long as a test runs: at first nothing.

    Parameters
    ----------
    directory
        Where the stand-ins look.
    """

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = directory / "gpus.json"
        self._tools = directory / "tools"
        self._tools.mkdir(parents=True)
        self._monkeypatch = monkeypatch
        # A real nvidia-smi would be found behind it.
        self._tool("exit 9")
        monkeypatch.setenv("PATH", str(self._tools), prepend=os.pathsep)
        monkeypatch.syspath_prepend(STANDIN / "gpu")
        monkeypatch.setenv("PYTHONPATH", str(STANDIN / "gpu"), prepend=os.pathsep)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))  # for locks of its own
        for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
            monkeypatch.delenv(variable, raising=False)

    def show(self, *devices: dict[str, Any]) -> None:
        """Have NVML show these GPUs."""
        numbered = [{"uuid": f"GPU-{n}", **device} for n, device in enumerate(devices)]
        self._file.with_suffix(".part").write_text(json.dumps(numbered))
        self._file.with_suffix(".part").replace(self._file)
        self._monkeypatch.setenv("STANDIN_GPUS", str(self._file))

    def hide(self) -> None:
        """Have NVML find no driver."""
        self._monkeypatch.setenv("STANDIN_GPUS", "")

    def print_by_tool(self, text: str) -> None:
        """Have ``nvidia-smi -L`` print a text."""
        output = self._tools / "output"
        output.write_text(text)
        self._tool(f'test "$*" = -L && cat "{output}"')

    def _tool(self, script: str) -> None:
        tool = self._tools / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o700)


@pytest.fixture
def gpus(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Gpus]:
    """A machine whose GPUs a test decides; at first it has none."""
    before = sys.modules.pop("pynvml", None)
    made = Gpus(tmp_path_factory.mktemp("gpus"), monkeypatch)
    made.hide()
    yield made
    sys.modules.pop("pynvml", None)
    if before is not None:
        sys.modules["pynvml"] = before
