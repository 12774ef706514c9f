"""Against a real `mlc_llm`: skipped, with a reason, where it cannot be imported.

``pytest -m mlc_real`` uses the mock engine alone; with ``--mlc-model`` (and ``--mlc-model-lib``,
``--mlc-device``) the tests of a real engine run as well.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from pytest_mlc_server import EngineUnavailableError, PopenServer, ServerConfig, ServerFactory
from pytest_mlc_server.overrides import OVERRIDES
from pytest_mlc_server.preflight import installed_override_keys

pytestmark = [pytest.mark.mlc_real, pytest.mark.timeout(600)]

MOCK: dict[str, Any] = {"engine": "mock", "url": None, "model": None, "model_lib": None}


@pytest.fixture
def real_model(mlc_server_config: ServerConfig) -> ServerConfig:
    if mlc_server_config.engine != "mlc":
        pytest.skip("no --mlc-model was given")
    return mlc_server_config


def chat(server: PopenServer, text: str) -> str:
    response = requests.post(
        f"{server.openai_v1_base_url}/chat/completions",
        json={"messages": [{"role": "user", "content": text}], "max_tokens": 200},
        timeout=120,
    )
    response.raise_for_status()
    content = response.json()["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


def test_mock_engine_echoes(mlc_server_factory: ServerFactory) -> None:
    server = mlc_server_factory(**MOCK)
    assert "Hello from the tests" in chat(server, "Hello from the tests")
    listed = requests.get(f"{server.base_url}/v1/models", timeout=60).json()
    assert [model["id"] for model in listed["data"]] == [server.model]


def test_stop_closes_the_engine_in_order(mlc_server_factory: ServerFactory) -> None:
    with mlc_server_factory.temporary(**MOCK) as server:
        assert server.is_alive()
    assert server.returncode == 0


def test_missing_device_is_unavailable(mlc_server_factory: ServerFactory) -> None:
    with pytest.raises(EngineUnavailableError, match="cpu:99"):
        mlc_server_factory(**MOCK, device="cpu:99")


def test_overrides_of_this_package_are_those_of_the_installed_one() -> None:
    assert set(OVERRIDES) <= installed_override_keys(None)


def test_real_model_answers(real_model: ServerConfig, mlc_server: PopenServer) -> None:
    assert mlc_server.model == real_model.model
    assert isinstance(chat(mlc_server, "Say hello."), str)


def test_real_model_streams(real_model: ServerConfig, mlc_server: PopenServer) -> None:
    body = {"prompt": "One, two,", "max_tokens": 8, "stream": True}
    with requests.post(
        f"{mlc_server.openai_v1_base_url}/completions", json=body, stream=True, timeout=120
    ) as response:
        events = [line.removeprefix(b"data: ") for line in response.iter_lines() if line]
    assert events[-1] == b"[DONE]"
    assert json.loads(events[0])["object"] == "text_completion"
