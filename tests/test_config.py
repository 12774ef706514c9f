"""`ServerConfig` and `EngineConfig`: values that belong together."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_mlc_server import ConfigError, EngineConfig, PopenServer, ServerConfig
from pytest_mlc_server.contradictions import SERVE_FLAGS
from pytest_mlc_server.options import BY_NAME, SETTINGS, Given


def contradiction(**fields: Any) -> str:
    """Return what is said of fields that do not go together."""
    config = ServerConfig(**{"model": "m", **fields})
    with pytest.raises(ConfigError) as caught:
        config.check()
    return str(caught.value)


# --- the same thing in two places -----------------------------------------------------------------

TWICE = [
    ("max_num_sequence", 4, "overrides", {"max_num_sequence": 5}, "max_num_sequence=5"),
    ("max_total_sequence_length", 4, "overrides", "max_total_seq_length=5", "max_total_seq_length"),
    ("max_single_sequence_length", 4, "overrides", "context_window_size=5", "context_window_size"),
    ("gpu_memory_utilization", 0.5, "overrides", {"gpu_memory_utilization": 0.6}, "=0.6"),
    ("opt", "O2", "overrides", "opt=O0", "opt=O0"),
    ("speculative_mode", "eagle", "speculative_mode", "medusa", "'medusa'"),
    ("prefix_cache_mode", "disable", "prefix_cache_mode", "radix", "'radix'"),
    ("prefill_mode", "chunked", "prefill_mode", "hybrid", "'hybrid'"),
    ("additional_models", ["a"], "additional_models", ["b"], "'b'"),
]


@pytest.mark.parametrize(("name", "theirs", "where", "ours", "shown"), TWICE)
def test_different_values_in_two_places_are_refused(
    name: str, theirs: Any, where: str, ours: Any, shown: str
) -> None:
    origins = {where: "--mlc-x on the command line"}
    text = contradiction(
        engine_config=EngineConfig(**{name: theirs}), origins=origins, **{where: ours}
    )
    assert f"engine_config.{name} = {theirs!r}" in text
    assert where in text
    assert shown in text
    assert "--mlc-x on the command line" in text


@pytest.mark.parametrize(
    "same",
    [
        {"overrides": "max_num_sequence=4", "engine_config": EngineConfig(max_num_sequence=4)},
        {"prefill_mode": "chunked", "engine_config": EngineConfig(prefill_mode="chunked")},
        {"additional_models": ["a"], "engine_config": EngineConfig(additional_models=["a"])},
    ],
)
def test_the_same_value_in_two_places_is_fine(same: dict[str, Any]) -> None:
    ServerConfig(model="m", **same).check()


# --- arguments that would come twice --------------------------------------------------------------

#: Beginnings that argparse takes for a flag: ``--po`` is ``--port``.
ABBREVIATIONS = {"--por": "--port", "--dev": "--device", "--ho": "--host", "--api": "--api-key"}


@pytest.mark.parametrize("flag", [*SERVE_FLAGS, *ABBREVIATIONS])
@pytest.mark.parametrize("form", ["{}", "{}=x"])
def test_a_flag_that_a_setting_controls_is_refused_among_args(flag: str, form: str) -> None:
    text = contradiction(args=(form.format(flag), "s3cret"))
    setting = BY_NAME[SERVE_FLAGS[ABBREVIATIONS.get(flag, flag)]]
    assert repr(flag) in text
    assert setting.flag in text
    assert f"{setting.field} = " in text


def test_a_key_among_args_is_not_shown() -> None:
    assert "s3cret" not in contradiction(args=("--api-key", "s3cret"))
    assert "s3cret" not in contradiction(args=("--api-key=s3cret",))


def test_the_serve_flags_are_those_of_the_real_server_that_have_a_setting() -> None:
    fields = {setting.field for setting in SETTINGS}
    assert {BY_NAME[name].field for name in SERVE_FLAGS.values()} <= fields
    assert set(SERVE_FLAGS) == {
        "--device",
        "--model-lib",
        "--mode",
        "--enable-debug",
        "--additional-models",
        "--embedding-model",
        "--embedding-model-lib",
        "--speculative-mode",
        "--prefix-cache-mode",
        "--prefill-mode",
        "--overrides",
        "--enable-tracing",
        "--host",
        "--port",
        "--api-key",
    }


@pytest.mark.parametrize(
    "args",
    [
        ("--allow-credentials",),
        ("--allow-origins", '["*"]', "--allow-methods", '["GET"]', "--allow-headers", "[]"),
        ("--a-newer-flag=1",),
    ],
)
def test_other_arguments_are_passed_on(args: tuple[str, ...]) -> None:
    config = ServerConfig(model="m", args=args)
    config.check()
    assert config.args == args


# --- fields that need one another -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("embedding_model", "embedding_model_lib"),
        ("embedding_model_lib", "embedding_model"),
    ],
)
def test_one_embedding_field_needs_the_other(one: str, other: str) -> None:
    text = contradiction(**{one: "e"}, origins={one: "somewhere"})
    assert f"{one} = 'e' (from somewhere) needs {other}" in text
    fields: dict[str, Any] = {one: "e", other: "f"}
    ServerConfig(model="m", **fields).check()


@pytest.mark.parametrize("engine", ["mlc", "mock", "sim"])
def test_a_url_and_an_engine_that_starts_one_are_refused(engine: str) -> None:
    text = contradiction(url="http://h:1", engine=engine)
    assert "url = 'http://h:1'" in text
    assert f"engine = {engine!r}" in text


def test_a_url_implies_the_engine() -> None:
    assert ServerConfig(url="http://h:1").engine == "external"
    assert ServerConfig().engine == "mlc"
    assert ServerConfig(engine="sim", model="m").replace(url="http://h:1").engine == "external"


def test_an_external_engine_needs_a_url() -> None:
    assert "--mlc-url" in contradiction(engine="external")


@pytest.mark.parametrize("fields", [{"engine": "mlc", "model": "m"}, {"engine": "mock"}])
def test_only_the_simulator_follows_a_script(fields: dict[str, Any]) -> None:
    origins = {"sim_script": "mlc_sim_script in pytest.ini"}
    text = contradiction(**fields, sim_script="a.toml", origins=origins)
    assert "sim_script = 'a.toml' (from mlc_sim_script in pytest.ini)" in text
    assert f"engine = {fields['engine']!r}" in text
    ServerConfig(engine="sim", sim_script="a.toml").check()


def test_the_mock_engine_has_its_own_library() -> None:
    assert "model_lib = 'a.so'" in contradiction(engine="mock", model_lib="a.so")
    ServerConfig(engine="mock", model_lib="mock://echo").check()


def test_nothing_configured_lists_the_ways() -> None:
    text = contradiction(model=None)
    for way in ("--mlc-model", "--mlc-engine mock", "--mlc-engine sim", "--mlc-url", "mlc_model"):
        assert way in text


@pytest.mark.parametrize("engine", ["mock", "sim"])
def test_engines_with_a_model_of_their_own_need_none(engine: str) -> None:
    ServerConfig(engine=engine).check()


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        ServerConfig(port=-1, mode="severe")
    assert len(caught.value.problems) == 2
    text = contradiction(embedding_model="e", args=("--port",), engine="external")
    assert text.startswith("3 problems")


# --- the object -----------------------------------------------------------------------------------


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ServerConfig().port = 1  # type: ignore[misc]


def test_fixtures_choose_their_port_and_popen_server_has_upstreams() -> None:
    assert ServerConfig().port == "auto"
    assert PopenServer("m").port == 8082


def test_replace_changes_fields_and_checks_them() -> None:
    config = ServerConfig(model="m", port=1, origins={"port": "ini", "model": "ini"})
    changed = config.replace(port=2, overrides={"opt": "O2"})
    assert (changed.model, changed.port, changed.overrides) == ("m", 2, {"opt": "O2"})
    assert changed.origins == {"model": "ini"}  # the ini file did not say 2
    assert config.port == 1
    with pytest.raises(ConfigError, match="65536"):
        config.replace(port=65536)


def test_replace_knows_no_other_fields() -> None:
    with pytest.raises(ConfigError, match=r"modell = 'x'.*did you mean 'model'"):
        ServerConfig().replace(modell="x")


def test_errors_name_the_origin_of_a_field() -> None:
    given = Given(BY_NAME["port"], "x", "PYTEST_MLC_PORT in the environment", "/")
    with pytest.raises(ConfigError, match=r"port = 'x' \(from PYTEST_MLC_PORT in the environment"):
        ServerConfig.from_given({"port": given}, cwd="/")


def test_equal_configurations_have_equal_keys() -> None:
    text: Any = "opt=O2;max_num_sequence=4"
    one = ServerConfig(model="m", overrides=text, origins={"model": "ini"})
    other = ServerConfig(model="m", overrides={"max_num_sequence": 4, "opt": "O2"})
    assert one == other
    assert one.key() == other.key()


CHANGES: dict[str, Any] = {
    "engine": "sim",
    "url": "http://h:1",
    "model": "other",
    "model_lib": "a.so",
    "device": "cpu",
    "mode": "server",
    "engine_config": EngineConfig(max_num_sequence=4),
    "overrides": {"opt": "O2"},
    "additional_models": ("a",),
    "embedding_model": "e",
    "embedding_model_lib": "e.so",
    "speculative_mode": "eagle",
    "prefix_cache_mode": "disable",
    "prefill_mode": "chunked",
    "host": "::1",
    "port": 1,
    "api_key": "k",
    "enable_debug": False,
    "enable_tracing": True,
    "args": ("x",),
    "env": {"A": "1"},
    "python": "p",
    "launch": "direct",
    "sim_script": "s.toml",
    "cwd": "/",
    "ready": "http",
    "startup_timeout": 1.0,
    "startup_limit": 1.0,
    "stop_timeout": 1.0,
    "log_dir": "d",
    "log_live": True,
}


def test_every_field_has_a_change_to_try() -> None:
    assert {f.name for f in dataclasses.fields(ServerConfig)} - {"origins"} == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_counts_for_key_and_comparison(name: str) -> None:
    config = ServerConfig(model="m")
    changed = config.replace(**{name: CHANGES[name]})
    assert changed != config
    assert changed.key() != config.key()


def test_secrets_are_not_in_the_repr() -> None:
    config = ServerConfig(model="m", api_key="s3cret", env={"HF_TOKEN": "t0ken"})
    server = PopenServer("m", api_key="s3cret", env={"HF_TOKEN": "t0ken"})
    for shown in (repr(config), repr(server), config.describe("api_key"), config.describe("env")):
        assert "s3cret" not in shown
        assert "t0ken" not in shown


def test_a_key_of_its_own_is_not_made_for_a_server_that_is_already_there() -> None:
    with pytest.raises(ConfigError, match="already there has its own key"):
        ServerConfig(url="http://127.0.0.1:8000", api_key="auto")


def test_credentials_in_a_url_are_not_shown() -> None:
    config = ServerConfig(url="http://user:hunter2@127.0.0.1:8000", engine="external")
    assert "hunter2" not in config.describe("url")
    assert "127.0.0.1:8000" in config.describe("url")
