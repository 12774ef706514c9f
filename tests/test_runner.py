"""``python -m pytest_mlc_server with … -- command``: a server around any command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from pytest_mlc_server.runner import main
from tests.conftest import WATCHDOG, await_, await_gone
from tests.support_plugin import Suite, is_free, make_suite

#: Leaves the environment in a file, and waits for a signal if it is told to.
COMMAND = """
import json, os, sys, time
with open("environment.part", "w") as file:
    json.dump({**os.environ, "THIS": str(os.getpid())}, file)
os.replace("environment.part", "environment")
while "wait" in sys.argv:
    time.sleep(0.02)
"""


@pytest.fixture
def suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, model_dir: str
) -> Iterator[Suite]:
    """A directory, and the settings that select the stand-in; at the end, no server may be left."""
    suite = make_suite(pytester, monkeypatch, model_dir)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield suite
    for number, handler in handlers.items():
        signal.signal(number, handler)
    suite.close()


def with_server(suite: Suite, command: Sequence[str], orders: str = "") -> list[str]:
    """Return the command line that runs a command with a server."""
    runner = [sys.executable, "-m", "pytest_mlc_server", "with"]
    return [*runner, *suite.settings(orders), "--", *command]


def python(code: str, *arguments: str) -> list[str]:
    """Return the command line of a short program."""
    return [sys.executable, "-c", code, *arguments]


def environment(suite: Suite) -> dict[str, str]:
    """Return what `COMMAND` wrote."""
    loaded: dict[str, str] = json.loads((suite.path / "environment").read_text())
    return loaded


@pytest.mark.parametrize("key", [None, "secret"])
def test_the_command_finds_the_server_in_its_environment(
    suite: Suite, key: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = [*suite.settings(), *([f"--mlc-api-key={key}"] if key else [])]
    code = """
import os, urllib.request
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
url = os.environ["OPENAI_BASE_URL"] + "/models"
print(urllib.request.urlopen(urllib.request.Request(url, headers=headers)).read().decode())
"""
    assert main([*settings, "--", *python(code + COMMAND)]) == 0
    shown = capfd.readouterr()
    # The command's own output, and nothing else.
    assert json.loads(shown.out)["data"][0]["id"] == suite.model
    found = environment(suite)
    assert found["OPENAI_MODEL"] == suite.model
    assert found["OPENAI_API_KEY"] == key if key else found["OPENAI_API_KEY"]
    assert found.get("HOME") == os.environ.get("HOME")
    assert found["OPENAI_BASE_URL"].removesuffix("/v1") in shown.err
    assert "secret" not in shown.err
    (pid,) = suite.starts
    await_gone(pid)
    assert suite.left() == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise SystemExit(0)", 0),
        ("raise SystemExit(7)", 7),
        ("raise SystemExit(255)", 255),
        ("import os; os.kill(os.getpid(), 15)", 128 + 15),
        ("import os; os.kill(os.getpid(), 9)", 128 + 9),
    ],
)
def test_the_exit_code_is_the_commands(suite: Suite, code: str, expected: int) -> None:
    assert main([*suite.settings(), "--", *python(code)]) == expected
    assert len(suite.starts) == 1


def test_arguments_after_the_dashes_are_the_commands(
    suite: Suite, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--mlc-model", "x", "--", "--help", "a b"]
    assert main([*suite.settings(), "--", *python("import sys; print(sys.argv[1:])", *words)]) == 0
    assert capfd.readouterr().out.strip() == repr(words)


def test_settings_come_from_the_environment_too(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_MLC_MODEL", suite.model)
    monkeypatch.setenv("PYTEST_MLC_ENV", "\n".join(suite.variables()))
    assert main(["--", *python("raise SystemExit(5)")]) == 5
    assert len(suite.starts) == 1


def test_a_command_that_is_not_there(suite: Suite, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*suite.settings(), "--", "no-such-command"]) == 127
    assert "no-such-command" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["--mlc-port=high"], ["--mlc-port", "high"]),
        (["--mlc-overrides=max_num_sequnce=1"], ["--mlc-overrides", "max_num_sequence"]),
        (["--mlc-embedding-model=x"], ["--mlc-embedding-model-lib"]),
        (["--mlc-python=no-such-python"], ["--mlc-python", "no-such-python"]),
    ],
)
def test_wrong_settings_start_nothing(
    suite: Suite, settings: list[str], named: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*suite.settings(), *settings, "--", *python(COMMAND)]) == 2
    shown = capfd.readouterr().err
    assert all(word in shown for word in named)
    assert "Traceback" not in shown
    assert suite.starts == []
    assert not (suite.path / "environment").exists()


@pytest.mark.parametrize("tail", [[], ["--"], ["--mlc-nonsense", "--", "true"], ["true"]])
def test_wrong_use(suite: Suite, tail: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*suite.settings(), *tail])
    assert ended.value.code == 2
    assert "usage: " in capfd.readouterr().err
    assert suite.starts == []


def test_nothing_configured_lists_the_ways(suite: Suite, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--", *python(COMMAND)]) == 2
    shown = capfd.readouterr().err
    assert "--mlc-engine sim" in shown
    assert not (suite.path / "environment").exists()


def test_a_server_that_does_not_start(suite: Suite, capfd: pytest.CaptureFixture[str]) -> None:
    code = main([*suite.settings("exit=0"), "--", *python(COMMAND)])
    assert code not in (0, 2, 127)
    shown = capfd.readouterr().err
    assert "exit code 0" in shown
    assert "leaving as ordered" in shown
    assert not (suite.path / "environment").exists()
    assert len(suite.left_logs) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_command_and_server(suite: Suite, number: signal.Signals) -> None:
    process = suite.spawn(with_server(suite, python(COMMAND, "wait")))
    suite.await_file("environment")
    found = environment(suite)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: the command gets it as well
    else:
        os.kill(process.pid, number)
    code = process.wait(WATCHDOG)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    suite.await_nothing_left()
    port = int(found["OPENAI_BASE_URL"].removesuffix("/v1").rpartition(":")[2])
    await_(lambda: is_free(port), f"the end of the listener on port {port}")
    command = int(found["THIS"])
    if number == signal.SIGKILL:
        os.kill(command, signal.SIGKILL)  # nobody was left to end it
    await_gone(command)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_during_the_start_ends_the_server(suite: Suite, number: signal.Signals) -> None:
    process = suite.spawn(with_server(suite, python(COMMAND), "hang"))
    pid = suite.await_start()
    os.kill(process.pid, number)
    code = process.wait(WATCHDOG)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in suite.output
    await_gone(pid)
    assert not (suite.path / "environment").exists()


def test_a_command_outlives_ctrl_c_if_it_wants_to(suite: Suite) -> None:
    code = """
import signal
signal.signal(signal.SIGINT, lambda *_: sys.exit(42))
"""
    process = suite.spawn(with_server(suite, python(f"import sys\n{code}{COMMAND}", "wait")))
    suite.await_file("environment")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(WATCHDOG) == 42


def test_nobody_who_reads_the_output_waits_for_the_server(suite: Suite) -> None:
    command = with_server(suite, python("print('hello')"))
    done = subprocess.run(
        command, cwd=suite.path, capture_output=True, timeout=WATCHDOG, check=True
    )
    assert done.stdout == b"hello\n"
