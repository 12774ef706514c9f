"""A user's test module: what ``mypy --strict`` makes of it with the installed package.

Each `assert_type` is a type that a user's editor shows. Nothing here is run.
"""

from __future__ import annotations

import openai
import pytest
import requests
from typing_extensions import assert_type

from pytest_mlc_server import (
    ConfigError,
    EngineConfig,
    MLCSim,
    MLCUsage,
    PopenServer,
    ServerConfig,
    ServerFactory,
    factories,
)

small = factories.mlc_server(overrides={"max_num_sequence": 1})


@pytest.fixture(scope="session")
def mlc_server_config(mlc_server_config: ServerConfig) -> ServerConfig:
    return assert_type(mlc_server_config.replace(device="cuda"), ServerConfig)


def test_server(mlc_server: PopenServer) -> None:
    assert_type(mlc_server.base_url, str)
    assert_type(mlc_server.model, str)
    assert_type(mlc_server.port, "int | str")
    assert_type(mlc_server.pid, "int | None")
    assert_type(mlc_server.is_alive(), bool)
    assert_type(mlc_server.env(), dict[str, str])
    assert_type(mlc_server.startup_seconds, "float | None")


def test_factory(mlc_server_factory: ServerFactory) -> None:
    assert_type(mlc_server_factory(overrides={"max_num_sequence": 1}), PopenServer)
    with mlc_server_factory.temporary(device="cpu") as server:
        assert_type(server, PopenServer)


def test_by_hand() -> None:
    config = EngineConfig(max_num_sequence=4)
    with pytest.raises(ConfigError), PopenServer("model", engine_config=config) as server:
        assert_type(server, PopenServer)
    PopenServer(3)  # type: ignore[arg-type]  # a type that is checked


def test_clients(
    mlc_environ: dict[str, str], mlc_session: requests.Session, mlc_client: openai.OpenAI
) -> None:
    assert_type(mlc_environ["OPENAI_BASE_URL"], str)
    assert_type(mlc_session.get("/v1/models").status_code, int)
    assert_type(mlc_client.models.list().data[0].id, str)


def test_told(mlc_sim: MLCSim, mlc_usage: MLCUsage) -> None:
    mlc_sim.when("weather").reply("Sunny")
    assert_type(mlc_usage.completion_tokens, int)
