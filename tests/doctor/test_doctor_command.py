"""The command: what it reads, how it ends, and that it leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pytest_mlc_server import __main__
from pytest_mlc_server.doctor import cli, settings
from tests.support_doctor import Doctor, listing

SIM = "--mlc-engine=sim"


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; pytest is asked in one of its own."""
    try:
        code = __main__.main(["doctor", *arguments])
    except SystemExit as ended:  # argparse's way
        code = int(str(ended.code))
    shown = capfd.readouterr()
    return code, shown.out, shown.err


@pytest.mark.usefixtures("handlers")
def test_settings_of_the_ini_file(doctor: Doctor, capfd: pytest.CaptureFixture[str]) -> None:
    Path("pytest.ini").write_text(
        "[pytest]\nmlc_engine = sim\nmlc_port = none\nmlc_debug = perhaps\n"
        "addopts = --mlc-mode=local --of-the-conftest\nfilterwarnings = error\n"
    )
    Path("conftest.py").write_text("raise SystemExit('a conftest is not executed')\n")
    before = listing(doctor.path)
    code, out, error = run(capfd, "--mlc-ready=http", "--json")
    assert (code, error) == (1, "")
    told = json.loads(out)
    assert told["healthy"] is False
    ini = f"{os.getcwd()}/pytest.ini"
    assert told["sections"][0]["facts"] == {
        "ini": ini,
        "settings": [
            {"name": "engine", "value": "'sim'", "source": f"mlc_engine in {ini}"},
            {"name": "mode", "value": "'local'", "source": "--mlc-mode in addopts"},
            {"name": "port", "value": "'none'", "source": f"mlc_port in {ini}"},
            {"name": "ready", "value": "'http'", "source": "--mlc-ready on the command line"},
        ],
    }
    wrong = [f["text"] for f in told["sections"][0]["findings"] if f["level"] == "problem"]
    assert len(wrong) == 2
    assert "invalid truth value 'perhaps'" in wrong[0]
    assert "port = 'none'" in wrong[1]
    assert listing(doctor.path) == before


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["-nonsense"], "unrecognized arguments: -nonsense"),
        (["--limit=0"], "argument --limit"),
        (["--limit", "soon"], "argument --limit"),
        (["--mlc-port"], "expected one argument"),
    ],
)
def test_wrong_use(
    doctor: Doctor,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    says: str,
) -> None:
    unknown = [word for word in arguments if "nonsense" in word]
    monkeypatch.setattr(settings, "ask", lambda *_: doctor.asked(unknown=unknown))
    code, out, error = run(capfd, *arguments)
    assert (code, out) == (2, "")
    assert says in error


def test_help(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "--help")
    assert code == 0
    for word in ("--json", "--limit", "--mlc-scope", "--rootdir", "Exit code: 0, or 1"):
        assert word in out


@pytest.mark.usefixtures("handlers")
def test_an_interrupt_ends_it(
    doctor: Doctor, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(settings, "ask", interrupted)
    assert run(capfd) == (130, "", "")


def test_arguments_of_its_own_are_not_pytests() -> None:
    arguments = ["--json", "-x", "--limit", "3", "tests", "--limit=4", "--json-report"]
    assert cli._of_pytest(arguments) == ["-x", "tests", "--json-report"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", "it says nothing"),
        (b"nonsense", "pytest cannot be asked"),
        (b'{"error": "Error importing plugin"}', "Error importing plugin"),
    ],
)
def test_a_pytest_that_cannot_be_asked(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, answer: bytes, error: str
) -> None:
    from pytest_mlc_server.doctor.programs import Programs

    def answers(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess([], 0, answer, b"")

    programs = Programs(1.0)
    monkeypatch.setattr(programs, "run", answers)
    parsed, _ = cli._parser().parse_known_args([SIM])
    asked = settings.ask([SIM], parsed, programs)
    assert error in asked.error
    assert asked.given["engine"].raw == "sim"  # what is known without it
