import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import requests

MODEL = "dist/Llama-3-8B-Instruct-q4f16_1-MLC"
PORT = 8000


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    command = [sys.executable, "-m", "mlc_llm", "serve", MODEL, "--device", "cuda"]
    with open("server.log", "wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(PORT)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "0"},
        )
    url = f"http://127.0.0.1:{PORT}"
    for _ in range(120):
        try:
            if requests.get(f"{url}/v1/models", timeout=1).status_code == 200:
                break
        except requests.ConnectionError:
            time.sleep(1)
    else:
        process.kill()
        raise RuntimeError("the server did not start; see server.log")
    yield url
    process.terminate()
    process.wait()
