"""Devices that exist, the one that `auto` means, and the memory that they have."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_mlc_server import ServerConfig, auto_device, device_answers, engines, nvml
from pytest_mlc_server.device_answers import Answer
from pytest_mlc_server.doctor import devices, memory
from pytest_mlc_server.doctor.case import Case
from pytest_mlc_server.doctor.findings import Diagnosis, Section
from pytest_mlc_server.doctor.programs import Check
from tests.conftest import WATCHDOG, write_model
from tests.support_doctor import Doctor, codes, facts, found, only
from tests.support_gpus import GIB, Gpus


def checked(value: Any) -> Check[Any]:
    """Return a check that has found something."""
    return Check(lambda: value, WATCHDOG)


def one(section: Section, code: str) -> str:
    """Return text and remedy of the one finding of a kind."""
    (finding,) = [f for f in section.findings if f.code == code]
    return f"{finding.text} -> {finding.remedy}"


@pytest.fixture
def heavy(tmp_path: Path) -> Callable[[float], str]:
    """Make models of which the weights have so many GiB; they take no room."""

    def make(gib: float) -> str:
        path = tmp_path / f"model-{gib}"
        path.mkdir()
        write_model(path)
        size = int(gib * GIB)
        text = (path / "tensor-cache.json").read_text().replace('"nbytes": 16', f'"nbytes": {size}')
        (path / "tensor-cache.json").write_text(text)
        os.truncate(path / "params_shard_0.bin", size)
        return str(path)

    return make


# --- devices --------------------------------------------------------------------------------------


def test_auto_is_asked_for_and_not_remembered(doctor: Doctor, model_dir: str) -> None:
    doctor.install(tvm="cuda=1 vulkan=1 cpu=1")
    diagnosis = doctor(f"--mlc-model={model_dir}")
    assert only(diagnosis, "devices.found").text == (
        "TVM finds cuda, vulkan, cpu, no rocm, metal, opencl"
    )
    assert only(diagnosis, "devices.auto").text.startswith("auto means cuda: ")
    told = facts(diagnosis, "devices")
    assert told == {"asked": "auto", "found": ["cuda", "vulkan", "cpu"], "device": "cuda"}
    assert "--device cuda " in only(diagnosis, "command.line").command
    assert list((doctor.path / "run").iterdir()) == []


def test_auto_that_is_remembered(doctor: Doctor, model_dir: str) -> None:
    doctor.install(tvm=f"there={doctor.path}/there")
    (doctor.path / "there").write_text("cuda=1 cpu=1")
    config = ServerConfig(model=model_dir)
    name = device_answers.name_of(sys.executable, engines.environment(config, {}), os.getcwd())
    device_answers.remember(name, auto_device.ask(config))
    diagnosis = doctor(f"--mlc-model={model_dir}")
    text = only(diagnosis, "devices.auto-remembered").text
    assert text.startswith("auto means cuda: remembered, asked just now")
    (doctor.path / "there").write_text("cpu=1")
    finding = only(doctor(f"--mlc-model={model_dir}"), "devices.auto-outdated")
    assert "TVM finds cpu now" in finding.text
    assert finding.command == f"rm -r {doctor.path}/run/pytest-mlc-server-{os.getuid()}/devices/"


def section(config: ServerConfig, answer: Answer) -> Section:
    return devices.section(Case(config), checked(answer))


def test_a_device_that_was_asked_for() -> None:
    answer = Answer("cpu", ("cuda", "cpu"))
    for device in ("cpu", "cuda", "cuda:1"):
        made = section(ServerConfig(model="m", device=device), answer)
        assert f"device = '{device}' is there" in one(made, "devices.chosen")
    made = section(ServerConfig(model="m", device="vulkan:0"), answer)
    assert one(made, "devices.not-there").startswith(
        "device 'vulkan:0' is not on this machine, or its driver is not -> Choose another one"
    )


def test_gpus_that_the_environment_hides() -> None:
    hidden = {"CUDA_VISIBLE_DEVICES": "-1"}
    made = section(ServerConfig(model="m", device="cuda", env=hidden), Answer("cpu", ("cpu",)))
    assert "CUDA_VISIBLE_DEVICES='-1' hides all of them" in one(made, "devices.not-there")
    some = {"CUDA_VISIBLE_DEVICES": "3"}
    made = section(
        ServerConfig(model="m", device="cuda:1", env=some), Answer("cuda", ("cuda", "cpu"))
    )
    assert "CUDA_VISIBLE_DEVICES=3 shows 1 GPU to the server" in one(made, "devices.not-there")


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        ("TVM finds no device", "devices.none"),
        ("asking TVM failed: Segmentation fault", "devices.unknown"),
        ("TVM did not answer in time", "devices.hang"),
        (auto_device.NO_MODULE, "devices.not-asked"),
    ],
)
def test_why_no_device_is_known(problem: str, code: str) -> None:
    made = section(ServerConfig(model="m"), Answer("", problem=problem))
    assert [finding.code for finding in made.findings] == [code]


def test_a_driver_that_hangs_is_not_waited_for(doctor: Doctor, model_dir: str) -> None:
    doctor.install(tvm=f"cuda=1 gate={doctor.path}/never")
    doctor.limit = 1.0
    before = {child.pid for child in psutil.Process().children()}
    diagnosis = doctor(f"--mlc-model={model_dir}", "--mlc-device=cuda")
    assert {"devices.hang", "model.directory", "command.line"} <= codes(diagnosis) or (
        "interpreter.hangs" in codes(diagnosis)  # this machine is slow
    )
    assert {child.pid for child in psutil.Process().children()} <= before


def test_a_check_that_hangs_in_this_process_is_not_waited_for() -> None:
    never = threading.Event()
    hangs: Check[Any] = Check(never.wait, 0.01)
    config = ServerConfig(model="m", device="cuda")
    assert one(devices.section(Case(config), hangs), "devices.hang")
    made = memory.section(Case(config), hangs, hangs)
    assert "NVIDIA's driver" in one(made, "check.hangs")
    never.set()


def test_the_mock_engine_needs_no_gpu(doctor: Doctor, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    doctor.install(tvm=f"asked={asked}")
    diagnosis = doctor("--mlc-engine=mock")
    assert only(diagnosis, "devices.not-needed").level == "ok"
    assert not asked.exists()
    assert "memory.ram" in codes(diagnosis)


# --- memory ---------------------------------------------------------------------------------------


def on_gpus(config: ServerConfig) -> Section:
    answer = Answer("cuda", ("cuda", "cpu"))
    return memory.section(Case(config), checked(answer), checked(memory.look()))


def test_weights_that_fit(gpus: Gpus, heavy: Callable[[float], str]) -> None:
    gpus.show({"total": 24 * GIB, "free": 20 * GIB, "processes": [[1, 4 * GIB], [2**22, None]]})
    model = heavy(8)
    made = on_gpus(ServerConfig(model=model, device="cuda"))
    assert one(made, "memory.gpu").startswith(
        "GPU 0: 20.0 GiB of 24.0 GiB free; the weights are 8.0 GiB"
    )
    used = one(made, "memory.gpu-used")
    assert "process 1 (" in used
    assert ", 4.0 GiB), process 4194304" in used
    assert made.facts["gpus"][0]["free"] == 20 * GIB
    assert made.facts["weights"] == 8 * GIB


def test_weights_that_do_not_fit(gpus: Gpus, heavy: Callable[[float], str]) -> None:
    gpus.show({"total": 24 * GIB, "free": 2 * GIB, "processes": [[n, GIB] for n in range(1, 9)]})
    busy = one(on_gpus(ServerConfig(model=heavy(8), device="cuda")), "memory.gpu-busy")
    assert "2.0 GiB of 24.0 GiB free, and the weights are 8.0 GiB" in busy
    assert "stop what uses the GPU (process 1 (" in busy
    assert "and 3 more" in busy
    small = one(on_gpus(ServerConfig(model=heavy(40), device="cuda")), "memory.gpu-too-small")
    assert "not enough memory for the model" in small
    gpus.show({"total": 24 * GIB, "free": 2 * GIB})
    busy = one(on_gpus(ServerConfig(model=heavy(9), device="cuda")), "memory.gpu-busy")
    assert "not enough memory for the model" in busy  # nobody to stop


def test_a_model_that_runs_on_several_gpus(gpus: Gpus, heavy: Callable[[float], str]) -> None:
    gpus.show({"total": 10 * GIB}, {"total": 10 * GIB})
    config = ServerConfig(model=heavy(16), device="cuda", overrides={"tensor_parallel_shards": 2})
    made = on_gpus(config)
    assert [finding.code for finding in made.findings] == ["memory.gpu"] * 2
    fewer = config.replace(env={"CUDA_VISIBLE_DEVICES": "1"})
    made = on_gpus(fewer)
    assert "the model runs on 2 GPUs at once" in one(made, "devices.not-there")


def test_the_gpus_that_the_environment_names(gpus: Gpus, model_dir: str) -> None:
    split = {"total": 80 * GIB, "mig": [{"uuid": "MIG-a", "total": 10 * GIB}]}
    gpus.show({"total": 24 * GIB, "uuid": "GPU-abc"}, split)
    for name, total in (("GPU-a", "24.0 GiB"), ("MIG-a", "10.0 GiB"), ("0", "24.0 GiB")):
        env = {"CUDA_VISIBLE_DEVICES": name}
        made = on_gpus(ServerConfig(model=model_dir, device="cuda", env=env))
        assert f"of {total} free" in one(made, "memory.gpu")


def test_memory_that_cannot_be_told(gpus: Gpus, model_dir: str) -> None:
    made = on_gpus(ServerConfig(model=model_dir, device="cuda"))
    assert "install the extra `gpu`" in one(made, "memory.gpu-unknown")
    made = on_gpus(ServerConfig(model=model_dir, device="vulkan"))
    assert one(made, "memory.gpu-unknown") == "the memory of vulkan cannot be told -> "
    assert nvml.users("0") is None


def test_the_memory_of_the_machine(
    heavy: Callable[[float], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ServerConfig(model=heavy(3), device="cpu")
    made = memory.section(Case(config), checked(None), checked(None))
    assert next(finding.code for finding in made.findings) in ("memory.ram", "memory.ram-short")
    monkeypatch.setattr("pytest_mlc_server.gpu_memory.weights_of", lambda _: 1 << 60)
    made = memory.section(Case(config), checked(None), checked(None))
    assert "not enough memory" in one(made, "memory.ram-short")


def test_the_gpus_of_the_setting(doctor: Doctor, gpus: Gpus, model_dir: str) -> None:
    gpus.show({"total": 24 * GIB}, {"total": 24 * GIB})
    arguments = (f"--mlc-model={model_dir}", "--mlc-devices=1", "--mlc-device=cuda")
    diagnosis = doctor(*arguments)
    assert only(diagnosis, "devices.assigned").text.endswith("CUDA_VISIBLE_DEVICES=1")
    assert [gpu["name"] for gpu in facts(diagnosis, "memory")["gpus"]] == ["1"]
    assert "CUDA_VISIBLE_DEVICES=1" in only(diagnosis, "command.line").command
    several: Diagnosis = doctor(*arguments, workers=2)
    assert any(
        "2 pytest-xdist workers on this host want a server each" in finding.text
        for finding in found(several, "settings.wrong")
    )
