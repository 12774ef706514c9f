"""The steps of a start: what is a model directory, devices, libraries, failures on demand."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server.sim.cli import build_parser
from pytest_mlc_server.sim.devices import announce_device
from pytest_mlc_server.sim.model import load_model
from pytest_mlc_server.sim.startup import FAILURES, announce, model_directory
from tests.sim.simulator import DEADLINE_S, MODEL_DIRECTORY, simulator_environment


def arguments(*argv: str) -> Namespace:
    return build_parser().parse_args(argv)


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "models" / "tiny"
    shutil.copytree(MODEL_DIRECTORY, directory)
    return directory


@pytest.mark.parametrize(
    ("name", "is_path"),
    [
        ("some-model", False),
        ("mlc-ai/some-model", False),
        ("HF://mlc-ai/some-model", False),
        ("models/tiny", True),
        ("models/no-such", True),
        ("./some-model", True),
        ("../some-model", True),
        ("/no/such/model", True),
        ("~/some-model", True),
    ],
)
def test_what_is_a_path(
    monkeypatch: pytest.MonkeyPatch, model: Path, name: str, is_path: bool
) -> None:
    monkeypatch.chdir(model.parent.parent)
    assert (model_directory(name) is not None) == is_path


@pytest.mark.parametrize(
    ("hint", "lines"),
    [
        ("cpu", ["Found device: cpu:0"]),
        ("cpu:0", ["Found device: cpu:0"]),
        ("cuda", ["Found device: cuda:0"]),
        ("cuda:2", [f"Found device: cuda:{number}" for number in range(3)]),
        (
            "auto",
            [
                *(
                    f"Not found device: {kind}:0"
                    for kind in ("cuda", "rocm", "metal", "vulkan", "opencl")
                ),
                "Found device: cpu:0",
                "Using device: cpu:0",
            ],
        ),
    ],
)
def test_devices(capsys: pytest.CaptureFixture[str], hint: str, lines: list[str]) -> None:
    announce_device(hint)
    plain = re.sub("\x1b\\[\\d+m", "", capsys.readouterr().err)
    shown = [line.partition("auto_device.py:")[2] for line in plain.splitlines()]
    assert [line.partition(": ")[2] for line in shown] == lines


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        ("banana", "Invalid device name: banana"),
        ("cuda:x", "Invalid device name: cuda:x"),
        ("cpu:1", "Device is not found on your local environment: cpu:1"),
    ],
)
def test_no_such_device(hint: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        announce_device(hint)


def test_without_a_library_one_is_found_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLC_LLM_HOME", "/home-of-mlc")
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    announce(arguments("name", "--device", "cpu"))
    lines = said(capsys)
    assert "MLC_JIT_POLICY\x1b[0m = READONLY." in lines[2]
    assert "Using cached model lib: \x1b[1m/home-of-mlc/model_lib/" in lines[3]


def test_library_of_a_copy_may_be_missing(model: Path) -> None:
    announce(arguments(str(model), "--model-lib", str(model / "tiny.so")))
    announce(arguments(str(model), "--model-lib", "/no/such/directory/tiny.so"))
    with pytest.raises(FileNotFoundError, match="The `model_lib` you passed in is not a file"):
        announce(arguments(str(model), "--model-lib", str(model.parent / "tiny.so")))


def test_additional_models_are_looked_at_as_well(model: Path) -> None:
    with pytest.raises(FileNotFoundError, match="directory does not exist"):
        announce(arguments("name", "--additional-models", "other", f"{model.parent}/none,x.so"))


def test_embedding_model_needs_its_library(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"^--embedding-model-lib is required when"):
        announce(arguments("name", "--embedding-model", "e"))
    capsys.readouterr()
    announce(arguments("name", "--embedding-model", "e", "--embedding-model-lib", "e.so"))
    assert said(capsys)[-1] == "INFO serve.py:101: Embedding model e loaded successfully."


@pytest.mark.parametrize(
    ("config", "problem"), [("{", "json_invalid"), ("{}", "missing"), ("[]", "model_type")]
)
def test_config_that_is_none(model: Path, config: str, problem: str) -> None:
    from pydantic import ValidationError

    (model / "mlc-chat-config.json").write_text(config, "utf-8")
    with pytest.raises(ValidationError) as raised:
        announce(arguments(str(model)))
    assert raised.value.title == "MLCChatConfig"
    assert raised.value.errors()[0]["type"] == problem


def test_other_tokenizer_files_are_not_read(
    capsys: pytest.CaptureFixture[str], model: Path
) -> None:
    (model / "tokenizer.json").rename(model / "tokenizer.model")
    config = json.loads((model / "mlc-chat-config.json").read_text("utf-8"))
    config["conv_template"]["system_message"] = "Its own template is used."
    (model / "mlc-chat-config.json").write_text(json.dumps(config), "utf-8")
    announce(arguments(str(model)))
    assert any("Only tokenizer.json is read" in line for line in said(capsys))
    assert load_model(str(model)).conversation.system_message == "Its own template is used."


@pytest.mark.parametrize(
    ("flags", "batch", "total", "chunk"),
    [
        ((), 4, 2048, 1024),
        (("--mode", "interactive"), 1, 2048, 1024),
        (("--mode", "server"), 8, 16384, 1024),
        (("--overrides", "max_num_sequence=3;prefill_chunk_size=64"), 3, 2048, 64),
        (("--overrides", "context_window_size=512"), 4, 512, 512),
    ],
)
def test_limits_are_told(
    capsys: pytest.CaptureFixture[str],
    model: Path,
    flags: tuple[str, ...],
    batch: int,
    total: int,
    chunk: int,
) -> None:
    announce(arguments(str(model), "--device", "cpu", *flags))
    line = next(line for line in said(capsys) if "The actual engine mode" in line)
    assert line.endswith(
        f"So max batch size is {batch}, max KV cache token capacity is {total},"
        f" prefill chunk size is {chunk}."
    )


def test_mock_engine_tells_nothing_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    announce(arguments("name", "--model-lib", "mock://echo"))
    assert "config.cc" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", FAILURES)
def test_failures_on_demand_stay(kind: str) -> None:
    command = f"from pytest_mlc_server.sim.startup import fail; fail({kind!r}, 'm', 'm.so')"
    process = subprocess.Popen(
        [sys.executable, "-c", command],
        stderr=subprocess.PIPE,
        text=True,
        env=simulator_environment(),
    )
    watchdog = threading.Timer(DEADLINE_S, process.kill)
    watchdog.start()
    assert process.stderr is not None
    first = process.stderr.readline()
    last = next(line for line in process.stderr if line.startswith("tvm.error.InternalError: "))
    process.terminate()
    assert process.wait(DEADLINE_S) == -signal.SIGTERM
    watchdog.cancel()
    process.stderr.close()
    assert first == "Exception in thread Thread-1:\n"
    assert last.rstrip("\n").endswith(FAILURES[kind].format(model="m", library="m.so"))


def test_weights_without_a_library_are_not_missed(model: Path) -> None:
    listed: dict[str, Any] = {"records": [{"dataPath": "params_shard_0.bin"}]}
    (model / "tensor-cache.json").write_text(json.dumps(listed), "utf-8")
    announce(arguments(str(model), "--model-lib", str(model / "tiny.so")))
