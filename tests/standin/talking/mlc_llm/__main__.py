"""``python -m mlc_llm serve MODEL …``: the simulator, after a download and a compilation.

It fetches nothing and compiles nothing: it leaves files where the real one does, and says so in
upstream's words. Orders are in ``STANDIN``: words separated by spaces, each ``name=value``.

``download=SECONDS``, ``compile=SECONDS``
    how long that takes, with a line for each tenth.
``load=SECONDS``
    how long the engine loads, in silence.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

from pytest_mlc_server import engines
from pytest_mlc_server.sim import cli, startup
from pytest_mlc_server.sim.logs import log

ORDERS = dict(word.partition("=")[::2] for word in os.environ.get("STANDIN", "").split())
HOME = Path(os.environ.get("MLC_LLM_HOME", Path.home() / ".cache" / "mlc_llm"))


def policy(name):
    return os.environ.get(name, "ON")


def work(order, say):
    """Take as long as was ordered, and say something ten times."""
    seconds = float(ORDERS.get(order, 0))
    for step in range(10 if seconds else 0):
        time.sleep(seconds / 10)
        say(step)


def download(name):
    """Return the directory that a model of Hugging Face has in the cache; make it if need be."""
    log("INFO", "download_cache.py:227", f"Downloading model from HuggingFace: {name}")
    place = HOME / "model_weights" / "hf" / name.removeprefix("HF://")
    if place.is_dir():
        log("INFO", "download_cache.py:166", f"Weights already downloaded: \033[1m{place}\033[0m")
        return place
    if policy("MLC_DOWNLOAD_CACHE_POLICY") == "READONLY":
        raise RuntimeError(f"Model {name} is not in the cache, and the policy is READONLY")
    log("INFO", "download_cache.py:56", f"[Git] Cloning {name} to /tmp/x/tmp")
    work("download", lambda step: print(f"Filtering content: {step + 1}0% ({step + 1}/10)"))
    place.mkdir(parents=True)
    for file in Path(engines.mock_model()).iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    (place / "params_shard_0.bin").write_bytes(bytes(16))
    records = [{"dataPath": "params_shard_0.bin", "format": "raw-shard", "nbytes": 16}]
    (place / "tensor-cache.json").write_text(json.dumps({"metadata": {}, "records": records}))
    log("INFO", "download_cache.py:219", f"Moving /tmp/x/tmp to \033[1m{place}\033[0m")
    return place


def compiled(name):
    """Say which library is used; make it if need be. Takes the place of the simulator's step."""
    directory = download(name) if name.startswith("HF://") else Path(name)
    shaping = [word for word in sys.argv if word.startswith(("cuda", "cpu", "context_", "max_num"))]
    key = hashlib.md5(repr((directory.name, shaping)).encode()).hexdigest()
    library = HOME / "model_lib" / f"{key}.so"
    if library.exists():
        log("INFO", "jit.py:160", f"Using cached model lib: \033[1m{library}\033[0m")
        return
    if policy("MLC_JIT_POLICY") == "READONLY":
        raise RuntimeError(
            "JIT is disabled by MLC_JIT_POLICY=READONLY, and the model library is not in the cache"
        )
    log("INFO", "jit.py:128", "Compiling using commands below:")
    log("INFO", "jit.py:129", f"python -m mlc_llm compile {directory} --output /tmp/x/lib.so")
    work("compile", lambda step: log("INFO", "compile.py:140", f"Compiling, pass {step + 1}"))
    library.parent.mkdir(parents=True, exist_ok=True)
    library.write_text("library")
    log("INFO", "jit.py:136", f"Using compiled model lib: \033[1m{library}\033[0m")


def loads(*arguments):
    time.sleep(float(ORDERS.get("load", 0)))
    return LOAD(*arguments)


LOAD, startup._load = startup._load, loads
startup._announce_jit = compiled

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
