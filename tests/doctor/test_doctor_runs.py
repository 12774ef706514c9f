"""The command as a user runs it: every kind of ini file, pipes, signals, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import WATCHDOG, await_gone, await_text
from tests.support_doctor import Doctor, listing, script

pytestmark = pytest.mark.slow

DOCTOR = [sys.executable, "-m", "pytest_mlc_server", "doctor"]

#: The same settings in all forms; None: pytest is too old for it.
FILES = {
    "pytest.ini": "[pytest]\nmlc_engine = sim\nmlc_model =\n  a\n  b\nmlc_port = auto\n",
    "tox.ini": "[pytest]\nmlc_engine = sim\nmlc_model =\n  a\n  b\nmlc_port = auto\n",
    "setup.cfg": "[tool:pytest]\nmlc_engine = sim\nmlc_model =\n  a\n  b\nmlc_port = auto\n",
    "pyproject.toml": (
        '[tool.pytest.ini_options]\nmlc_engine = "sim"\nmlc_model = ["a", "b"]\nmlc_port = "auto"\n'
    ),
    "typed/pyproject.toml": (
        '[tool.pytest]\nmlc_engine = "sim"\nmlc_model = ["a", "b"]\nmlc_port = "auto"\n'
    ),
}


def examine(*arguments: str, **environment: str) -> tuple[int, Any]:
    """Return the exit code and what is told."""
    done = subprocess.run(
        [*DOCTOR, "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=WATCHDOG,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def settings_of(told: Any) -> dict[str, tuple[str, str]]:
    facts = told["sections"][0]["facts"]["settings"]
    return {one["name"]: (one["value"], one["source"]) for one in facts}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_ini_file(doctor: Doctor, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.startswith("typed") and pytest.version_tuple < (9,):
        pytest.skip("pytest 9 is the first that reads it")
    file = Path.cwd() / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(FILES[name])
    monkeypatch.chdir(file.parent)
    code, told = examine()
    assert code == 0
    assert settings_of(told) == {
        "engine": ("'sim'", f"mlc_engine in {file}"),
        "model": ("['a', 'b']", f"mlc_model in {file}"),
        "port": ("'auto'", f"mlc_port in {file}"),
    }
    assert [server["model"] for server in told["servers"]] == ["a", "b"]


def test_it_is_what_a_run_reads(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("tests").mkdir()
    Path("tests/test_nothing.py").write_text("def test_nothing(): pass")
    other = Path("other.ini")
    other.write_text(
        "[pytest]\nmlc_engine = sim\nmlc_device = cpu\nmlc_mode = server\n"
        "addopts = --mlc-ready=http -p no:cacheprovider\n"
    )
    monkeypatch.setenv("PYTEST_MLC_DEVICE", "cuda")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--mlc-restarts=1")
    arguments = ["-c", "other.ini", "-o", "mlc_mode=local", "--mlc-report=r.json", "tests"]
    _, told = examine(*arguments)
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *arguments], check=True, capture_output=True
    )
    seen = json.loads(Path("r.json").read_text())["run"]["settings"]
    assert seen == told["sections"][0]["facts"]["settings"]
    assert {name: source for name, (_, source) in settings_of(told).items()} == {
        "engine": f"mlc_engine in {other.absolute()}",
        "device": "PYTEST_MLC_DEVICE in the environment",
        "mode": "-o mlc_mode on the command line",
        "ready": "--mlc-ready in addopts",
        "restarts": "--mlc-restarts in addopts",
        "report": "--mlc-report on the command line",
    }


def test_what_keeps_pytest_from_reading_is_told(doctor: Doctor) -> None:
    def kinds(*arguments: str, **environment: str) -> dict[str, str]:
        code, told = examine("--mlc-engine=sim", *arguments, **environment)
        assert code == 1
        found = [f for section in told["sections"] for f in section["findings"]]
        return {f["code"]: f["text"] for f in found if f["level"] == "problem"}

    assert "No module named 'no_such'" in kinds("-p", "no_such")["pytest.cannot-read"]
    assert "no_such.ini" in kinds("-c", "no_such.ini")["pytest.cannot-read"]
    assert "pytest.plugin-missing" in kinds("-p", "no:mlc_server")
    Path("exits.py").write_text("import os\nos._exit(3)\n")
    assert kinds("-p", "exits", PYTHONPATH=os.getcwd())["pytest.cannot-read"] == "it says nothing"
    Path("pytest.ini").write_text("[pytest\n")
    assert "pytest.ini" in kinds()["pytest.cannot-read"]


def test_a_path_that_pytest_takes_for_tests(doctor: Doctor, model_dir: str) -> None:
    Path("pytest.ini").write_text("[pytest]\nmlc_engine = sim\n")
    _, told = examine("--mlc-model", model_dir)
    found = {f["code"]: f for f in told["sections"][0]["findings"]}
    assert f"write --mlc-model={model_dir}" in found["settings.ini-ignored"]["remedy"]


def test_workers(doctor: Doctor) -> None:
    pytest.importorskip("xdist")
    Path("pytest.ini").write_text("[pytest]\naddopts = -n 8 --maxprocesses=3\nmlc_engine = sim\n")
    _, told = examine("--mlc-port=65534")
    texts = [f["text"] for s in told["servers"][0]["sections"] for f in s["findings"]]
    assert any("which is above 65535" in text for text in texts)
    assert told["sections"][1]["facts"]["workers"] == 3


def test_nothing_is_written(doctor: Doctor, model_dir: str) -> None:
    doctor.install(tvm="cuda=1 cpu=1")
    Path("pytest.ini").write_text("[pytest]\nmlc_reuse = 60\nmlc_launch = warm\nmlc_warm = 9\n")
    Path("test_x.py").write_text("def test_x(): pass")
    Path("local.py").write_text("def pytest_addoption(): pass")
    model = Path(model_dir)
    temporary = doctor.path / "temporary"
    os.utime(temporary, (0, 0))
    before = listing(doctor.path), listing(model)
    for more in ([], ["--mlc-model=HF://a/b"], ["--mlc-scope=run", "--mlc-port=28123"]):
        code, _ = examine(
            f"--mlc-model={model_dir}" if not more else "--mlc-port=auto",
            *more,
            "--mlc-log-dir=logs",
            "--mlc-report=r.json",
            "-p",
            "local",
            PYTHONPATH=os.pathsep.join((os.environ["PYTHONPATH"], os.getcwd())),
            TMPDIR=str(temporary),
            PYTHONDONTWRITEBYTECODE="1",
        )
        assert code in (0, 1)
    os.utime(temporary, (0, 0))  # Python tries whether it can be written to
    assert (listing(doctor.path), listing(model)) == before


@pytest.mark.parametrize("redirection", ["| head -1", "> /dev/full", ">&-"])
def test_ends_of_the_output(doctor: Doctor, redirection: str) -> None:
    line = f"{' '.join(DOCTOR)} --mlc-engine=sim {redirection}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        capture_output=True,
        text=True,
        timeout=WATCHDOG,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    if redirection == "| head -1":
        assert done.stdout.startswith("What a run with these settings would find.")
        assert done.stderr == ""


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_that_an_encoding_does_not_have(doctor: Doctor, encoding: str) -> None:
    names: Sequence[bytes | str] = [b"--mlc-model=caf\xe9", "--mlc-model=caf\u00e9 \u2603"]
    done = subprocess.run(
        [*DOCTOR, *names],
        capture_output=True,
        timeout=WATCHDOG,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"},
    )
    assert done.returncode == 1
    assert done.stderr == b""
    shown = done.stdout.decode(encoding)
    assert "\\udce9" in shown
    assert ("\u2603" in shown) == (encoding == "utf-8")
    assert "\x1b" not in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_during_a_check_that_hangs(
    doctor: Doctor, number: signal.Signals, model_dir: str
) -> None:
    pid = doctor.path / "pid"
    text = f"trap '' INT TERM HUP\necho $$ > {pid}.part\nmv {pid}.part {pid}\nsleep 1000"
    python = script(doctor.path / "python", text)
    process = subprocess.Popen(
        [*DOCTOR, f"--mlc-model={model_dir}", f"--mlc-python={python}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    asked = int(await_text(pid))
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    out, error = process.communicate(timeout=WATCHDOG)
    assert process.returncode == 128 + number
    assert (out, error) == ("", "")
    for child in {asked, *(child.pid for child in children)}:
        await_gone(child)


def test_on_a_terminal_it_has_colours(doctor: Doctor) -> None:
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        control, terminal = os.openpty()
        process = subprocess.Popen(
            [*DOCTOR, "--mlc-engine=sim"],
            stdout=terminal,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80", **environment},
        )
        os.close(terminal)
        shown = b""
        while True:
            try:
                chunk = os.read(control, 1 << 16)
            except OSError:  # how a terminal says that nobody writes any more
                break
            if not chunk:
                break
            shown += chunk
        os.close(control)
        assert process.wait(WATCHDOG) == 0
        assert (b"\x1b[32mok" in shown) == coloured
