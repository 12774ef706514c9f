"""How long a server takes to be ready, by how it is launched, and after it was wedged.

With the real `mlc_llm` where it can be imported (its mock engine, or ``--model``), else with a
stand-in whose import takes five seconds of waiting. As with the real one, a device check is a
process that imports everything again. Ready is: it has answered ``/v1/models`` and one generation.

Rows, in units of the plain launch with an explicit device:

- upstream's own ``--device auto``: a check for each of six kinds of device
- ``auto`` asked of TVM by this package, the first time and from then on
- plain, direct, warm (the first server, which waits for the import, and the next one)
- a wedged server that is started again, launched in each of the three ways
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _measure import Results, report, table

from pytest_mlc_server import PopenServer, auto_device, device_answers, engines

TESTS = Path(__file__).parent.parent / "tests"

#: How long a wedged engine may take to be noticed before it is killed instead, in seconds.
NOTICED_WITHIN = 30.0

PLAIN = "plain, --device cpu"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1, help="rounds (default 1)")
    parser.add_argument("--model", help="model of the real engine (default: its mock engine)")
    parser.add_argument("--import", type=float, default=5.0, dest="seconds", metavar="SECONDS",
                        help="how long importing the stand-in takes (default 5)")  # fmt: skip
    parser.add_argument("--standin", action="store_true", help="even where mlc_llm is installed")
    arguments = parser.parse_args()
    real = importlib.util.find_spec("mlc_llm") is not None and not arguments.standin
    what = "mlc_llm" if real else f"stand-in, import {arguments.seconds:g} s"
    with report(f"start to ready ({what})"), tempfile.TemporaryDirectory() as directory:
        os.environ["XDG_RUNTIME_DIR"] = directory  # nothing is known, and no parent is warm
        tempfile.tempdir = directory  # the log of a server that was wedged is kept
        make = _real(arguments.model) if real else _standin(directory, arguments.seconds)
        results: Results = {}
        for _ in range(arguments.runs):
            for name, seconds in measure(make):
                results.setdefault(name, []).append(seconds)
        table("launch", results, ours=PLAIN, ratio=False)
        print(f"\nas fast as {PLAIN!r}, in times:")
        plain = statistics.median(results[PLAIN])
        for name, values in results.items():
            print(f"  {name}: {plain / statistics.median(values):.1f}")


Make = Callable[..., PopenServer]


def _standin(directory: str, seconds: float) -> Make:
    places = os.pathsep.join(str(TESTS / "standin" / name) for name in ("launch", ""))
    env = {"PYTHONPATH": places, "STANDIN_LAUNCH": f"import={seconds}", "TVM_STANDIN": "cpu=1"}
    model = Path(directory, "model")
    model.mkdir()
    for file in Path(engines.mock_model()).iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    (model / "params_shard_0.bin").write_bytes(bytes(16))
    records = [{"dataPath": "params_shard_0.bin", "format": "raw-shard", "nbytes": 16}]
    (model / "tensor-cache.json").write_text(json.dumps({"metadata": {}, "records": records}))
    return lambda **options: PopenServer(str(model), port="auto", env=env, **options)


def _real(model: str | None) -> Make:
    if model is not None:
        return lambda **options: PopenServer(model, port="auto", **options)
    # The engine that is said to be `mlc`, so that `auto` is looked for as it is for a model.
    return lambda **options: PopenServer(
        engines.mock_model(), port="auto", model_lib=engines.MOCK_LIBRARY, **options
    )


def measure(make: Make) -> Iterator[tuple[str, float]]:
    """Measure each row once."""
    with _left_to_upstream():
        yield "plain, --device auto of upstream", _start(make())
    device_answers.known.clear()
    yield "plain, auto, TVM is asked first", _start(make())
    yield "plain, auto, remembered", _start(make())
    for launch in ("plain", "direct"):
        server = make(device="cpu", launch=launch)
        yield PLAIN if launch == "plain" else launch, _start(server, stop=False)
        yield f"{launch}: again after a wedge", _restart(server)
        server.terminate()
    if sys.platform.startswith("linux"):
        first, second = (make(device="cpu", launch="warm") for _ in range(2))
        yield "warm, first server", _start(first, stop=False)
        yield "warm, next server", _start(second)
        yield "warm: again after a wedge", _restart(first)
        first.terminate()


@contextlib.contextmanager
def _left_to_upstream() -> Iterator[None]:
    """Have the device found as it is without this package."""
    found = auto_device.find
    answer = device_answers.Answer("", problem="the benchmark wants upstream's own way")
    auto_device.find = lambda *_, **__: answer
    try:
        yield
    finally:
        auto_device.find = found


def _start(server: PopenServer, *, stop: bool = True) -> float:
    began = time.perf_counter()
    server.start()
    seconds = time.perf_counter() - began
    if stop:
        server.terminate()
    return seconds


def _restart(server: PopenServer) -> float:
    """Wedge a server, and have it started again."""
    threading.Thread(target=_wedge, args=(server,), daemon=True).start()
    deadline = time.monotonic() + NOTICED_WITHIN
    while server.poll() == "ready" and time.monotonic() < deadline:
        time.sleep(0.01)
    began = time.perf_counter()
    server.restart()
    return time.perf_counter() - began


def _wedge(server: PopenServer) -> None:
    """Send what kills an engine: the stand-in's word for it, and an empty stop string."""
    body: dict[str, Any] = {"model": server.model, "prompt": "wedge", "stop": [""], "max_tokens": 4}
    request = urllib.request.Request(
        f"{server.openai_v1_base_url}/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with contextlib.suppress(OSError):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()


if __name__ == "__main__":
    main()
