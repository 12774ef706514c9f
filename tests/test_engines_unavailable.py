"""Which failed starts mean that an engine or its hardware is missing, and the remedy."""

from __future__ import annotations

import pytest

from pytest_mlc_server import ServerConfig, engines


@pytest.mark.parametrize("engine", ["mlc", "mock"])
@pytest.mark.parametrize("name", ["mlc_llm", "'mlc_llm'"])
def test_a_missing_installation_comes_with_its_remedy(engine: str, name: str) -> None:
    config = ServerConfig(engine=engine, model="m", python="/opt/conda/bin/python")
    text = engines.unavailable(config, 1, f"/opt/conda/bin/python: No module named {name}")
    assert text is not None
    for word in (repr(engine), "/opt/conda/bin/python", "nstall", "--mlc-engine sim"):
        assert word in text


def test_a_missing_simulator_comes_with_its_remedy() -> None:
    text = engines.unavailable(ServerConfig(engine="sim"), engines.SIM_NOT_INSTALLED, "")
    assert text is not None
    assert "pip install 'pytest-mlc-server[sim]'" in text


def test_missing_hardware_comes_with_its_remedy() -> None:
    log = "ValueError: Device is not found on your local environment: cuda:0"
    text = engines.unavailable(ServerConfig(model="m", device="cuda"), 1, log)
    assert text is not None
    assert "'cuda'" in text
    assert "--mlc-device" in text


@pytest.mark.parametrize(
    ("engine", "returncode", "log"),
    [
        ("mlc", 1, "ModuleNotFoundError: No module named 'torch'"),
        ("mlc", 1, "FileNotFoundError: params_shard_0.bin"),
        ("mlc", None, "No module named mlc_llm"),  # it still ran
        ("mlc", -9, "No module named mlc_llm"),
        ("sim", 1, "No module named mlc_llm"),
        ("sim", 0, ""),
    ],
)
def test_any_other_end_is_a_failure(engine: str, returncode: int | None, log: str) -> None:
    assert engines.unavailable(ServerConfig(engine=engine, model="m"), returncode, log) is None
