"""Mistakes in a model's files, found in milliseconds and all together."""

from __future__ import annotations

import json
import os
import platform
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import (
    ConfigError,
    PopenServer,
    ServerConfig,
    engines,
    model_files,
    preflight,
)
from tests.support_server import linux

SHARD = "params_shard_0.bin"


@pytest.fixture
def model(model_dir: str, tmp_path: Path) -> Path:
    """A model directory that a test may spoil."""
    return Path(shutil.copytree(model_dir, tmp_path / "model"))


def problems(model: str | Path, **fields: Any) -> tuple[str, ...]:
    """Return what preflight finds in a configuration, nothing if it is right."""
    config = ServerConfig(engine=fields.pop("engine", "mlc"), model=str(model), **fields)
    try:
        preflight.check(config)
    except ConfigError as error:
        return error.problems
    return ()


def test_nothing_is_wrong_with_a_whole_model(model: Path) -> None:
    assert problems(model) == ()
    assert problems(f"{model}/") == ()


def rewrite(name: str, text: str) -> Callable[[Path], object]:
    return lambda model: (model / name).write_text(text)


def remove(*names: str) -> Callable[[Path], object]:
    def spoil(model: Path) -> None:
        for name in names:
            (model / name).unlink()

    return spoil


def truncate(model: Path) -> None:
    os.truncate(model / SHARD, 15)


def point(model: Path) -> None:
    (model / SHARD).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


CONFIG = "mlc-chat-config.json"
CACHE = "tensor-cache.json"


@pytest.mark.parametrize(
    ("spoil", "file", "words"),
    [
        (shutil.rmtree, "", "there is no directory"),
        (remove(CONFIG), CONFIG, "`mlc_llm gen_config` makes one"),
        (rewrite(CONFIG, "{"), CONFIG, "is not valid JSON"),
        (rewrite(CONFIG, ""), CONFIG, "is not valid JSON"),
        (rewrite(CONFIG, "[]"), CONFIG, "is no JSON object"),
        (remove("tokenizer.json"), "tokenizer.json", "copy the tokenizer's files there"),
        (remove(CACHE), CACHE, "`mlc_llm convert_weight` makes it"),
        (rewrite(CACHE, "{'records'"), CACHE, "is not valid JSON"),
        (remove(SHARD), SHARD, "is missing, which"),
        (truncate, SHARD, "has 15 bytes instead of 16"),
        (point, SHARD, "run `git lfs pull`"),
    ],
)
def test_a_mistake_names_the_file_and_what_to_do(
    model: Path, spoil: Callable[[Path], object], file: str, words: str
) -> None:
    spoil(model)
    (problem,) = problems(model)
    assert problem.startswith(f"model = {str(model)!r}: ")
    assert str(model / file) in problem or file in problem
    assert words in problem


def test_the_configuration_file_is_no_model_directory(model: Path) -> None:
    (problem,) = problems(model / CONFIG)
    assert f"give the model's directory, {model}" in problem


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_a_configuration_that_cannot_be_read(model: Path) -> None:
    (model / CONFIG).chmod(0)
    (problem,) = problems(model)
    assert f"cannot read {model / CONFIG}" in problem


def test_bytes_that_are_no_text_are_no_configuration(model: Path) -> None:
    (model / CONFIG).write_bytes(b"\xff\xfe{}")
    (problem,) = problems(model)
    assert CONFIG in problem


def test_the_older_name_of_the_list_of_weights_is_taken(model: Path) -> None:
    (model / CACHE).rename(model / "ndarray-cache.json")
    assert problems(model) == ()
    (model / SHARD).unlink()
    (problem,) = problems(model)
    assert "ndarray-cache.json" in problem


@pytest.mark.parametrize(
    "records",
    [
        [{"dataPath": SHARD}],
        [{"nbytes": 3}],
        [None, 3, "x", []],
        {},
        None,
    ],
)
def test_what_is_not_understood_of_the_weights_is_left_to_the_server(
    model: Path, records: object
) -> None:
    (model / CACHE).write_text(json.dumps({"records": records, "new": "field"}))
    assert problems(model) == ()


def test_every_missing_shard_is_named(model: Path) -> None:
    names = [f"params_shard_{n}.bin" for n in (1, 2)]
    records = [{"dataPath": name, "nbytes": 16} for name in names]
    (model / CACHE).write_text(json.dumps({"records": records}))
    found = problems(model)
    assert len(found) == 2
    for name, problem in zip(names, found, strict=True):
        assert name in problem


@pytest.mark.parametrize(
    "names",
    [["tokenizer.model"], ["merges.txt", "vocab.json", "added_tokens.json"], ["tokenizer_model"]],
)
def test_other_kinds_of_tokenizers_are_taken(model: Path, names: list[str]) -> None:
    (model / "tokenizer.json").unlink()
    (model / CONFIG).write_text(json.dumps({"tokenizer_files": ["tokenizer.json"]}))
    for name in names:
        assert "tokenizer" in problems(model)[0]
        (model / name).write_text("")
    assert problems(model) == ()


def test_unknown_fields_of_a_configuration_are_no_mistake(model: Path) -> None:
    config = json.loads((model / CONFIG).read_text())
    (model / CONFIG).write_text(json.dumps({**config, "of_a_newer_version": {"a": 1}}))
    assert problems(model) == ()


def test_the_mock_engine_needs_no_weights(model: Path) -> None:
    remove(CACHE, SHARD)(model)
    assert problems(model, engine="mock") == ()
    assert problems(model, model_lib="mock://echo") == ()
    assert problems(engines.mock_model(), engine="mock") == ()
    assert len(problems(model)) == 1
    (model / "tokenizer.json").unlink()
    assert len(problems(model, engine="mock")) == 1


def test_the_embedding_model_is_looked_at_as_well(model: Path, library: Path) -> None:
    fields = {"embedding_model_lib": library}
    assert problems(model, embedding_model=model, **fields) == ()
    (problem,) = problems(model, embedding_model="no/such/model", **fields)
    assert problem.startswith("embedding_model = ")


def test_all_mistakes_are_told_together_and_before_any_process(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tokenizer.json", SHARD):
        (model / name).unlink()
    wrong = tmp_path / "model.so"
    wrong.write_text("")
    monkeypatch.setattr("pytest_mlc_server.launching.Lease", None)  # nothing may be started
    server = PopenServer(str(model), model_lib=str(wrong), python="/no/python", log_dir="/dev/null")
    with pytest.raises(ConfigError) as caught:
        server.start()
    assert len(caught.value.problems) == 5
    for words in ("tokenizer.json", SHARD, "model.so", "/no/python", "/dev/null"):
        assert words in str(caught.value)


# --- libraries ------------------------------------------------------------------------------------

MACHINES = {"x86_64": 62, "aarch64": 183}


def elf(machine: int, kind: int = 3) -> bytes:
    """Return the head of a little-endian ELF file."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", kind, machine) + bytes(44)


def mach(machine: int = 0x0100000C) -> bytes:
    return b"\xcf\xfa\xed\xfe" + struct.pack("<I", machine) + bytes(56)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library that cannot be told from a good one of this machine."""
    if not sys.platform.startswith("linux") or platform.machine() not in MACHINES:
        pytest.skip("headers of other machines")
    path = tmp_path / "model.so"
    path.write_bytes(elf(MACHINES[platform.machine()]))
    return path


@linux
@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "the file is empty"),
        (b"not a library\n", "its header is that of no known library"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        (b"!<arch>\n", "it is an archive"),
        (b"MZ" + bytes(62), "it is one of Windows"),
        (mach(), "it is one of macOS"),
        (b"\x7fELF", "it is one of Linux"),
        (elf(40), "is compiled for machine 40, and this machine is "),
        (elf(MACHINES.get(platform.machine(), 0), kind=2), "another kind of ELF file"),
    ],
)
def test_a_library_that_cannot_be_loaded_here(
    model: Path, library: Path, head: bytes, words: str
) -> None:
    assert problems(model, model_lib=library) == ()
    library.write_bytes(head)
    (problem,) = problems(model, model_lib=library)
    assert problem.startswith(f"model_lib = {str(library)!r}: ")
    assert words in problem


@linux
def test_a_library_of_the_other_machine_names_both(model: Path, library: Path) -> None:
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[platform.machine()]
    library.write_bytes(elf(MACHINES[other]))
    (problem,) = problems(model, model_lib=library)
    assert f"compiled for {other}, and this machine is {platform.machine()}" in problem


@pytest.mark.parametrize(
    ("machine", "head", "words"),
    [
        ("arm64", mach(), None),
        ("arm64", b"\xca\xfe\xba\xbe" + bytes(60), None),
        ("x86_64", mach(), "another machine than x86_64"),
        ("arm64", elf(183), "it is one of Linux"),
        ("unheard-of", mach(), None),
    ],
)
def test_a_library_on_a_mac(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, head: bytes, words: str | None
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    path = tmp_path / "model.dylib"
    path.write_bytes(head)
    problem = model_files.library_problem(str(path))
    assert (problem is None) if words is None else (problem is not None and words in problem)


def test_a_library_of_an_unheard_of_machine_is_left_to_the_server(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "unheard-of")
    assert model_files.library_problem(str(library)) is None


# --- models that are downloaded -------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLC_DOWNLOAD_CACHE_POLICY", raising=False)
    monkeypatch.delenv("MLC_LLM_READONLY_WEIGHT_CACHE", raising=False)
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("policy", ["ON", "REDO", None])
@pytest.mark.usefixtures("home")
def test_a_model_that_may_be_downloaded(policy: str | None) -> None:
    env = {"MLC_DOWNLOAD_CACHE_POLICY": policy} if policy else {}
    assert problems("HF://org/name", env=env) == ()


@pytest.mark.parametrize("by", ["environment", "setting"])
def test_a_download_that_is_forbidden_needs_the_cache(
    by: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"MLC_DOWNLOAD_CACHE_POLICY": "READONLY"}
    if by == "environment":
        monkeypatch.setenv(*next(iter(env.items())))
        env = {}
    (problem,) = problems("HF://org/name", env=env)
    cached = home / "model_weights" / "hf" / "org" / "name"
    assert str(cached) in problem
    assert "READONLY" in problem
    cached.mkdir(parents=True)
    assert problems("HF://org/name", env=env) == ()
    cached.rmdir()
    other = tmp_path / "shared" / "hf" / "org" / "name"
    other.mkdir(parents=True)
    both = {**env, "MLC_LLM_READONLY_WEIGHT_CACHE": str(tmp_path / "shared")}
    assert problems("HF://org/name", env=both) == ()


@pytest.mark.usefixtures("home")
def test_the_policy_off_forbids_every_download() -> None:
    (problem,) = problems("HF://org/name", env={"MLC_DOWNLOAD_CACHE_POLICY": "OFF"})
    assert "MLC_DOWNLOAD_CACHE_POLICY=OFF" in problem
    assert "give its directory" in problem


@pytest.mark.parametrize("name", ["HF://", "HF://org", "HF:///name", "HF://org/"])
def test_a_remote_name_that_is_none(name: str) -> None:
    (problem,) = problems(name)
    assert "HF://organisation/name" in problem
