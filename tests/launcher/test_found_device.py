"""The device that was found for ``auto``, on the way to the server; and when it is not there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pytest_mlc_server import (
    EngineUnavailableError,
    PopenServer,
    auto_device,
    device_answers,
    preflight,
)
from pytest_mlc_server.sharing import Share
from tests.conftest import await_text
from tests.support_launch import launch_env
from tests.support_server import ask
from tests.support_server import temporary as temporary

Servers = Callable[..., PopenServer]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_answers, "known", {})


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The devices of the machine, as words in a file: they may change."""
    path = tmp_path / "there"
    path.write_text("cuda=1 cpu=1")
    return path


def device_of(server: PopenServer) -> str:
    argv = psutil.Process(server.pid).cmdline()
    return argv[argv.index("--device") + 1] if "--device" in argv else "auto"


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.parametrize("launch", ["plain", "direct"])
def test_auto_becomes_the_device_that_is_there(
    standin: Servers, tmp_path: Path, launch: str
) -> None:
    checked = tmp_path / "checked"
    env = launch_env(f"checked={checked}", tvm="rocm=1 cpu=1")
    server = standin(env=env, launch=launch)
    server.start()
    assert device_of(server) == "rocm"
    assert ask(server)["choices"]
    # Upstream would have checked all six kinds in a process each.
    assert lines(checked) == {"plain": 1, "direct": 0}[launch]
    assert (server.device, server.found.device if server.found else None) == ("auto", "rocm")


@pytest.mark.parametrize("launch", ["plain", "direct"])
def test_without_an_answer_the_server_finds_it_by_itself_and_the_log_says_why(
    standin: Servers, there: Path, launch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        auto_device,
        "_ask",
        lambda *_: device_answers.Answer("", asked_at=time.time(), problem="a bad day"),
    )
    server = standin(env=launch_env(tvm=f"there={there}"), launch=launch)
    server.start()
    assert device_of(server) == "auto"
    log = await_text(Path(str(server.log_path)))
    first = "pytest-mlc-server: mlc_llm finds its device by itself: a bad day\n"
    assert log.startswith(first)
    assert "Using device: cuda:0" in log
    assert ("launched plainly: the command line names no device" in log) == (launch == "direct")


@pytest.mark.parametrize(
    ("launch", "how"),
    [("plain", "start"), ("direct", "start"), ("direct", "begin"), ("direct", "restart"),
     ("direct", "shared")],
)  # fmt: skip
def test_a_device_that_has_gone_is_noticed_and_another_one_found(
    standin: Servers, there: Path, tmp_path: Path, launch: str, how: str
) -> None:
    asked = tmp_path / "asked"
    env = launch_env(tvm=f"there={there} asked={asked}")
    server = standin(env=env, launch=launch)
    server.start()
    assert device_of(server) == "cuda"
    if how != "restart":
        server.terminate()
        server = standin(env=env, launch=launch)
    if how == "shared":
        for name in ("doors", "run"):
            (tmp_path / name).mkdir()
        server.share = Share("k3y", str(tmp_path / "doors"), failures=str(tmp_path / "run"))
    there.write_text("cpu=1")
    if how == "restart":
        server.restart()
    elif how == "begin":
        server.begin()
        server.start()
    else:
        server.start()
    assert device_of(server) == "cpu"
    assert ask(server)["choices"]
    # And it is remembered: the next start fails at nothing.
    again = standin(env=env, launch=launch)
    again.start()
    assert device_of(again) == "cpu"


def test_a_device_that_tvm_sees_and_mlc_llm_does_not_is_an_error_at_once(
    standin: Servers, there: Path, tmp_path: Path
) -> None:
    (tmp_path / "log").write_text(
        "ValueError: Device is not found on your local environment: cuda\n"
    )
    words = f"log={tmp_path / 'log'} started={tmp_path / 'started'} exit=1"
    server = standin(env=launch_env(server=words, tvm=f"there={there}"), launch="direct")
    with pytest.raises(EngineUnavailableError, match="'cuda' is not on this machine"):
        server.start()
    assert lines(tmp_path / "started") == 1


def test_a_mistake_is_told_before_anybody_is_asked(
    standin: Servers, there: Path, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    env = launch_env(tvm=f"there={there} asked={asked}")
    server = standin(env=env, model=str(tmp_path / "no-such-model"))
    with pytest.raises(Exception, match="no-such-model"):
        server.start()
    assert preflight.problems(server.config)
    assert not asked.exists()
