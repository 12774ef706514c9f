"""The machine: its platform, its directories, and packages that are missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_mlc_server import ServerConfig
from pytest_mlc_server.doctor import machine
from pytest_mlc_server.doctor.case import Case
from tests.support_doctor import Doctor, codes, facts, found, listing, only, problems

SIM = "--mlc-engine=sim"
URL = "--mlc-url=http://127.0.0.1:9"


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Have modules be missing."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in modules else real(name)
    )


def test_this_one(doctor: Doctor) -> None:
    before = listing(doctor.path)
    diagnosis = doctor(SIM)
    assert "machine.supported" in codes(diagnosis)
    own = f"{doctor.path}/run/pytest-mlc-server-{os.getuid()}"
    assert own in only(diagnosis, "machine.directories").text
    assert facts(diagnosis, "machine")["locks"] == own
    assert listing(doctor.path) == before


@pytest.mark.parametrize(
    ("name", "argument", "code"),
    [
        ("darwin", SIM, "machine.untested"),
        ("win32", SIM, "machine.unsupported"),
        ("win32", URL, "machine.supported"),
    ],
)
def test_other_platforms(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, name: str, argument: str, code: str
) -> None:
    cases = [Case(ServerConfig(engine="sim") if argument == SIM else ServerConfig(url=URL[10:]))]
    monkeypatch.setattr(sys, "platform", name)
    section = machine.section(cases)
    assert code in [finding.code for finding in section.findings]


def test_a_directory_for_locks_that_others_may_use(doctor: Doctor) -> None:
    own = doctor.path / "run" / f"pytest-mlc-server-{os.getuid()}"
    own.mkdir()
    own.chmod(0o777)
    finding = only(doctor(SIM), "machine.directory-not-private")
    assert "must be a directory that only this user can use" in finding.text
    assert finding.remedy.startswith("remove it, or set XDG_RUNTIME_DIR")
    real = doctor(f"--mlc-model={doctor.path}", "--mlc-port=8099")
    assert "machine.directory-not-private" in problems(real)
    assert "command.unknown" in codes(real)
    assert "machine.directory-not-private" in problems(doctor(SIM, "--mlc-reuse=60"))


def test_a_directory_that_cannot_be_made(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: not str(path).endswith("/temporary") and real(path, mode)
    )
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    assert "cannot be made" in only(doctor(SIM), "machine.directory-not-private").text


def test_no_directory_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def gettempdir() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", gettempdir)
    section = machine.section([])
    assert "machine.no-temporary-directory" in [finding.code for finding in section.findings]


def test_a_disk_that_is_full(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(3 << 20))
    assert "has 3.0 MiB left for logs" in only(doctor(SIM), "machine.disk-full").text


def test_a_directory_for_logs_that_is_no_use(doctor: Doctor) -> None:
    Path("file").write_text("")
    finding = only(doctor(SIM, "--mlc-log-dir=file/logs"), "machine.directory-wrong")
    assert "cannot write to" in finding.text
    assert finding.remedy.startswith("choose a directory")


def test_the_extra_of_the_simulator(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "simulator.installed" in codes(doctor(SIM))
    hide(monkeypatch, "uvicorn", "tokenizers")
    finding = only(doctor(SIM), "extra.missing")
    assert "needs tokenizers, uvicorn" in finding.text
    assert finding.command == "pip install 'pytest-mlc-server[sim]'"


def test_other_extras(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "openai", "jinja2")
    diagnosis = doctor(SIM, "--mlc-report=report.html")
    assert "mlc_client" in only(diagnosis, "extra.not-installed").text
    (finding,) = found(diagnosis, "settings.wrong")
    assert "Jinja2, which is not installed" in finding.text


def test_a_script_of_the_simulator_that_is_wrong(doctor: Doctor) -> None:
    Path("script.toml").write_text("[[rules]\n")
    (finding,) = found(doctor(SIM, "--mlc-sim-script=script.toml"), "settings.wrong")
    assert finding.text.startswith("sim_script = 'script.toml'")
    assert finding.remedy


def test_a_check_that_fails_does_not_keep_the_others_from_it(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/secret")

    monkeypatch.setattr("pytest_mlc_server.doctor.port.section", fails)
    diagnosis = doctor(SIM)
    assert "PermissionError" in only(diagnosis, "check.failed").text
    assert "command.line" in codes(diagnosis)
