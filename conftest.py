"""The tests of this repository, set up through the public plugin like anybody else's."""

from __future__ import annotations

import pytest

from pytest_mlc_server import ServerConfig

pytest_plugins = ["pytester"]


@pytest.fixture(scope="session")
def mlc_server_config(mlc_server_config: ServerConfig) -> ServerConfig:
    """Use the simulator where nothing else is asked for: no GPU, no model, no mlc_llm."""
    if mlc_server_config.engine == "mlc" and mlc_server_config.model is None:
        return mlc_server_config.replace(engine="sim")
    return mlc_server_config
