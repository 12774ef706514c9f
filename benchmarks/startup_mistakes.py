"""How long a mistake takes until it is reported: by the real server, and by this package.

Every recorded start of ``mlc_llm serve`` that failed (``data/startup_mistakes.json``) is rebuilt
with small files and a child that behaves as the real server did: it prints the recorded log at once
and ends with the recorded exit code, or hangs for ever where the real one did. The real server's
seconds are those of the recording (a model of 0.3 MB on 2 cores); ours include the child's start,
not the seconds that a real server needs until it prints its first line.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _measure import ms, report, runs_argument

from pytest_mlc_server import ConfigError, PopenServer, StartError, engines

RECORDED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "startup_mistakes.json").read_text(encoding="utf-8")
)

#: The child: says what the real server said, and ends as it did.
CHILD = """
import json, os, sys, threading
with open(os.environ["RECORDED"], encoding="utf-8") as file:
    recorded = json.load(file)
print(recorded["stderr"], file=sys.stderr, flush=True)
if recorded["returncode"] is None:
    threading.Event().wait()
os._exit(recorded["returncode"])
"""

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


def write_files(directory: Path, name: str) -> None:
    """Write a model, a library and the child."""
    model = directory / "model"
    shutil.copytree(engines.mock_model(), model)
    (model / "params_shard_0.bin").write_bytes(bytes(16))
    records = [{"dataPath": "params_shard_0.bin", "format": "raw-shard", "nbytes": 16}]
    (model / "tensor-cache.json").write_text(json.dumps({"metadata": {}, "records": records}))
    machine = {"x86_64": 62, "aarch64": 183}.get(platform.machine(), 0)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 3, machine)
    (directory / "library.so").write_bytes(header.ljust(64, b"\0"))
    (directory / "not-a-lib.so").touch()
    package = directory / "child" / "mlc_llm"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(CHILD)
    (directory / "recorded.json").write_text(json.dumps(RECORDED[name]))
    if name in DONE:
        DONE[name](model)


@contextmanager
def occupied(name: str) -> Iterator[dict[str, Any]]:
    """Occupy a port where that is the mistake."""
    if name != "port-in-use":
        yield {}
        return
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield {"port": other.getsockname()[1]}


def measure(name: str) -> tuple[float, str, str]:
    """Make a mistake; return the seconds until it was reported, where, and in which words."""
    with tempfile.TemporaryDirectory() as path, occupied(name) as given:
        directory = Path(path)
        write_files(directory, name)
        parameters: dict[str, Any] = {
            "model": "model",
            "model_lib": "library.so",
            "device": "cpu",
            "port": "auto",
            "cwd": path,
            "env": {
                "PYTHONPATH": str(directory / "child"),
                "RECORDED": str(directory / "recorded.json"),
            },
            **GIVEN.get(name, {}),
            **given,
        }
        began = time.perf_counter()
        try:
            with PopenServer(**parameters):
                raise RuntimeError(f"{name}: started")
        except ConfigError as error:
            return time.perf_counter() - began, "before the start", str(error)
        except StartError as error:
            seconds = time.perf_counter() - began
            if error.log_path:
                shutil.rmtree(os.path.dirname(error.log_path), ignore_errors=True)
            return seconds, "from the log", str(error)


def main() -> None:
    runs = runs_argument(__doc__, 5)
    with report("a mistake -> its report"):
        row = "{:<28}{:>14}{:>12}   {}".format
        print("\n" + row("mistake", "real server", "ours", "found"))
        worst: dict[str, float] = {}
        words = []
        for name, recorded in RECORDED.items():
            results = [measure(name) for _ in range(runs)]
            seconds = statistics.median(result[0] for result in results)
            _, where, text = results[0]
            real = f"{recorded['seconds']:.1f} s" if recorded["seconds"] else "never"
            print(row(name, real, ms(seconds), where), flush=True)
            worst[where] = max(worst.get(where, 0.0), seconds)
            words.append(f"{name}: {' | '.join(text.splitlines()[:3])[:240]}")
        print(
            f"\nmedian of {runs}; slowest " + ", ".join(f"{k}: {ms(v)}" for k, v in worst.items())
        )
        print("\nthe first words of each report:\n" + "\n".join(words))


if __name__ == "__main__":
    main()
