"""What ``auto`` means: asked once, remembered while it holds, asked again when it does not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_mlc_server import (
    ServerConfig,
    auto_device,
    device_answers,
    engines,
    hardware,
    runtime,
)
from tests.conftest import WATCHDOG, await_
from tests.support_launch import launch_env

Answer = device_answers.Answer


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Begin as a user who has never run anything on this machine."""
    monkeypatch.setattr(device_answers, "known", {})
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Count the questions: a line each."""
    return tmp_path / "asked"


def config(asked: Path, tvm: str = "", **options: Any) -> ServerConfig:
    """Make a configuration whose server runs where the stand-ins are."""
    env = {**launch_env(tvm=f"{tvm} asked={asked}"), **options.pop("env", {})}
    return ServerConfig(model="m", env=env, **options)


def find(asked_for: ServerConfig) -> Answer:
    answer = auto_device.find(asked_for)
    assert answer is not None
    return answer


def processes(asked: Path) -> int:
    """Return how many processes have asked TVM."""
    if not asked.exists():
        return 0
    return len({line.split()[1] for line in asked.read_text().splitlines()})


def as_another_process() -> None:
    """Forget what this process knows by itself; what lies on the disk stays."""
    device_answers.known.clear()


def files() -> list[Path]:
    return list(Path(runtime.subdirectory("devices")).glob("*.json"))


# --- the answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "device"),
    [
        ("cuda=1 rocm=1 metal=1 vulkan=1 opencl=1 cpu=1", "cuda"),
        ("rocm=2 opencl=1 cpu=1", "rocm"),
        ("metal=1 cpu=1", "metal"),
        ("opencl=1 vulkan=1 cpu=1", "vulkan"),
        ("cpu=1 opencl=1", "opencl"),
        ("cpu=4", "cpu"),
    ],
)
def test_it_is_the_first_that_exists_in_upstreams_order(
    there: str, device: str, asked: Path
) -> None:
    answer = find(config(asked, there))
    assert answer.device == device
    assert set(answer.found) == {word.partition("=")[0] for word in there.split()}
    assert (answer.problem, answer.tvm) == ("", "0.26.0")
    assert processes(asked) == 1
    # The first device of each kind, and no other: asking for one that is not there may hurt.
    assert all(line.split()[0].endswith(":0") for line in asked.read_text().splitlines())


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cpu"},
        {"device": "cuda:1"},
        {"engine": "mock"},
        {"engine": "sim"},
        {"engine": "external", "url": "http://h:1"},
    ],
)
def test_what_needs_no_answer_asks_nobody(options: dict[str, Any], asked: Path) -> None:
    assert auto_device.find(config(asked, **options)) is None
    assert processes(asked) == 0


def test_it_stands_on_the_servers_command_line(asked: Path) -> None:
    for device in ("cuda", ""):
        argv = engines.plan(config(asked), mark="m4rk", device=device).argv
        assert ("--device" in argv) == bool(device)
        assert not device or argv[argv.index("--device") + 1] == device


def test_the_words_of_libraries_are_not_among_the_answers(asked: Path) -> None:
    assert find(config(asked, "noisy cuda=1")).device == "cuda"


def test_asking_uses_the_servers_interpreter_environment_and_directory(
    asked: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(Path(launch_env()["PYTHONPATH"].split(os.pathsep)[1]) / "tvm", home / "tvm")
    shutil.copytree(Path(launch_env()["PYTHONPATH"].split(os.pathsep)[0]), home, dirs_exist_ok=True)
    python = home / "python"
    python.write_text(f'#!/bin/sh\necho run >> {home}/ran\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    there = config(asked, "rocm=1", python="./python", cwd=home, env={"PYTHONPATH": ""})
    answer = find(there)
    assert answer.device == "rocm"
    assert str(home / "tvm" / "__init__.py") in [file[0] for file in answer.files]
    assert (home / "ran").read_text() == "run\n"


# --- remembering ----------------------------------------------------------------------------------


def test_it_is_asked_once_by_a_process_and_by_those_that_follow(asked: Path) -> None:
    first = find(config(asked, "cuda=1"))
    assert find(config(asked, "cuda=1")) == first
    as_another_process()
    assert find(config(asked, "cuda=1")) == first
    assert processes(asked) == 1
    assert [file.suffix for file in files()] == [".json"]
    assert files()[0].parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "name",
    ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "LD_LIBRARY_PATH"],
)
def test_other_variables_that_show_devices_are_another_question(name: str, asked: Path) -> None:
    find(config(asked))
    find(config(asked, env={name: "/0"}))
    find(config(asked, env={"UNRELATED": "1", "PYTHONHASHSEED": "7"}))
    assert processes(asked) == 2


def change_key(name: str) -> Callable[[pytest.MonkeyPatch, Path], None]:
    """Return what changes a file or a list of files that `hardware` looks at."""

    def change(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        file = directory / "driver"
        file.write_text(f"{file.read_text() if file.exists() else ''}550.54\n")
        monkeypatch.setattr(hardware, name, (str(file), f"{directory}/*"))

    return change


@pytest.mark.parametrize("name", ["FILES", "LISTS", "KERNEL", "NODES"])
def test_another_driver_is_another_question(
    name: str, asked: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find(config(asked))
    change_key(name)(monkeypatch, tmp_path / "drivers")
    find(config(asked))
    find(config(asked))
    assert processes(asked) == 2
    if name != "NODES":  # a device's node changes as it is used; it is there or it is not
        change_key(name)(monkeypatch, tmp_path / "drivers")
        find(config(asked))
        assert processes(asked) == 3


def test_another_tvm_is_asked_anew(asked: Path, tmp_path: Path) -> None:
    standin = Path(launch_env()["PYTHONPATH"].split(os.pathsep)[1])
    shutil.copytree(standin / "tvm", tmp_path / "site" / "tvm")
    search = os.pathsep.join((str(tmp_path / "site"), launch_env()["PYTHONPATH"]))
    there = config(asked, env={"PYTHONPATH": search})
    find(there)
    find(there)
    assert processes(asked) == 1
    with (tmp_path / "site" / "tvm" / "__init__.py").open("a") as module:
        module.write("# installed anew\n")
    find(there)
    assert processes(asked) == 2


def test_old_answers_are_asked_anew(asked: Path) -> None:
    answer = find(config(asked))
    assert answer.holds
    long_ago = time.time() - device_answers.MAX_AGE - 1
    assert not replace(answer, asked_at=long_ago).holds
    assert not replace(answer, asked_at=time.time() + 3600).holds  # the clock was set back


def test_no_gpu_where_the_kernel_shows_one_is_doubted_soon(
    asked: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = time.time() - device_answers.DOUBTFUL_AGE - 1
    cpu, gpu = find(config(asked)), find(config(asked, "cuda=1"))
    assert replace(cpu, asked_at=before).holds
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(hardware, "COMPUTE", (f"{tmp_path}/nvidia[0-9]*",))
    assert not replace(cpu, asked_at=before).holds
    assert replace(gpu, asked_at=before).holds
    assert cpu.holds


def test_answers_that_are_too_old_are_removed(asked: Path) -> None:
    find(config(asked, "cuda=1"))
    (old,) = files()
    os.utime(old, (0, 0))
    find(config(asked, "rocm=1"))
    assert len(files()) == 1
    assert old not in files()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '{"device": "cuda"}', "\x00\xff", "device"],
)
def test_a_broken_file_is_no_answer(text: str, asked: Path) -> None:
    answer = find(config(asked, "cuda=1"))
    if text == "device":  # all is there, and it does not fit together
        fields = json.loads(files()[0].read_text())
        text = json.dumps({**fields, "device": "vulkan"})
    files()[0].write_bytes(text.encode("latin-1"))
    as_another_process()
    again = find(config(asked, "cuda=1"))
    assert (again.device, again.found) == (answer.device, answer.found)
    assert processes(asked) == 2
    as_another_process()
    assert find(config(asked, "cuda=1")) == again


def test_without_a_directory_of_ones_own_it_is_asked_all_the_same(
    asked: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / f"pytest-mlc-server-{os.getuid()}").touch()
    assert find(config(asked, "cuda=1")).device == "cuda"


def has_open(process: psutil.Process, path: str) -> bool:
    return path in [file.path for file in process.open_files()]


def test_processes_that_ask_at_once_ask_once(asked: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    there = config(asked, f"cuda=1 gate={gate}")
    code = (
        "import json, sys; from pytest_mlc_server import ServerConfig, auto_device\n"
        "print(auto_device.find(ServerConfig(model='m', env=json.loads(sys.argv[1]))).device)"
    )
    command = [sys.executable, "-c", code, json.dumps(dict(there.env))]
    asking = [psutil.Popen(command, stdout=-1, text=True) for _ in range(3)]
    lock = os.path.join(runtime.subdirectory("devices"), "asking.lock")
    for process in asking:  # each asks by now, or waits for the one that does
        await_(partial(has_open, process, lock), "the lock")
    await_(lambda: processes(asked), "the first question")
    gate.touch()
    assert [process.communicate(timeout=WATCHDOG)[0].strip() for process in asking] == ["cuda"] * 3
    assert processes(asked) == 1


# --- no answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tvm", "problem"),
    [
        ("import-fails", "tvm cannot be imported: OSError: libtvm.so"),
        ("import-exits=3", "asking TVM failed: status 3"),
        ("cpu=0", "TVM finds no device"),
    ],
)
def test_no_answer_leaves_it_to_the_server(tvm: str, problem: str, asked: Path) -> None:
    answer = find(config(asked, tvm))
    assert answer.device == ""
    assert answer.problem.startswith(problem)
    assert find(config(asked, tvm)) is answer  # not once for each server of a run
    assert files() == []  # and not for the next run either


def test_asking_has_a_time_limit(asked: Path, tmp_path: Path) -> None:
    for limit in (0.5, 4.0, 30.0):  # on a busy machine the question itself may come too late
        as_another_process()
        # The gate never opens.
        there = config(asked, f"gate={tmp_path / 'gate'}", startup_timeout=limit)
        assert "did not answer in time" in find(there).problem
        if asked.exists():
            break
    assert not psutil.pid_exists(int(asked.read_text().split()[1]))


def test_who_asks_in_vain_ends_although_nobody_waits_any_more(tmp_path: Path) -> None:
    env = {**os.environ, **launch_env(tvm=f"gate={tmp_path / 'gate'}")}
    command = [sys.executable, engines.ENTRY, "devices", "1"]
    with psutil.Popen(command, env=env, stdout=subprocess.DEVNULL) as process:
        assert process.wait(WATCHDOG) == -signal.SIGALRM


def test_a_kind_that_ends_the_process_is_not_there(asked: Path) -> None:
    assert find(config(asked, "rocm=1 crash=opencl cpu=1")).found == ("rocm",)
    answer = find(config(asked, "crash=opencl cpu=1"))
    assert (answer.device, answer.found) == ("cpu", ("cpu",))
    assert find(config(asked, "crash=cpu")).problem == "TVM finds no device"


def test_an_interpreter_without_mlc_llm_is_not_asked(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto_device, "_ask", None)  # calling it would fail
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    answer = find(ServerConfig(model="m"))
    assert answer.problem == auto_device.NO_MODULE
    assert "python-of-nowhere" in find(ServerConfig(model="m", python="python-of-nowhere")).problem


def test_a_device_is_told_for_people(asked: Path) -> None:
    there = config(asked, "rocm=1 cpu=1")
    assert "not known yet" in auto_device.explain(there)[0]
    assert processes(asked) == 0
    told = "\n".join(auto_device.explain(there, ask=True))
    assert "device auto: rocm" in told
    assert "TVM 0.26.0 finds rocm, cpu" in told
    assert "just now" in told
    assert sys.executable in told
    assert "cuda:1: as it was asked for" in auto_device.explain(there.replace(device="cuda:1"))[0]
    broken = "\n".join(auto_device.explain(config(asked, "import-fails"), ask=True))
    assert "left to mlc_llm: tvm cannot be imported" in broken


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(59, "just now"), (61, "1 minute ago"), (7200, "2 hours ago"), (90000, "1 day ago")],
)
def test_ages_are_told_in_words(seconds: float, text: str) -> None:
    assert auto_device._ago(seconds) == text
