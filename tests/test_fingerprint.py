"""Equal for servers that may stand in for each other, and different for all others."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import EngineConfig, ServerConfig, fingerprint
from tests.conftest import write_model

#: A value other than the default, for each field that shapes a server.
SHAPING: dict[str, Any] = {
    "engine": "mock",
    "url": None,
    "model": "other",
    "model_lib": "lib.so",
    "device": "cpu",
    "mode": "server",
    "engine_config": EngineConfig(max_num_sequence=2),
    "overrides": {"max_num_sequence": 2},
    "additional_models": ("draft", ("draft", "lib.so")),
    "embedding_model": "embedding",
    "embedding_model_lib": "embedding.so",
    "speculative_mode": "eagle",
    "prefix_cache_mode": "disable",
    "prefill_mode": "chunked",
    "enable_debug": False,
    "enable_tracing": True,
    "host": "127.0.0.2",
    "port": 8123,
    "api_key": "auto",
    "args": ("--flag",),
    "env": {"A": "b"},
    "python": sys.executable + "3",
    "sim_script": "script.toml",
    "cwd": "/",
}

NOT_SHAPING: dict[str, Any] = {
    "startup_timeout": 7.0,
    "startup_limit": 7.0,
    "stop_timeout": 7.0,
    "ready": "http",
    "launch": "direct",
    "log_dir": "logs",
    "log_live": True,
    "origins": {"model": "elsewhere"},
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    write_model(path)
    return path


@pytest.fixture
def config(model: Path, tmp_path: Path) -> ServerConfig:
    """A configuration in which every field that shapes a server can be changed."""
    return ServerConfig(engine="mlc", model=str(model), cwd=str(tmp_path), host="127.0.0.1")


def differs(config: ServerConfig, change: Callable[[], Any]) -> bool:
    """Tell whether a change makes another server of it; without one it must be the same."""
    before = fingerprint.fingerprint(config)
    assert fingerprint.fingerprint(config) == before
    change()
    return fingerprint.fingerprint(config) != before


def test_every_field_shapes_a_server_or_does_not() -> None:
    fields = {field.name for field in dataclasses.fields(ServerConfig)}
    assert fields == {*SHAPING, *NOT_SHAPING}


@pytest.mark.parametrize("name", sorted(SHAPING))
def test_each_field_that_shapes_a_server_makes_another(name: str, config: ServerConfig) -> None:
    if name == "url":
        other = ServerConfig(url="http://127.0.0.1:1", model=config.model, cwd=config.cwd)
    else:
        other = dataclasses.replace(config, **{name: SHAPING[name]})
    assert fingerprint.fingerprint(other) != fingerprint.fingerprint(config)


@pytest.mark.parametrize("name", sorted(NOT_SHAPING))
def test_how_to_wait_and_where_to_write_shapes_no_server(name: str, config: ServerConfig) -> None:
    other = dataclasses.replace(config, **{name: NOT_SHAPING[name]})
    assert fingerprint.fingerprint(other) == fingerprint.fingerprint(config)


def test_all_changes_together_are_all_different(config: ServerConfig) -> None:
    made = [
        dataclasses.replace(config, **{name: value})
        for name, value in SHAPING.items()
        if name != "url"
    ]
    assert len({fingerprint.fingerprint(one) for one in [config, *made]}) == len(made) + 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"overrides": "opt=O2"}, {"overrides": {"opt": "O2"}}),
        ({"env": {"A": "1", "B": "2"}}, {"env": {"B": "2", "A": "1"}}),
        ({"args": ["--flag"]}, {"args": ("--flag",)}),
    ],
)
def test_how_something_was_written_makes_no_difference(
    first: dict[str, Any], second: dict[str, Any], config: ServerConfig
) -> None:
    one, two = (config.replace(**changes) for changes in (first, second))
    assert fingerprint.fingerprint(one) == fingerprint.fingerprint(two)


# --- files ----------------------------------------------------------------------------------------


def _age(path: Path) -> None:
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda model: (model / "new.bin").touch(), id="a new file"),
        pytest.param(lambda model: (model / "params_shard_0.bin").unlink(), id="one less"),
        pytest.param(lambda model: _age(model / "params_shard_0.bin"), id="its time"),
        pytest.param(lambda model: os.truncate(model / "params_shard_0.bin", 5), id="its size"),
        pytest.param(
            lambda model: (model / "params_shard_0.bin").rename(model / "x.bin"), id="its name"
        ),
        pytest.param(lambda model: shutil.rmtree(model), id="the whole model"),
    ],
)
def test_a_changed_model_is_another(
    change: Callable[[Path], Any], model: Path, config: ServerConfig
) -> None:
    assert differs(config, lambda: change(model))


def test_every_file_of_a_model_counts(model: Path, config: ServerConfig) -> None:
    files = sorted(model.iterdir())
    assert files
    for path in files:
        assert differs(config, partial(_age, path)), path


@pytest.mark.parametrize(
    "field",
    ["model_lib", "embedding_model", "embedding_model_lib", "sim_script", "additional_models"],
)
def test_the_files_that_a_field_names_count_relative_to_the_working_directory(
    field: str, config: ServerConfig, tmp_path: Path
) -> None:
    (tmp_path / "named").write_text("1")
    value: Any = ("named",) if field == "additional_models" else "named"
    named = dataclasses.replace(config, **{field: value})
    assert differs(named, lambda: _age(tmp_path / "named"))
    if field == "additional_models":
        pair = dataclasses.replace(config, additional_models=(("elsewhere", "named"),))
        assert differs(pair, lambda: _age(tmp_path / "named"))


def test_a_model_to_download_has_no_files_here(config: ServerConfig) -> None:
    one = config.replace(model="HF://org/name")
    assert not differs(one, lambda: None)
    assert fingerprint.fingerprint(one) != fingerprint.fingerprint(
        config.replace(model="HF://org/other")
    )


# --- where it runs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "CUDA_VISIBLE_DEVICES",
        "MLC_JIT_POLICY",
        "TVM_HOME",
        "HF_HOME",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "PYTHONPATH",
        "XDG_CACHE_HOME",
        "HOME",
        "OMP_NUM_THREADS",
        "PATH",
    ],
)
def test_a_variable_that_servers_heed_makes_another(
    name: str, config: ServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = os.environ.get(name, "") + os.pathsep + "/somewhere"
    assert differs(config, lambda: monkeypatch.setenv(name, changed)) == (name != "PATH")


@pytest.mark.parametrize("name", ["PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "COLUMNS", "PWD"])
def test_a_variable_of_the_run_makes_no_difference(
    name: str, config: ServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not differs(config, lambda: monkeypatch.setenv(name, "other"))


def interpreter(directory: Path) -> Path:
    """Make an environment with an interpreter and a package directory."""
    python = directory / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    (directory / "lib" / "python3.12" / "site-packages").mkdir(parents=True)
    return python


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("mlc_llm", True),
        ("mlc_llm_nightly-1.0.dist-info", True),
        ("apache_tvm-1.dist-info", True),
        ("tvm", True),
        ("numpy", False),
    ],
)
def test_what_is_installed_beside_the_interpreter_counts(
    name: str, counts: bool, config: ServerConfig, tmp_path: Path
) -> None:
    python = interpreter(tmp_path / "environment")
    packages = tmp_path / "environment" / "lib" / "python3.12" / "site-packages"
    one = config.replace(python=str(python))
    assert differs(one, (packages / name).mkdir) == counts


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("mlc_llm/libmlc_llm.so", True),
        ("mlc_llm/__init__.py", True),
        ("mlc_llm-1.dist-info/RECORD", True),
        ("mlc_llm/__pycache__", False),
    ],
)
def test_what_an_installation_writes_counts_and_what_an_import_writes_does_not(
    file: str, counts: bool, config: ServerConfig, tmp_path: Path
) -> None:
    python = interpreter(tmp_path / "environment")
    packages = tmp_path / "environment" / "lib" / "python3.12" / "site-packages"
    path = packages / file
    path.parent.mkdir()
    one = config.replace(python=str(python))
    assert differs(one, path.mkdir) == counts


def test_another_interpreter_at_the_same_place_is_another(
    config: ServerConfig, tmp_path: Path
) -> None:
    python = interpreter(tmp_path / "environment")
    one = config.replace(python=str(python))
    assert differs(one, lambda: _age(python))


def test_an_interpreter_that_is_not_there_is_no_error_here(config: ServerConfig) -> None:
    assert fingerprint.fingerprint(config.replace(python="/no/such/python"))


def test_no_key_can_be_guessed_from_what_is_hashed(config: ServerConfig) -> None:
    shape = fingerprint.shape(config.replace(api_key="the-secret-key"))
    assert "the-secret-key" not in str(shape)
    one, two = (fingerprint.fingerprint(config.replace(api_key=key)) for key in ("a", "b"))
    assert one != two
