"""For the tests of the doctor: a diagnosis in this process, without asking pytest."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_mlc_server import device_answers, runner, runtime
from pytest_mlc_server.doctor import cli, settings
from pytest_mlc_server.doctor.examination import Examination
from pytest_mlc_server.doctor.findings import Diagnosis, Finding, Section
from pytest_mlc_server.doctor.programs import Programs
from tests.conftest import WATCHDOG
from tests.support_launch import launch_env


class Doctor:
    """A machine of its own, on which nothing runs and nothing is remembered.

    Parameters
    ----------
    path
        Where everything is.
    """

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.limit = WATCHDOG
        self._monkeypatch = monkeypatch

    def asked(self, *arguments: str, **facts: Any) -> settings.Settings:
        """Return what pytest would say of arguments, as far as it is in `facts`."""
        parsed, _ = cli._parser().parse_known_args(arguments)
        given = runner.given(parsed)
        return settings.Settings(given, os.getcwd(), **{"pytest": "9", "xdist": True, **facts})

    def __call__(self, *arguments: str, **facts: Any) -> Diagnosis:
        """Diagnose a run with arguments."""
        programs = Programs(self.limit)
        try:
            with runtime.only_looking():
                return Examination(self.asked(*arguments, **facts), programs).diagnose()
        finally:
            programs.close()

    def install(self, *words: str, tvm: str = "") -> None:
        """Have stand-ins for mlc_llm and tvm, with orders."""
        for name, value in launch_env(*words, tvm=tvm).items():
            self._monkeypatch.setenv(name, value)


def found(diagnosis: Diagnosis, code: str) -> list[Finding]:
    """Return the findings of a kind."""
    return [f for section in diagnosis.all_sections() for f in section.findings if f.code == code]


def only(diagnosis: Diagnosis, code: str) -> Finding:
    """Return the one finding of a kind."""
    findings = found(diagnosis, code)
    assert len(findings) == 1, (code, codes(diagnosis))
    return findings[0]


def codes(diagnosis: Diagnosis) -> set[str]:
    """Return the kinds of all findings."""
    return {f.code for section in diagnosis.all_sections() for f in section.findings}


def problems(diagnosis: Diagnosis) -> set[str]:
    """Return the kinds of all problems."""
    return {
        f.code
        for section in diagnosis.all_sections()
        for f in section.findings
        if f.level == "problem"
    }


def facts(diagnosis: Diagnosis, name: str) -> dict[str, Any]:
    """Return the facts of the one section of a name."""
    (section,) = [one for one in diagnosis.all_sections() if one.name == name]
    assert isinstance(section, Section)
    return section.facts


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """A doctor in an empty directory."""
    for name in ("home", "temporary", "run", "project"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(device_answers, "known", {})
    monkeypatch.setattr(psutil, "process_iter", lambda: iter(()))  # servers of other tests
    for name in list(os.environ):
        if name.startswith(("MLC_", "XDG_CACHE", "CUDA_", "PYTHONPATH")):
            monkeypatch.delenv(name)
    return Doctor(tmp_path, monkeypatch)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore what the command does with signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def script(path: Path, text: str) -> str:
    """Write a program of a shell, and return its path."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def listing(path: Path) -> list[tuple[str, int, int]]:
    """Return all that is below a directory, with sizes and times."""
    return sorted(
        (str(one), one.lstat().st_size, one.lstat().st_mtime_ns) for one in path.rglob("*")
    )


def without_git(monkeypatch: pytest.MonkeyPatch, *tools: str) -> None:
    """Have only these of the programs that download."""
    real = shutil.which

    def which(name: str, *arguments: Any, **options: Any) -> str | None:
        if name in ("git", "git-lfs"):
            return f"/bin/{name}" if name in tools else None
        return real(name, *arguments, **options)

    monkeypatch.setattr(shutil, "which", which)


PYTHON = sys.executable
