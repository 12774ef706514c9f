"""The command line itself: usage, and words that are no command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_mlc_server.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "code"), [([], 0), (["--help"], 0), (["-h"], 0), (["sevre"], 2), (["--mlc"], 2)]
)
def test_usage(arguments: list[str], code: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == code
    shown = capfd.readouterr()
    # Help is an answer and goes where answers go; the reminder of a mistake is none.
    usage, other = (shown.out, shown.err) if code == 0 else (shown.err, shown.out)
    assert other == ""
    assert "python -m pytest_mlc_server COMMAND" in usage
    for command in ("with", "prepare", "sim serve"):
        assert f"\n  {command} " in usage


@pytest.mark.parametrize("command", ["with", "prepare", "sim"])
def test_each_command_has_help(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main([command, "--help"])
    except SystemExit as ended:  # argparse's way
        code = ended.code
    assert code == 0
    assert "usage: " in capfd.readouterr().out


def test_the_module_can_be_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_mlc_server", "nonsense"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "usage: python -m pytest_mlc_server" in done.stderr
