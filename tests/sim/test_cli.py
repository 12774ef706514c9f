from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import pytest

from pytest_mlc_server.sim.cli import build_parser, main
from tests.sim.simulator import MODEL_DIRECTORY, Simulator


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["--mode", "turbo"], "argument --mode: invalid choice: 'turbo'"),
        (["--port", "http"], "argument --port: invalid int value: 'http'"),
        (["--overrides", "max_num_sequence=abc"], "--max_num_sequence: invalid int value: 'abc'"),
        (["--overrides", "no_such_key=1"], "unrecognized arguments: --no_such_key=1"),
        (["--allow-origins", "*"], "argument --allow-origins: invalid loads value: '*'"),
        (["--sim-imitate", "wedge,nap"], "argument --sim-imitate: invalid choice: 'nap'"),
    ],
)
def test_wrong_arguments(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["serve", "model", *flags]) == 2
    assert message in capsys.readouterr().err


def test_defaults_and_overrides() -> None:
    arguments = build_parser().parse_args(["m", "--overrides", "opt=O2;context_window=9"])
    assert (arguments.port, arguments.host, arguments.mode) == (8000, "127.0.0.1", "local")
    assert (arguments.overrides["opt"], arguments.overrides["context_window_size"]) == ("O2", 9)


def test_help_has_the_flags_of_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    shown = capsys.readouterr().out
    real, own = shown.split("of the simulator alone:")
    assert "--speculative-mode" in real
    assert "--sim-imitate" not in real
    assert "--sim-imitate" in own


@pytest.mark.parametrize(("argv", "code"), [([], 2), (["--help"], 0), (["chat", "m"], 2)])
def test_the_one_command_is_serve(
    capsys: pytest.CaptureFixture[str], argv: list[str], code: int
) -> None:
    assert main(argv) == code
    captured = capsys.readouterr()
    assert "sim serve MODEL" in (captured.err if code else captured.out)


@pytest.mark.parametrize("package", ["fastapi", "uvicorn"])
def test_missing_package_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["serve", "model"]) == 69
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "pytest-mlc-server: the simulator needs its extra:"
        f" pip install 'pytest-mlc-server[sim]' (cannot import {package}: "
    )


def test_unusable_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(MODEL_DIRECTORY / "mlc-chat-config.json", tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    assert main(["serve", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("pytest-mlc-server: ")


def test_taken_port(capfd: pytest.CaptureFixture[str], sim: Simulator) -> None:
    assert main(["serve", "model", "--port", str(sim.port)]) in (1, 3)
    assert "address already in use" in capfd.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -15)])
def test_logs_and_ends_like_the_real_server(number: signal.Signals, code: int) -> None:
    with Simulator("--model-lib", "mock://echo", "--enable-debug") as simulator:
        simulator.get("/v1/models")
        assert simulator.stop(number) == code
    log = "".join(simulator.stderr)
    milestones = [
        "\x1b[92mFound\x1b[0m device: cpu:0",
        "[DEBUG] mock test: mock://echo",
        "The selected engine mode is \x1b[92mlocal\x1b[0m.",
        "Enable debug endpoint and debug_config in requests...",
        f"INFO:     Started server process [{simulator.pid}]",
        "INFO:     Application startup complete.",
        f"INFO:     Uvicorn running on http://127.0.0.1:{simulator.port} (Press CTRL+C to quit)",
        f"INFO:     Finished server process [{simulator.pid}]",
    ]
    positions = [log.find(milestone) for milestone in milestones]
    assert -1 not in positions
    assert positions == sorted(positions)
    (access,) = simulator.stdout
    assert access.startswith("INFO:     127.0.0.1:")
    assert access.endswith(' - "GET /v1/models HTTP/1.1" 200 OK\n')
