"""The model's files, its library, and the caches of both."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_mlc_server import ServerConfig, builds
from pytest_mlc_server.doctor import cached, model
from pytest_mlc_server.doctor.case import Case
from pytest_mlc_server.doctor.findings import Section
from pytest_mlc_server.doctor.programs import Check
from pytest_mlc_server.guardian.building import Build
from pytest_mlc_server.preflight import problems
from tests.conftest import WATCHDOG, write_model
from tests.support_doctor import Doctor, codes, without_git

ROOT_ONLY = pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")


def case(name: str = "HF://a/b", **fields: Any) -> Case:
    config = ServerConfig(model=name, **fields)
    return Case(config, problems(config))


def one(section: Section, code: str) -> str:
    (finding,) = [f for f in section.findings if f.code == code]
    return " -> ".join((finding.text, finding.remedy, finding.command))


def kinds(section: Section) -> list[str]:
    return [finding.code for finding in section.findings]


@pytest.fixture
def directory(doctor: Doctor) -> Path:
    path = doctor.path / "project" / "my model"
    path.mkdir()
    write_model(path)
    return path


# --- files ----------------------------------------------------------------------------------------


def test_a_whole_directory(directory: Path) -> None:
    made = model.section(case("my model"))
    assert one(made, "model.directory").startswith(
        "my model: configuration and tokenizer are there; weights are whole, 16 B"
    )
    assert made.facts["models"] == [
        {"model": "my model", "path": str(directory), "how": "given", "weights": 16}
    ]


def test_all_that_is_wrong_with_it(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()
    (directory / "params_shard_0.bin").unlink()
    made = model.section(case("my model"))
    assert kinds(made) == ["model.wrong", "model.wrong"]
    tokenizer, shard = made.findings
    assert "tokenizer.json is missing" in tokenizer.text
    assert tokenizer.remedy.startswith("copy the tokenizer's files there")
    assert "params_shard_0.bin is missing" in shard.text
    assert shard.remedy == "download or convert the weights again"


@pytest.mark.parametrize(
    ("file", "content", "said", "remedy"),
    [
        ("mlc-chat-config.json", b"{", "is not valid JSON", "copy or make it anew"),
        ("mlc-chat-config.json", b"\xff\xfe", "is not valid JSON", "copy or make it anew"),
        ("mlc-chat-config.json", b"[1]", "is no JSON object", "make it anew"),
        ("tensor-cache.json", b"\0", "is not valid JSON", "copy or make it anew"),
        ("params_shard_0.bin", b"oid", "has 3 bytes instead of 16", "download or convert"),
    ],
)
def test_garbage(directory: Path, file: str, content: bytes, said: str, remedy: str) -> None:
    (directory / file).write_bytes(content)
    made = model.section(case("my model"))
    assert said in made.findings[0].text
    assert made.findings[0].remedy.startswith(remedy)


def test_no_directory_and_a_file_in_its_place(doctor: Doctor) -> None:
    made = model.section(case("nowhere"))
    assert "there is no directory" in one(made, "model.wrong")
    assert "give the model's directory, or HF://" in one(made, "model.wrong")
    Path("file").write_text("")
    assert "this is a file -> give the model's directory" in one(
        model.section(case("file")), "model.wrong"
    )


def test_a_configuration_that_no_reader_gets_to_the_end_of(directory: Path, doctor: Doctor) -> None:
    (directory / "mlc-chat-config.json").write_text("[" * 100_000)
    diagnosis = doctor("--mlc-model=my model")
    assert "model.wrong" in codes(diagnosis)
    assert "port.auto" in codes(diagnosis)


@ROOT_ONLY
def test_a_directory_that_may_not_be_read(directory: Path) -> None:
    (directory / "mlc-chat-config.json").chmod(0)
    made = model.section(case("my model"))
    assert "Permission denied" in one(made, "model.wrong")


def test_names_that_are_no_text(doctor: Doctor) -> None:
    name = os.fsdecode(b"mod\xffel\x1b[31m")
    made = model.section(case(name))
    assert kinds(made) == ["model.wrong"]


def test_additional_models_are_looked_at_too(directory: Path) -> None:
    made = model.section(case("my model", additional_models=["other", "my model"]))
    assert "'other': there is no directory" in one(made, "model.wrong")
    assert kinds(made).count("model.directory") == 2


def test_engines_with_models_of_their_own(doctor: Doctor) -> None:
    for engine in ("sim", "mock"):
        assert kinds(model.section(Case(ServerConfig(engine=engine)))) == ["model.built-in"]
        assert kinds(model.library_section(Case(ServerConfig(engine=engine)), "")) == [
            "library.built-in"
        ]


# --- downloads ------------------------------------------------------------------------------------


def test_a_model_that_would_be_downloaded(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    without_git(monkeypatch, "git", "git-lfs")
    place = doctor.path / "home" / ".cache" / "mlc_llm" / "model_weights" / "hf" / "a" / "b"
    made = model.section(case(device="cuda", overrides={"opt": "O2"}, env={"MY_TOKEN": "hunter2"}))
    assert kinds(made) == ["model.would-download"]
    text = one(made, "model.would-download")
    assert f"would be downloaded to {place}; " in text
    assert text.endswith(
        f"{sys.executable} -m pytest_mlc_server prepare --mlc-model=HF://a/b --mlc-device=cuda "
        "--mlc-overrides=opt=O2 '--mlc-env=MY_TOKEN=***'"
    )
    without_git(monkeypatch, "git")
    assert "git-lfs cannot be found" in one(model.section(case()), "model.tools-missing")


def test_a_model_that_was_downloaded(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    place = doctor.path / "cache" / "hf" / "a" / "b"
    place.mkdir(parents=True)
    write_model(place)
    monkeypatch.setenv("MLC_LLM_READONLY_WEIGHT_CACHE", str(doctor.path / "cache"))
    assert f"was downloaded to {place}" in one(model.section(case()), "model.cached")
    monkeypatch.setenv("MLC_DOWNLOAD_CACHE_POLICY", "REDO")
    assert "each time anew" in one(model.section(case()), "model.would-download")
    monkeypatch.delenv("MLC_DOWNLOAD_CACHE_POLICY")
    (place / "params_shard_0.bin").unlink()
    assert one(model.section(case()), "model.cache-broken").endswith(f"rm -r {place}")


def test_policies_that_forbid_a_download(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    for policy in ("OFF", "READONLY"):
        monkeypatch.setenv("MLC_DOWNLOAD_CACHE_POLICY", policy)
        made = model.section(case())
        assert kinds(made) == ["model.wrong"]
        assert f"MLC_DOWNLOAD_CACHE_POLICY={policy}" in made.findings[0].text


# --- libraries ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ("ON", "library.would-compile"),
        ("OFF", "library.cannot-compile"),
        ("REDO", "library.always-compiled"),
        ("READONLY", "library.must-be-cached"),
    ],
)
def test_where_the_library_comes_from(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, policy: str, code: str
) -> None:
    monkeypatch.setenv("MLC_JIT_POLICY", policy)
    assert kinds(model.library_section(case(), "cpu")) == [code]


def test_a_library_that_an_earlier_start_compiled(directory: Path, doctor: Doctor) -> None:
    wanted = case("my model")
    stamps = builds.of(wanted.config, wanted.environment, wanted.cwd)
    library = doctor.path / "x.so"
    library.write_text("library")
    Build(stamps.files).remember([str(library)])
    assert kinds(model.library_section(wanted, "")) == ["library.known"]
    library.unlink()
    assert kinds(model.library_section(wanted, "")) == ["library.would-compile"]


def test_a_library_that_is_given(directory: Path, doctor: Doctor) -> None:
    library = next(Path(psutil.__file__).parent.glob("*.so"))
    made = model.library_section(case("my model", model_lib=str(library)), "cpu")
    assert kinds(made) == ["library.given"]
    Path("my-model-cuda.so").symlink_to(library)
    named = case("my model", model_lib="my-model-cuda.so")
    assert kinds(model.library_section(named, "cuda:1")) == ["library.given"]
    assert kinds(model.library_section(named, "")) == ["library.given"]
    made = model.library_section(named, "cpu")
    assert "a library for cuda, and the server would get cpu" in one(made, "library.other-device")
    Path("wrong.so").write_bytes(b"MZ and so on")
    made = model.library_section(case("my model", model_lib="wrong.so"), "cpu")
    assert "it is one of Windows" in one(made, "library.wrong")
    assert "-> compile it here" in one(made, "library.wrong")
    made = model.library_section(case("my model", model_lib="mock://echo"), "cpu")
    assert kinds(made) == ["library.built-in"]


# --- caches ---------------------------------------------------------------------------------------


def of_caches(wanted: Case, ask: Any = None) -> Section:
    size: Check[Any] = Check(ask or (lambda: cached.count(cached.home_of(wanted))), WATCHDOG)
    return cached.section(wanted, size)


def test_where_the_caches_are(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    made = of_caches(case())
    home = doctor.path / "home" / ".cache" / "mlc_llm"
    assert one(made, "caches.place").startswith(f"{home} (the default): not there yet")
    assert made.facts["bytes"] is None
    monkeypatch.setenv("MLC_LLM_HOME", str(doctor.path / "mlc"))
    (doctor.path / "mlc" / "model_lib").mkdir(parents=True)
    (doctor.path / "mlc" / "model_lib" / "x.so").write_bytes(bytes(5000))
    (doctor.path / "mlc" / "model_lib" / "loop").symlink_to("..")
    made = of_caches(case())
    assert "(MLC_LLM_HOME): 4.9 KiB" in one(made, "caches.place")
    assert made.facts["bytes"] == 5000
    assert made.facts["home"] == str(doctor.path / "mlc")
    monkeypatch.setattr(cached, "COUNT_FOR", -1.0)
    assert "more than 0 B" in one(of_caches(case()), "caches.place")


def test_what_the_policies_mean(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    made = of_caches(case())
    assert [f.text.partition(":")[0] for f in made.findings if f.code == "caches.policy"] == [
        "MLC_JIT_POLICY=ON",
        "MLC_DOWNLOAD_CACHE_POLICY=ON",
    ]
    monkeypatch.setenv("MLC_JIT_POLICY", "on")
    assert "'on' is none that mlc_llm knows" in one(of_caches(case()), "caches.policy-unknown")
    monkeypatch.setenv("MLC_JIT_POLICY", "REDO")
    texts = [f.text for f in of_caches(case(model_lib="x.so")).findings]
    assert any(text.endswith("; nothing of that in this run") for text in texts)


def test_a_cache_that_cannot_be_used(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access
    home = str(doctor.path / "home")

    def access(path: Any, mode: int) -> bool:
        return not str(path).startswith(home) and real(path, mode)

    monkeypatch.setattr(os, "access", access)
    assert "cannot be written to" in one(of_caches(case()), "caches.read-only")
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    assert "caches.read-only" in kinds(of_caches(case()))  # it downloads
    library = of_caches(case("m", model_lib="x.so"))
    assert "caches.read-only" not in kinds(library)


def test_a_cache_on_a_file_system_that_hangs(doctor: Doctor) -> None:
    import threading

    never = threading.Event()
    hangs: Check[Any] = Check(never.wait, 0.01)
    assert "cannot be read within the time limit" in one(
        cached.section(case(), hangs), "check.hangs"
    )
    never.set()


def test_what_another_user_keeps_is_not_counted(doctor: Doctor, monkeypatch: Any) -> None:
    place = doctor.path / "mlc"
    (place / "closed").mkdir(parents=True)
    real = os.scandir

    def scandir(path: str) -> Any:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert cached.count(str(place)) == cached.Size(0, whole=True)
