"""`EngineConfig`, ours and upstream's, and upstream's consistency check."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_mlc_server import ConfigError, EngineConfig, PopenServer, ServerConfig, engines

#: Upstream's fields and defaults.
UPSTREAM: dict[str, Any] = {
    "model": None,
    "model_lib": None,
    "additional_models": [],
    "mode": None,
    "tensor_parallel_shards": None,
    "pipeline_parallel_stages": None,
    "opt": None,
    "gpu_memory_utilization": None,
    "kv_cache_page_size": 16,
    "max_num_sequence": None,
    "max_total_sequence_length": None,
    "max_single_sequence_length": None,
    "prefill_chunk_size": None,
    "sliding_window_size": None,
    "attention_sink_size": None,
    "max_history_size": None,
    "kv_state_kind": None,
    "speculative_mode": "disable",
    "spec_draft_length": 0,
    "spec_tree_width": 1,
    "prefix_cache_mode": "radix",
    "prefix_cache_max_num_recycling_seqs": None,
    "prefill_mode": "hybrid",
    "verbose": True,
}


@dataclass
class UpstreamEngineConfig:
    """As upstream's class, of which this package knows nothing but that it is a dataclass."""

    model: str | None = None
    model_lib: str | None = None
    additional_models: list[str | tuple[str, str]] = field(default_factory=list)
    mode: str | None = None
    max_num_sequence: int | None = None
    max_total_sequence_length: int | None = None
    kv_cache_page_size: int = 16
    prefill_mode: str = "hybrid"
    verbose: bool = True


@dataclass
class NewerEngineConfig(UpstreamEngineConfig):
    a_newer_field: int = 1


def contradiction(**fields: Any) -> str:
    """Return what is said of fields that do not go together."""
    config = ServerConfig(**{"model": "m", **fields})
    with pytest.raises(ConfigError) as caught:
        config.check()
    return str(caught.value)


# --- EngineConfig ---------------------------------------------------------------------------------


def test_engine_config_has_upstreams_fields_and_defaults() -> None:
    assert dataclasses.asdict(EngineConfig()) == UPSTREAM
    assert EngineConfig().changed() == {}


def test_engine_config_goes_through_json_as_upstreams_does() -> None:
    config = EngineConfig(max_num_sequence=4, additional_models=["a"])
    assert EngineConfig.from_json(config.asjson()) == config
    assert json.loads(EngineConfig().asjson()) == UPSTREAM


@pytest.mark.parametrize("kind", [EngineConfig, UpstreamEngineConfig])
def test_upstreams_engine_config_counts_as_ours(kind: Any) -> None:
    theirs = kind(max_num_sequence=4, prefill_mode="chunked", additional_models=["a"])
    config = ServerConfig(model="m", engine_config=theirs)
    config.check()
    assert config.engine_config == EngineConfig(
        max_num_sequence=4, prefill_mode="chunked", additional_models=["a"]
    )
    assert PopenServer("m", engine_config=theirs).engine_config == config.engine_config


def test_a_field_that_is_newer_than_this_package_is_named_if_set() -> None:
    with pytest.warns(UserWarning, match="a_newer_field"):
        ServerConfig(model="m", engine_config=NewerEngineConfig(a_newer_field=2))  # type: ignore[arg-type]


def test_a_field_that_is_newer_than_this_package_at_its_default_is_no_news() -> None:
    config = ServerConfig(model="m", engine_config=NewerEngineConfig())  # type: ignore[arg-type]
    assert config.engine_config == EngineConfig()


@pytest.mark.parametrize("wrong", [{"max_num_sequence": 4}, "opt=O2", object(), EngineConfig])
def test_anything_else_is_no_engine_config(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"^engine_config = .*EngineConfig"):
        ServerConfig(model="m", engine_config=wrong)


@pytest.mark.parametrize(("name", "value"), [("verbose", False), ("kv_state_kind", "rnn_state")])
def test_fields_that_the_server_cannot_take_are_named(name: str, value: Any) -> None:
    config = ServerConfig(model="m", engine_config=EngineConfig(**{name: value}))
    with pytest.warns(UserWarning, match=rf"engine_config\.{name} = {value!r} has no effect"):
        config.check()


# --- upstream's consistency check -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("model", "a", "m"),
        ("model_lib", "a.so", "m.so"),
        ("mode", "server", "local"),
        ("mode", "local", "interactive"),
    ],
)
@pytest.mark.parametrize("kind", [EngineConfig, UpstreamEngineConfig])
def test_what_both_say_must_be_the_same(kind: Any, name: str, theirs: str, ours: Any) -> None:
    text = contradiction(engine_config=kind(**{name: theirs}), **{name: ours})
    assert f"engine_config.{name} = {theirs!r}" in text
    assert f"{name} = {ours!r}" in text
    ServerConfig(**{"model": "m", name: theirs, "engine_config": kind(**{name: theirs})}).check()


def test_a_library_in_the_engine_config_alone_counts() -> None:
    config = ServerConfig(model="m", engine_config=EngineConfig(model_lib="a.so"))
    config.check()
    argv = engines.plan(config, mark="m4rk").argv
    assert argv[argv.index("--model-lib") + 1] == "a.so"


def test_a_model_in_the_engine_config_alone_is_refused_not_dropped() -> None:
    text = contradiction(engine="mock", model=None, engine_config=EngineConfig(model="a"))
    assert "engine_config.model = 'a' and model = None" in text


def test_the_page_size_must_be_16() -> None:
    text = contradiction(engine_config=EngineConfig(kv_cache_page_size=8))
    assert "engine_config.kv_cache_page_size = 8" in text
    assert "16" in text


def test_popen_server_checks_when_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"'a'.* 'm'"):
        PopenServer("m", engine_config=EngineConfig(model="a"))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("max_num_sequence", "four"),
        ("gpu_memory_utilization", "much"),
        ("max_single_sequence_length", 4.5),
        ("speculative_mode", "egale"),
        ("prefix_cache_mode", "radox"),
        ("prefill_mode", "hybrd"),
        ("additional_models", "a"),
        ("opt", "a;b"),
    ],
)
def test_engine_config_values_are_checked(name: str, wrong: Any) -> None:
    text = contradiction(engine_config=EngineConfig(**{name: wrong}))
    assert f"engine_config.{name} = {wrong!r}: " in text
