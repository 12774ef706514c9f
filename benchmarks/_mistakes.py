"""The start-up mistakes: what each does to the files or the command line, and what names its cause.

Each is rebuilt from the recording of a real server's failed start
(``data/startup_mistakes.json``), with small files.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_mlc_server import engines

RECORDED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "startup_mistakes.json").read_text(encoding="utf-8")
)

PORT_IN_USE = "port-in-use"

#: What is given to the server, for each mistake that is one of its configuration.
GIVEN: dict[str, dict[str, Any]] = {
    "bad-allow-origins": {"args": ["--allow-origins", "*"]},
    "bad-mode": {"mode": "turbo"},
    "bad-model-lib-path": {"model_lib": "no-such-lib.so"},
    "bad-model-path": {"model": "no-such-model"},
    "bad-overrides-key": {"overrides": "no_such_key=1"},
    "bad-port-string": {"port": "abc"},
    "device-cpu-1": {"device": "cpu:1"},
    "device-cpu-9": {"device": "cpu:9"},
    "device-cuda-absent": {"device": "cuda"},
    "hf-model": {"model": "HF://mlc-ai/none"},
    "model-is-config-file": {"model": "model/mlc-chat-config.json"},
    "model-lib-not-a-lib": {"model_lib": "not-a-lib.so"},
    "overrides-bad-value": {"overrides": "max_num_sequence=abc"},
    "overrides-garbage": {"overrides": "hello"},
    "overrides-gpu-util-zero": {"overrides": "gpu_memory_utilization=0"},
    "overrides-kv-too-big": {"overrides": "max_total_seq_length=99999999999"},
    "port-70000": {"port": 70000},
    "unknown-device": {"device": "banana"},
    "unknown-flag": {"args": ["--no-such-flag"]},
}

#: What is done to the files, for the others.
DONE: dict[str, Callable[[Path], object]] = {
    "corrupt-config": lambda model: (model / "mlc-chat-config.json").write_text('{"model_type": '),
    "missing-param-shard": lambda model: (model / "params_shard_0.bin").unlink(),
    "missing-tokenizer": lambda model: (model / "tokenizer.json").unlink(),
    "model-dir-without-config": lambda model: (model / "mlc-chat-config.json").unlink(),
}

#: What an error must say to name the cause: the thing that is wrong, in anybody's words.
CAUSE = {
    "bad-allow-origins": r"allow.origins",
    "bad-mode": r"turbo",
    "bad-model-lib-path": r"no-such-lib\.so",
    "bad-model-path": r"no-such-model",
    "bad-overrides-key": r"no_such_key",
    "bad-port-string": r"abc",
    "corrupt-config": r"JSON",
    "device-cpu-1": r"cpu:1",
    "device-cpu-9": r"cpu:9",
    "device-cuda-absent": r"cuda",
    "hf-model": r"mlc-ai/none",
    "missing-param-shard": r"params_shard_0\.bin",
    "missing-tokenizer": r"tokenizer",
    "model-dir-without-config": r"mlc-chat-config\.json",
    "model-is-config-file": r"mlc-chat-config\.json",
    "model-lib-not-a-lib": r"not-a-lib\.so",
    "overrides-bad-value": r"max_num_sequence",
    "overrides-garbage": r"hello",
    "overrides-gpu-util-zero": r"gpu_memory_utilization",
    "overrides-kv-too-big": r"max_total_seq_length|bad_alloc|out of memory",
    "port-70000": r"65535|70000",
    PORT_IN_USE: r"address already in use|port \d+ is|already listening|occupied",
    "unknown-device": r"banana",
    "unknown-flag": r"no-such-flag",
}

#: Where a message repeats the command line, which names everything and so says nothing.
_ECHO = re.compile(r"<mirakuru[^>]*>|[^\n]*\bserve\b[^\n]*--device\b[^\n]*")


def names_cause(name: str, text: str) -> bool:
    """Tell whether a text names the cause of a mistake, elsewhere than in the command line."""
    return re.search(CAUSE[name], _ECHO.sub("", text), re.IGNORECASE) is not None


def parameters(directory: Path, name: str, port: int) -> dict[str, Any]:
    """Return what `PopenServer` is given."""
    found: dict[str, Any] = {
        "model": "model",
        "model_lib": "library.so",
        "device": "cpu",
        "port": port if name == PORT_IN_USE else "auto",
        **GIVEN.get(name, {}),
    }
    for key in ("model", "model_lib"):
        if "://" not in found[key]:
            found[key] = str(directory / found[key])
    return found


def command(python: str, given: dict[str, Any], port: int) -> list[str]:
    """Return the command line that somebody writes who wants the same."""
    words = [python, "-m", "mlc_llm", "serve", given["model"], "--model-lib", given["model_lib"]]
    words += ["--device", given["device"]]
    for key in ("mode", "overrides"):
        if key in given:
            words += [f"--{key}", given[key]]
    words += ["--port", str(port if given["port"] == "auto" else given["port"])]
    return [*words, *given.get("args", [])]


def write_model(directory: Path) -> Path:
    """Write a model that a check before the start finds nothing wrong with."""
    model = directory / "model"
    shutil.copytree(engines.mock_model(), model)
    (model / "params_shard_0.bin").write_bytes(bytes(16))
    records = [{"dataPath": "params_shard_0.bin", "format": "raw-shard", "nbytes": 16}]
    (model / "tensor-cache.json").write_text(json.dumps({"metadata": {}, "records": records}))
    return model


def write_files(directory: Path, name: str) -> None:
    """Write a model and a library, with the mistake in them if it is one of files."""
    model = write_model(directory)
    machine = {"x86_64": 62, "aarch64": 183}.get(platform.machine(), 0)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 3, machine)
    (directory / "library.so").write_bytes(header.ljust(64, b"\0"))
    (directory / "not-a-lib.so").touch()
    (directory / "recorded.json").write_text(json.dumps(RECORDED[name]))
    if name in DONE:
        DONE[name](model)
