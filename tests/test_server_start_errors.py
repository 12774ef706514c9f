"""A start that fails: when, with which words, and with nothing left."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_mlc_server import ConfigError, PopenServer, StartError, errors
from tests.conftest import WATCHDOG, await_gone
from tests.support_server import temporary as temporary

Failing = Callable[..., StartError]


@pytest.fixture
def failing(standin: Callable[..., PopenServer], tmp_path: Path) -> Failing:
    """Start a server that must fail to start; return the error, nothing being left of it."""
    started = tmp_path / "started"

    def fail(*words: str, **options: Any) -> StartError:
        server = standin(f"started={started}", *words, **options)
        with pytest.raises(RuntimeError) as caught:
            server.start()
        error = caught.value
        assert isinstance(error, StartError)
        for pid in started.read_text().split() if started.exists() else []:
            await_gone(int(pid))
        assert (server.pid, server.is_alive()) == (None, False)
        assert error.log_path == server.log_path
        assert error.log_path is not None
        return error

    return fail


@pytest.mark.parametrize(
    ("order", "returncode", "text"),
    [
        ("exit=0", 0, "exit code 0"),
        ("exit=3", 3, "exit code 3"),
        ("exit=69", 69, "exit code 69"),
        (f"die={signal.SIGSEGV:d}", -11, "killed by SIGSEGV (signal 11)"),
        (f"die={signal.SIGKILL:d}", -9, "killed by SIGKILL (signal 9)"),
    ],
)
def test_a_server_that_ends_while_it_starts_ends_the_wait_at_once(
    failing: Failing, order: str, returncode: int, text: str
) -> None:
    error = failing(order, startup_timeout=100 * WATCHDOG)
    assert error.returncode == returncode
    assert f"its process ended ({text})" in str(error)


def test_the_error_has_all_that_one_wants_to_know(
    failing: Failing, model_dir: str, tmp_path: Path
) -> None:
    error = failing("exit=3", "say=cause:a-broken-thing", cwd=tmp_path, api_key="sk-s3cret")
    text = str(error)
    assert text.startswith("the MLC server did not start: ")
    assert re.search(r"exit code 3\).* after \d+\.\d s", text)
    command = next(line for line in text.splitlines() if line.startswith("command: "))
    assert f"{sys.executable} -m mlc_llm serve {model_dir} " in command
    assert "--api-key" in command
    assert f"directory: {tmp_path}" in text
    assert f"log: {error.log_path}" in text
    assert text.endswith("stand-in: starting\ncause:a-broken-thing\nstand-in: leaving as ordered")


def test_secrets_are_masked(failing: Failing) -> None:
    error = failing("exit=3", api_key="sk-s3cret", env={"HF_TOKEN": "hf-t0ken"})
    shown = f"{error}\n{error!r}\n{error.brief}"
    assert "sk-s3cret" not in shown
    assert "hf-t0ken" not in shown


def test_of_a_long_log_the_last_lines_are_shown(failing: Failing) -> None:
    error = failing("flood=3000", "exit=1")
    assert str(error).endswith(f"\n{'x' * 1000}\nstand-in: leaving as ordered")
    assert len(str(error)) < 100_000


@pytest.mark.parametrize(
    ("order", "evidence"),
    [
        ("hang", "listened on no TCP port"),
        ("silent", "GET /v1/models"),
        ("wedged", "POST /v1/completions"),
        ("models-status=503", "GET /v1/models answers 503: "),
        ("generate-status=503", "answers 503: "),
    ],
)
def test_a_server_that_does_not_become_ready_in_time_is_stopped_and_explained(
    failing: Failing, order: str, evidence: str
) -> None:
    for limit in (1.5, 6.0, 24.0):  # on a busy machine it takes longer to come as far as that
        error = failing(order, startup_timeout=limit)
        assert f"it was not ready within {limit:g} s" in str(error)
        assert "--mlc-startup-timeout" in str(error)
        if evidence in str(error):
            break
    assert evidence in str(error)


def test_the_time_limit_holds_for_a_server_that_ignores_signals(failing: Failing) -> None:
    error = failing("hang", "stubborn", startup_timeout=1.0, stop_timeout=20.0)
    assert "it was not ready within 1 s" in str(error)


@pytest.mark.parametrize(
    ("order", "evidence"),
    [
        ("lists=other-model", "GET /v1/models lists other-model, not "),
        ("not-json", "GET /v1/models is not JSON: <html>hello</html>"),
        ("models-status=401", 'GET /v1/models answers 401: {"detail": "as ordered"}'),
        ("models-status=500", "GET /v1/models answers 500: "),
        ("generate-status=500", "POST /v1/completions (one token) answers 500: "),
    ],
)
def test_a_server_that_answers_wrongly_is_refused_at_once(
    failing: Failing, order: str, evidence: str
) -> None:
    error = failing(order, startup_timeout=100 * WATCHDOG)
    assert "it answers, but not as this server should" in str(error)
    assert evidence in str(error)
    assert re.search(r"http://127\.0\.0\.1:\d+: ", str(error))


def test_a_refused_key_says_how_to_set_the_key(failing: Failing) -> None:
    assert "--mlc-api-key" in str(failing("models-status=401"))


@pytest.mark.parametrize("words", [("engine-dies",), ("stubborn", "engine-dies")])
def test_an_engine_that_dies_in_a_process_that_lives_on_ends_the_wait(
    failing: Failing, words: tuple[str, ...]
) -> None:
    error = failing(*words, startup_timeout=100 * WATCHDOG)
    assert re.search(r"its engine .*died", str(error))
    assert "RuntimeError: Cannot open params_shard_0.bin\n1. first advice\n2. second advice" in str(
        error
    )
    assert error.brief.count("\n") == 0
    assert "Cannot open params_shard_0.bin" in error.brief


def test_a_program_that_cannot_be_executed_is_named(
    standin: Callable[..., PopenServer], tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/no/such/interpreter\n")
    python.chmod(0o755)
    server = standin(python=python, log_dir=tmp_path)
    with pytest.raises(StartError, match=f"cannot execute {python}: No such file") as caught:
        server.start()
    assert "the log is empty" in str(caught.value)


def test_a_mistake_that_is_found_before_the_start_leaves_no_log(
    standin: Callable[..., PopenServer], tmp_path: Path
) -> None:
    server = standin(model=str(tmp_path), log_dir=tmp_path / "logs")
    with pytest.raises(ConfigError, match=r"no mlc-chat-config\.json"):
        server.start()
    assert not (tmp_path / "logs").exists()
    assert server.log_path is None


def test_after_a_failed_start_the_server_can_be_started(
    standin: Callable[..., PopenServer], tmp_path: Path
) -> None:
    server = standin("exit=3", log_dir=tmp_path)
    with pytest.raises(StartError):
        server.start()
    first = server.log_path
    server.start(extra_env={"STANDIN": ""})
    assert server.is_alive()
    assert server.log_path != first
    assert "leaving as ordered" in Path(first or "").read_text()


def test_the_block_of_a_with_statement_is_not_run_without_a_server(
    standin: Callable[..., PopenServer], tmp_path: Path
) -> None:
    run = []
    with pytest.raises(StartError), standin("exit=3", log_dir=tmp_path):
        run.append("the block")
    assert run == []


@pytest.mark.parametrize("words", [("daemon={0}", "scrub"), ("respawn={0}",)])
def test_what_a_failed_server_started_is_gone_with_it(
    failing: Failing, tmp_path: Path, words: tuple[str, ...]
) -> None:
    left = tmp_path / "left"
    failing(*(word.format(left) for word in words), "exit=1")
    pids = {int(pid) for pid in left.read_text().split()}
    assert pids
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []


def test_without_mlc_llm_the_error_is_the_remedy(
    standin: Callable[..., PopenServer], tmp_path: Path
) -> None:
    server = standin(env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path, log_dir=tmp_path)
    with pytest.raises(errors.EngineUnavailableError, match="has no module mlc_llm") as caught:
        server.start()
    assert sys.executable in str(caught.value)
    assert "--mlc-engine sim" in str(caught.value)
