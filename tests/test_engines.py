"""The command line and environment of every engine, read back as ``mlc_llm serve`` reads them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import ConfigError, EngineConfig, ServerConfig, engines
from pytest_mlc_server.engines import LaunchPlan
from pytest_mlc_server.process import MARK

ENGINES = ("mlc", "mock", "sim")
EVERY_ENGINE = pytest.mark.parametrize("engine", ENGINES)


class _Once(argparse.Action):
    """Refuses a flag that comes twice, which argparse itself lets pass."""

    def __call__(
        self, _parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        given = namespace.__dict__.setdefault("given", [])
        assert self.dest not in given, f"{option_string} comes twice"
        given.append(self.dest)
        setattr(namespace, self.dest, True if self.nargs == 0 else values)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read what follows ``serve`` with the flags of ``mlc_llm serve``, and no others."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("model")
    for flag in ("device", "model-lib", "embedding-model", "embedding-model-lib", "overrides"):
        parser.add_argument(f"--{flag}", action=_Once)
    for flag in ("host", "api-key", "allow-origins", "allow-methods", "allow-headers"):
        parser.add_argument(f"--{flag}", action=_Once)
    parser.add_argument("--port", type=int, action=_Once)
    parser.add_argument("--mode", choices=["local", "interactive", "server"], action=_Once)
    speculative = ["disable", "small_draft", "eagle", "medusa"]
    parser.add_argument("--speculative-mode", choices=speculative, action=_Once)
    parser.add_argument("--prefix-cache-mode", choices=["disable", "radix"], action=_Once)
    parser.add_argument("--prefill-mode", choices=["hybrid", "chunked"], action=_Once)
    parser.add_argument("--additional-models", nargs="*", action=_Once)
    for flag in ("enable-debug", "enable-tracing", "allow-credentials"):
        parser.add_argument(f"--{flag}", nargs=0, action=_Once)
    return parser.parse_args(list(argv))


def plan(**fields: Any) -> LaunchPlan:
    config = ServerConfig(**fields)
    config.check()
    return engines.plan(config, mark="m4rk")


def serve(**fields: Any) -> dict[str, Any]:
    """Return what the server is told: the flags on its command line, and the model."""
    launch = plan(**fields)
    parsed = vars(parse(launch.argv[launch.argv.index("serve") + 1 :]))
    told = {name: parsed[name] for name in ("model", *parsed["given"])}
    if launch.secret:  # it comes over a descriptor, not on the command line
        assert "api_key" not in told
        told["api_key"] = launch.secret
    return told


def overrides(**fields: Any) -> dict[str, str]:
    text: str = serve(model="m", **fields).get("overrides", "")
    items = [item.split("=", 1) for item in text.split(";") if item]
    assert len({key for key, _ in items}) == len(items), f"a key comes twice: {text}"
    return {item[0]: item[1] for item in items}


# --- the program ----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["mlc", "mock"])
@pytest.mark.parametrize("python", [None, "/opt/conda/bin/python", "python3.99"])
def test_the_real_server_runs_in_the_chosen_interpreter(engine: str, python: str | None) -> None:
    argv = plan(engine=engine, model="m", python=python).argv
    assert argv[:5] == (python or sys.executable, "-m", "mlc_llm", "serve", "m")


def test_the_simulator_runs_in_the_interpreter_that_has_this_package() -> None:
    argv = plan(engine="sim", model="m", python="/opt/conda/bin/python").argv
    assert argv[:6] == (sys.executable, "-m", "pytest_mlc_server", "sim", "serve", "m")


# --- defaults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["mlc", "sim"])
def test_nothing_at_its_default_is_passed(engine: str) -> None:
    assert serve(engine=engine, model="m") == {
        "model": "m",
        "enable_debug": True,  # off by default in `mlc_llm serve`, on in upstream's PopenServer
        "host": "127.0.0.1",
        "port": 0,
    }


@EVERY_ENGINE
def test_defaults_said_aloud_are_not_passed_either(engine: str) -> None:
    assert serve(
        engine=engine,
        model="m",
        mode="local",
        device="auto",
        speculative_mode="disable",
        prefix_cache_mode="radix",
        prefill_mode="hybrid",
        overrides="",
        engine_config=EngineConfig(),
        enable_tracing=False,
    ) == serve(engine=engine, model="m")


def test_the_mock_engine_runs_on_its_library_and_the_cpu() -> None:
    told = serve(engine="mock", model="m")
    assert told.pop("model_lib") == "mock://echo"
    assert told.pop("device") == "cpu"
    assert told == serve(engine="mlc", model="m")


def test_the_mock_engine_runs_where_it_is_told_to() -> None:
    told = serve(engine="mock", model="m", device="cuda:1", model_lib="mock://other")
    assert (told["device"], told["model_lib"]) == ("cuda:1", "mock://other")


def test_the_mock_engines_own_model_is_complete() -> None:
    directory = Path(serve(engine="mock")["model"])
    config = json.loads((directory / "mlc-chat-config.json").read_text())
    assert config["model_type"]
    assert config["conv_template"]
    assert config["tokenizer_files"]
    for name in config["tokenizer_files"]:
        assert (directory / name).is_file(), name
    assert json.loads((directory / "tokenizer.json").read_text())["model"]
    assert not list(directory.glob("*.bin"))


def test_the_simulators_own_model_has_a_name() -> None:
    assert serve(engine="sim")["model"] == "sim-model"


@pytest.mark.parametrize("engine", ["mlc", "mock", "sim"])
def test_the_models_name_is_passed_as_it_is(engine: str) -> None:
    for name in ("dist/model-MLC", "./m", "../m/", "HF://org/name", "/abs/m"):
        launch = plan(engine=engine, model=name)
        assert launch.model == name
        assert serve(engine=engine, model=name)["model"] == name


def test_without_a_model_the_real_server_is_not_planned() -> None:
    with pytest.raises(ConfigError, match="no MLC server is configured"):
        engines.plan(ServerConfig(), mark="m4rk")


# --- every field reaches the server ---------------------------------------------------------------

FIELDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "model_lib": ("mock://a", {"model_lib": "mock://a"}),
    "device": ("cuda:1", {"device": "cuda:1"}),
    "mode": ("server", {"mode": "server"}),
    "overrides": ("opt=O2;max_num_sequence=4", {"overrides": "opt=O2;max_num_sequence=4"}),
    "additional_models": (["a", "b,c"], {"additional_models": ["a", "b,c"]}),
    "speculative_mode": ("eagle", {"speculative_mode": "eagle"}),
    "prefix_cache_mode": ("disable", {"prefix_cache_mode": "disable"}),
    "prefill_mode": ("chunked", {"prefill_mode": "chunked"}),
    "host": ("::1", {"host": "::1"}),
    "port": (8082, {"port": 8082}),
    "api_key": ("k", {"api_key": "k"}),
    "enable_tracing": (True, {"enable_tracing": True}),
    "args": (
        ["--allow-origins", '["*"]', "--allow-credentials"],
        {"allow_origins": '["*"]', "allow_credentials": True},
    ),
}

#: Fields that are no argument of the server.
OURS = {
    "engine",
    "url",
    "model",
    "engine_config",
    "embedding_model",
    "embedding_model_lib",
    "enable_debug",
    "env",
    "python",
    "launch",
    "sim_script",
    "cwd",
    "ready",
    "startup_timeout",
    "startup_limit",
    "stop_timeout",
    "log_dir",
    "log_live",
    "origins",
}


def test_every_field_is_accounted_for() -> None:
    assert {f.name for f in dataclasses.fields(ServerConfig)} == set(FIELDS) | OURS


@pytest.mark.parametrize("name", FIELDS)
@EVERY_ENGINE
def test_every_field_reaches_the_command_line_once(engine: str, name: str) -> None:
    value, told = FIELDS[name]
    expected = serve(engine=engine, model="m") | told
    assert serve(**{"engine": engine, "model": "m", name: value}) == expected


@EVERY_ENGINE
def test_all_fields_together_reach_the_command_line_once(engine: str) -> None:
    fields = {name: value for name, (value, _) in FIELDS.items()}
    told = serve(engine=engine, model="m", embedding_model="e", embedding_model_lib="l", **fields)
    expected = {"model": "m", "enable_debug": True}
    for _, flags in FIELDS.values():
        expected |= flags
    assert told == expected | {"embedding_model": "e", "embedding_model_lib": "l"}


@EVERY_ENGINE
def test_debug_can_be_switched_off(engine: str) -> None:
    told = serve(engine=engine, model="m", enable_debug=False)
    assert "enable_debug" not in told


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("tensor_parallel_shards", 2, {"tensor_parallel_shards": "2"}),
        ("pipeline_parallel_stages", 2, {"pipeline_parallel_stages": "2"}),
        ("opt", "O2", {"opt": "O2"}),
        ("gpu_memory_utilization", 0.6, {"gpu_memory_utilization": "0.6"}),
        ("max_num_sequence", 4, {"max_num_sequence": "4"}),
        ("max_total_sequence_length", 4, {"max_total_seq_length": "4"}),
        ("max_single_sequence_length", 4, {"context_window_size": "4"}),
        ("prefill_chunk_size", 4, {"prefill_chunk_size": "4"}),
        ("sliding_window_size", 4, {"sliding_window_size": "4"}),
        ("attention_sink_size", 4, {"attention_sink_size": "4"}),
        ("max_history_size", 4, {"max_history_size": "4"}),
        ("spec_draft_length", 4, {"spec_draft_length": "4"}),
        ("spec_tree_width", 4, {"spec_tree_width": "4"}),
        (
            "prefix_cache_max_num_recycling_seqs",
            4,
            {"prefix_cache_max_num_recycling_seqs": "4"},
        ),
    ],
)
@EVERY_ENGINE
def test_engine_config_fields_reach_the_overrides(
    engine: str, name: str, value: Any, expected: dict[str, str]
) -> None:
    engine_config = EngineConfig(**{name: value})
    assert overrides(engine=engine, engine_config=engine_config) == expected
    # Said in both places, it is still passed once.
    ((key, text),) = expected.items()
    both = overrides(engine=engine, engine_config=engine_config, overrides=f"{key}={text};opt=O2")
    assert both == {**expected, "opt": "O2"}


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("speculative_mode", "medusa", "medusa"),
        ("prefix_cache_mode", "disable", "disable"),
        ("prefill_mode", "chunked", "chunked"),
        ("additional_models", ["a", ("b", "c")], ["a", "b,c"]),
    ],
)
@pytest.mark.parametrize("twice", [False, True])
def test_engine_config_fields_reach_the_flags(
    name: str, value: Any, told: Any, twice: bool
) -> None:
    flag = {name: value} if twice else {}
    got = serve(model="m", engine_config=EngineConfig(**{name: value}), **flag)
    assert got == serve(model="m") | {name: told}


def test_model_lib_and_mode_of_both_are_passed_once() -> None:
    engine_config = EngineConfig(model="m", model_lib="a.so", mode="server")
    told = serve(model="m", model_lib="a.so", mode="server", engine_config=engine_config)
    assert told == serve(model="m") | {"model_lib": "a.so", "mode": "server"}


def test_a_zero_is_not_taken_for_nothing() -> None:
    engine_config = EngineConfig(sliding_window_size=0, max_history_size=0)
    assert overrides(engine_config=engine_config) == {
        "sliding_window_size": "0",
        "max_history_size": "0",
    }


# --- the key --------------------------------------------------------------------------------------


# The ids must not hold the key: pytest puts them into the environment.
@pytest.mark.parametrize("key", ["s3cret", "-s3cret", "s3 cr'et="], ids=["word", "flag", "quoted"])
@EVERY_ENGINE
def test_a_key_is_on_no_command_line_and_in_no_environment(engine: str, key: str) -> None:
    launch = plan(engine=engine, model="m", api_key=key)
    assert launch.secret == launch.api_key == key
    for text in (*launch.argv, *launch.env.values(), launch.command, repr(launch)):
        assert key not in text


def test_the_command_for_people_says_that_there_is_a_key() -> None:
    keyed = shlex.split(plan(model="m", api_key="s3cret").command)
    assert keyed.pop() == "--api-key=***"
    assert keyed == list(plan(model="m").argv)


def test_the_command_for_people_can_be_pasted() -> None:
    launch = plan(model="my model", args=["--allow-origins", '["*"]'])
    assert tuple(shlex.split(launch.command)) == launch.argv


# --- environment, directory, port, readiness ------------------------------------------------------


@EVERY_ENGINE
def test_the_environment_is_layered(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OURS", "THEIRS", "LAST"):
        monkeypatch.setenv(name, "os.environ")
    config = ServerConfig(engine=engine, model="m", env={"THEIRS": "env", "LAST": "env"})
    env = engines.plan(config, extra_env={"LAST": "extra_env"}, mark="m4rk").env
    assert (env["OURS"], env["THEIRS"], env["LAST"]) == ("os.environ", "env", "extra_env")
    assert set(env) == {*os.environ, "PYTHONUNBUFFERED", MARK}


@EVERY_ENGINE
def test_output_is_unbuffered_unless_told_otherwise(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "")
    assert plan(engine=engine, model="m").env["PYTHONUNBUFFERED"] == "1"
    told = plan(engine=engine, model="m", env={"PYTHONUNBUFFERED": ""})
    assert told.env["PYTHONUNBUFFERED"] == ""


def test_the_trees_mark_cannot_be_overridden() -> None:
    assert plan(model="m", env={MARK: "other"}).env[MARK] == "m4rk"


def test_the_directory_is_the_callers_or_as_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan(model="m").cwd == str(tmp_path)
    assert plan(model="m", cwd="sub").cwd == str(tmp_path / "sub")
    assert plan(model="m", cwd="/").cwd == "/"


@pytest.mark.parametrize(("port", "expected"), [("auto", 0), (8082, 8082)])
def test_the_port_to_expect(port: Any, expected: int) -> None:
    assert plan(model="m", port=port).port == expected


@pytest.mark.parametrize(
    ("ready", "task", "generates"),
    [
        ("generate", None, True),
        ("generate", "chat", True),
        ("generate", "embedding", False),
        ("http", None, False),
    ],
)
def test_what_counts_as_ready(
    ready: str, task: str | None, generates: bool, tmp_path: Path
) -> None:
    content = {} if task is None else {"model_task": task}
    (tmp_path / "mlc-chat-config.json").write_text(json.dumps(content))
    for fields in ({"model": str(tmp_path)}, {"model": tmp_path.name, "cwd": tmp_path.parent}):
        assert plan(ready=ready, **fields).generate is generates


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_a_model_that_cannot_be_read_is_expected_to_generate(
    content: str | None, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "mlc-chat-config.json").write_text(content)
    assert plan(model=str(tmp_path)).generate is True
