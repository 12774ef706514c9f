"""The server's interpreter: found, wrong, without mlc_llm, or silent for ever."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import STANDIN
from tests.support_doctor import Doctor, codes, facts, found, only, script

PYTHON_2 = json.dumps(
    {"executable": "p", "version": "2.7", "number": [2, 7], "path": [], "mlc_llm": "", "tvm": ""}
)


def test_what_is_installed(doctor: Doctor, model_dir: str) -> None:
    doctor.install(tvm="cpu=1")
    diagnosis = doctor(f"--mlc-model={model_dir}")
    assert diagnosis.healthy
    assert "the one that runs pytest" in only(diagnosis, "interpreter.found").text
    assert "mlc_llm" in only(diagnosis, "interpreter.mlc-llm").text
    assert "tvm 0.26.0 in" in only(diagnosis, "interpreter.tvm").text
    told = facts(diagnosis, "interpreter")
    assert told["path"] == sys.executable
    assert told["tvm"] == {"version": "0.26.0", "path": str(STANDIN / "tvm")}
    assert told["mlc_llm"]["path"] == str(STANDIN / "launch" / "mlc_llm")


def test_versions_are_those_of_the_packages(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor.install()
    place = doctor.path / "installed"
    for name in ("mlc_llm_nightly_cu128-0.20.1.dev7", "mlc_ai_nightly_cu128-0.19", "mlc_aim-9"):
        (place / f"{name}.dist-info").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(place), prepend=os.pathsep)
    diagnosis = doctor("--mlc-engine=mock")
    assert "mlc_llm 0.20.1.dev7 in" in only(diagnosis, "interpreter.mlc-llm").text
    assert "tvm 0.19 in" in only(diagnosis, "interpreter.tvm").text


def test_a_checkout_says_its_version_itself(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = doctor.path / "checkout" / "mlc_llm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('must not be imported')")
    (package / "libinfo.py").write_text('__version__ = "0.1.dev0"\n')
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    diagnosis = doctor("--mlc-engine=mock")
    assert "mlc_llm 0.1.dev0 in" in only(diagnosis, "interpreter.mlc-llm").text
    if "interpreter.no-tvm" in codes(diagnosis):
        assert "mlc-ai" in only(diagnosis, "interpreter.no-tvm").remedy


def test_tvm_that_cannot_be_imported(doctor: Doctor, model_dir: str) -> None:
    doctor.install(tvm="import-fails")
    diagnosis = doctor(f"--mlc-model={model_dir}")
    assert "libtvm.so" in only(diagnosis, "interpreter.no-tvm").text
    assert only(diagnosis, "interpreter.no-tvm").command.endswith("-c 'import tvm'")
    assert "devices.not-asked" in codes(diagnosis)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("true", "does not answer as Python does (status 0)"),
        ("exit 3", "(status 3)"),
        ("echo '  File, line 3' >&2; echo 'SyntaxError: bad' >&2; exit 1", "SyntaxError"),
        ("echo '[1, 2'", "does not answer"),
        ("echo '{}'", "does not answer"),
        ("echo 17", "does not answer"),
        ("printf '\\377\\376'", "does not answer"),
        (f"echo '{PYTHON_2}'", "it is Python 2.7, and mlc_llm needs 3.9"),
        ("kill -9 $$", "(status -9)"),
    ],
)  # fmt: skip
def test_programs_that_are_no_python(
    doctor: Doctor, model_dir: str, program: str, said: str
) -> None:
    python = script(doctor.path / "python", program)
    diagnosis = doctor(f"--mlc-model={model_dir}", f"--mlc-python={python}")
    assert said in only(diagnosis, "interpreter.no-python").text
    assert "--mlc-python" in only(diagnosis, "interpreter.no-python").remedy
    assert "devices.not-asked" in codes(diagnosis)
    assert {"model.directory", "command.line"} <= codes(diagnosis)


def test_a_program_that_the_system_cannot_execute(doctor: Doctor, model_dir: str) -> None:
    file = doctor.path / "python"
    file.write_bytes(b"\x7fELF nonsense")
    file.chmod(0o755)
    diagnosis = doctor(f"--mlc-model={model_dir}", f"--mlc-python={file}")
    assert (
        "it cannot be executed: Exec format error" in only(diagnosis, "interpreter.no-python").text
    )


@pytest.mark.parametrize("name", ["no-such-python", "./nowhere/python"])
def test_no_such_program(doctor: Doctor, name: str, model_dir: str) -> None:
    diagnosis = doctor(f"--mlc-model={model_dir}", f"--mlc-python={name}")
    finding = only(diagnosis, "interpreter.wrong")
    assert "there is no such program" in finding.text
    assert "--mlc-python" in finding.remedy


@pytest.mark.parametrize("engine", ["mlc", "mock"])
def test_a_python_without_mlc_llm(doctor: Doctor, engine: str, model_dir: str) -> None:
    isolated = script(doctor.path / "python", f'exec {sys.executable} -I -S "$@"')
    diagnosis = doctor(
        f"--mlc-engine={engine}", f"--mlc-model={model_dir}", f"--mlc-python={isolated}"
    )
    finding = only(diagnosis, "interpreter.no-mlc-llm")
    assert finding.text.endswith("has no module mlc_llm")
    assert "https://llm.mlc.ai/docs/install/mlc_llm.html" in finding.remedy


def test_an_interpreter_that_hangs_is_not_waited_for(doctor: Doctor, model_dir: str) -> None:
    doctor.limit = 0.2
    pid = doctor.path / "pid"
    # It ignores polite requests, and has a child that holds its output.
    python = script(
        doctor.path / "python", f"trap '' INT TERM\necho $$ > {pid}\nsleep 1000 &\nwait\nsleep 1000"
    )
    diagnosis = doctor(f"--mlc-model={model_dir}", f"--mlc-python={python}")
    assert only(diagnosis, "interpreter.hangs").command == f"{python} -c 'print(1)'"
    assert "devices.not-asked" in codes(diagnosis)
    assert not psutil.pid_exists(int(pid.read_text())) if pid.exists() else True
    assert not [c for c in psutil.Process().children(recursive=True) if "sleep" in c.name()]


def test_models_have_one_interpreter_asked_once(doctor: Doctor, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    doctor.install(tvm=f"asked={asked} cpu=1")
    diagnosis = doctor("--mlc-model=HF://a/b", "--mlc-model=HF://a/c")
    assert len(found(diagnosis, "interpreter.found")) == 2
    assert len({line.split()[1] for line in asked.read_text().splitlines()}) == 1
