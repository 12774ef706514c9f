"""The real apache-tvm, asked about the devices of this machine; where it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_mlc_server import ServerConfig, auto_device, device_answers, engines
from pytest_mlc_server.launcher import devices
from tests.conftest import WATCHDOG
from tests.support_launch import STANDIN_LAUNCH, launch_env

tvm = pytest.importorskip("tvm", reason="needs apache-tvm (extra: tvm)")

#: The stand-in of `mlc_llm`, and the real TVM.
ENV = {**launch_env(server="exit=7"), "PYTHONPATH": str(STANDIN_LAUNCH)}


def test_auto_is_the_first_device_that_exists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(device_answers, "known", {})
    answer = auto_device.find(ServerConfig(model="m", env=ENV))
    assert answer is not None
    # In another process: no driver is initialised in this one.
    code = f"import tvm; print(*[k for k in {devices.KINDS} if tvm.device(k, 0).exist])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    there = told.stdout.split()
    assert (answer.found, answer.device, answer.problem) == (tuple(there), there[0], "")
    assert answer.tvm == tvm.__version__
    libraries = [file[0] for file in answer.files if file[0].endswith((".so", ".dylib"))]
    assert any("libtvm" in path for path in libraries)


@pytest.mark.parametrize(
    ("device", "code", "says"),
    [
        ("cpu", 7, "Found device: cpu:0"),
        ("cuda:77", 1, "Not found device: cuda:77"),
    ],
)
def test_the_direct_launch_asks_it_about_one_device(
    tmp_path: Path, device: str, code: int, says: str
) -> None:
    checked = tmp_path / "checked"
    command = [sys.executable, engines.ENTRY, "direct", "mlc_llm", "serve", "m", "--port", "0"]
    done = subprocess.run(
        [*command, "--device", device],
        env={**os.environ, **ENV, "STANDIN_LAUNCH": f"checked={checked}"},
        capture_output=True,
        text=True,
        timeout=WATCHDOG,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert not checked.exists()
