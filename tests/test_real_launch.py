"""The launcher against a real `mlc_llm`: skipped, with a reason, where it cannot be imported."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from pytest_mlc_server import PopenServer, ServerConfig, auto_device, engines
from pytest_mlc_server.launcher import devices, upstream

pytestmark = [pytest.mark.mlc_real, pytest.mark.timeout(600)]

#: The mock engine under the name of a model's: no weights, and `auto` means what it means there.
MOCK: dict[str, Any] = {"model_lib": engines.MOCK_LIBRARY, "port": "auto"}


def make(**options: Any) -> PopenServer:
    return PopenServer(engines.mock_model(), **{**MOCK, **options})


@pytest.fixture
def servers() -> Iterator[list[PopenServer]]:
    made: list[PopenServer] = []
    yield made
    for server in made:
        server.terminate()


def started(servers: list[PopenServer], **options: Any) -> PopenServer:
    server = make(**options)
    servers.append(server)
    server.start()
    return server


def log_of(server: PopenServer) -> list[str]:
    """Return what a server has logged, without times, processes and ports."""
    text = Path(str(server.log_path)).read_text()
    text = re.sub(r"\x1b\[[0-9;]*m|\[[\d :.-]+\]|:\d{4,5}|process \[\d+\]", "", text)
    return [line.strip() for line in text.splitlines() if "HTTP/1.1" not in line]


def echo(server: PopenServer) -> str:
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50}
    url = f"{server.openai_v1_base_url}/chat/completions"
    headers = {"Authorization": f"Bearer {server.api_key}"} if server.api_key else {}
    response = requests.post(url, json=body, headers=headers, timeout=120)
    response.raise_for_status()
    return str(response.json()["choices"][0]["message"]["content"])


def test_the_installed_version_is_as_expected() -> None:
    code = (
        "import importlib, sys; sys.path.insert(0, sys.argv[1]);"
        "upstream = importlib.import_module('pytest_mlc_server.launcher.upstream');"
        "print('says', upstream.load())"
    )
    root = str(Path(engines.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code, root], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "says "


@pytest.mark.parametrize("key", [None, "k3y"])
def test_a_direct_server_is_a_plain_one(servers: list[PopenServer], key: str | None) -> None:
    plain, direct = (
        started(servers, device="cpu", launch=launch, api_key=key) for launch in ("plain", "direct")
    )
    assert echo(plain) == echo(direct)
    assert log_of(plain) == log_of(direct)
    assert direct.startup_seconds is not None
    assert plain.startup_seconds is not None
    for server in (plain, direct):
        server.terminate()
    assert (plain.returncode, direct.returncode) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--nonsense"], 2), (["--device", "cpu:99"], 1), (["--device", "nonsense"], 1)],
)
def test_a_direct_server_fails_as_a_plain_one(arguments: list[str], code: int) -> None:
    ends = []
    for how in (["-m"], [engines.ENTRY, "direct"]):
        command = [sys.executable, *how, "mlc_llm", "serve", engines.mock_model(), "--port", "0"]
        command += ["--model-lib", engines.MOCK_LIBRARY, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code
        ends.append(done.stderr.splitlines()[-1])
    assert ends[0] == ends[1]


def test_auto_means_what_upstream_means() -> None:
    answer = auto_device.find(ServerConfig(model="m"))
    assert answer is not None
    assert answer.problem == ""
    for kind in devices.KINDS:
        command = [sys.executable, "-m", upstream.CHECK, kind]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        line = next((s for s in told.stdout.splitlines() if s.startswith("check_device:")), "")
        assert (kind in answer.found) == bool(line.partition(":")[2])
    assert answer.device == answer.found[0]


def test_the_order_of_auto_is_upstreams() -> None:
    module = importlib.import_module(upstream.AUTO_DEVICE)
    assert list(devices.KINDS) == list(module.AUTO_DETECT_DEVICES)
