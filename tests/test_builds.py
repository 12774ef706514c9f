"""Which models a server may compile or download, and whom it must not do it beside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import EngineConfig, ServerConfig, builds
from pytest_mlc_server.builds import Builds


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def of(environment: dict[str, str] | None = None, cwd: str = "/models", **fields: Any) -> Builds:
    config = ServerConfig(**{"model": "m", **fields})
    return builds.of(config, {"MLC_LLM_HOME": "/home", **(environment or {})}, cwd)


READONLY = {"MLC_JIT_POLICY": "READONLY"}
NO_DOWNLOAD = {"MLC_DOWNLOAD_CACHE_POLICY": "READONLY"}


@pytest.mark.parametrize(
    ("fields", "environment"),
    [
        ({"model_lib": "a.so"}, {}),
        ({"engine_config": EngineConfig(model_lib="a.so")}, {}),
        ({}, READONLY),
        ({}, {"MLC_JIT_POLICY": "OFF"}),
        ({"engine": "mock", "model": None}, {}),
        ({"engine": "sim", "model": "HF://org/name"}, {}),
        ({"model": "HF://org/name", "model_lib": "a.so"}, NO_DOWNLOAD),
        ({"model": "HF://org/name"}, {**READONLY, **NO_DOWNLOAD}),
        ({"model_lib": "a.so", "additional_models": ["d,d.so"]}, {}),
    ],
)
def test_nothing_is_built(fields: Any, environment: dict[str, str]) -> None:
    assert of(environment, **fields) == Builds()


@pytest.mark.parametrize(
    ("fields", "environment", "number"),
    [
        ({}, {}, 1),
        ({}, NO_DOWNLOAD, 1),
        ({"model": "HF://org/name"}, {}, 1),
        ({"model": "HF://org/name", "model_lib": "a.so"}, {}, 1),
        ({"model": "HF://org/name"}, READONLY, 1),
        ({"additional_models": ["d"]}, {}, 2),
        ({"additional_models": ["d,d.so"]}, {}, 1),
        ({"model_lib": "a.so", "additional_models": ["d"]}, {}, 1),
        ({"additional_models": ["m"]}, {}, 1),
        ({"model_lib": "a.so", "embedding_model": "HF://e/e", "embedding_model_lib": "e"}, {}, 1),
    ],
)
def test_each_model_that_may_be_built_has_a_lock(
    fields: Any, environment: dict[str, str], number: int, tmp_path: Path
) -> None:
    found = of(environment, **fields)
    assert len(set(found.locks)) == len(found.locks) == number
    for path in (*found.locks, found.stamp):
        assert Path(path).parent.parent == tmp_path
        assert os.stat(Path(path).parent).st_mode & 0o077 == 0


def test_the_lock_is_that_of_the_model_wherever_it_is_called_from() -> None:
    locks = of().locks
    assert of(cwd="/", model="models/m").locks == locks
    assert of(model="/models/m").locks == locks
    assert of(overrides="opt=O3;max_num_sequence=1", device="cuda").locks == locks
    assert of(model="other").locks != locks
    assert of({"MLC_LLM_HOME": "/elsewhere"}).locks != locks


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "other"},
        {"overrides": "opt=O3"},
        {"overrides": "context_window_size=512"},
        {"engine_config": EngineConfig(max_num_sequence=3)},
        {"device": "cuda"},
        {"python": "python3.99"},
        {"additional_models": ["d"]},
        {"additional_models": ["d,d.so"]},
    ],
)
def test_what_shapes_the_library_has_a_stamp_of_its_own(fields: Any) -> None:
    assert of(**fields).stamp != of().stamp


@pytest.mark.parametrize(
    "fields",
    [
        {"overrides": "gpu_memory_utilization=0.5;max_total_seq_length=99"},
        {"port": 8082},
        {"host": "0.0.0.0"},
        {"mode": "server"},
        {"env": {"CUDA_VISIBLE_DEVICES": "3"}},
        {"startup_timeout": 5},
    ],
)
def test_what_does_not_shape_the_library_shares_a_stamp(fields: Any) -> None:
    assert of(**fields).stamp == of().stamp != ""


@pytest.mark.parametrize(
    ("model", "environment", "anew"),
    [
        ("m", {"MLC_JIT_POLICY": "REDO"}, True),
        ("m", {"MLC_DOWNLOAD_CACHE_POLICY": "REDO"}, False),
        ("HF://org/name", {"MLC_DOWNLOAD_CACHE_POLICY": "REDO"}, True),
    ],
)
def test_what_is_built_anew_each_time_has_no_stamp(
    model: str, environment: dict[str, str], anew: bool
) -> None:
    found = of(environment, model=model)
    assert found.locks
    assert (found.stamp == "") is anew


def test_what_a_good_start_is_known_by() -> None:
    plain = of(additional_models=["d", "e,e.so", "HF://f/f"])
    assert plain.libraries == 4
    assert plain.configs == tuple(f"/models/{name}/mlc-chat-config.json" for name in "mde")
    assert not plain.until_ready
    embedding = of(embedding_model="HF://e/e", embedding_model_lib="e.so")
    assert embedding.until_ready
    assert embedding.libraries == 1
