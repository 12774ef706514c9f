"""Other people's programs against the simulator: run with ``-m thirdparty`` alone."""

from __future__ import annotations

import gc
import warnings
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mlc_server import ServerConfig


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "thirdparty" in str(config.option.markexpr):
        return
    skip = pytest.mark.skip(reason="takes minutes: run it with -m thirdparty")
    for item in items:
        if item.get_closest_marker("thirdparty") is not None:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def mlc_server_config(mlc_server_config: ServerConfig) -> ServerConfig:
    """Serve an embedding model as well."""
    if mlc_server_config.engine != "sim":
        return mlc_server_config
    return mlc_server_config.replace(
        embedding_model="embedder", embedding_model_lib="embedder.so", startup_timeout=60.0
    )


@pytest.fixture
def model(mlc_environ: dict[str, str]) -> str:
    """The model's name; the clients find the server in the environment."""
    return mlc_environ["OPENAI_MODEL"]


@pytest.fixture(scope="module")
def collected() -> Iterator[None]:
    """Collect what clients left open, before a test that tolerates no warning does it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
