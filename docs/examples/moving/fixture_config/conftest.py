import os

import pytest

from pytest_mlc_server import ServerConfig


@pytest.fixture(scope="session")
def mlc_server_config(mlc_server_config: ServerConfig) -> ServerConfig:
    places = 2 * (os.cpu_count() or 1)
    return mlc_server_config.replace(overrides={"max_num_sequence": places}, mode="server")
