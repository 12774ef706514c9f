"""The server's output: where it goes, where it does not, and how long it stays."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pytest_mlc_server import PopenServer, StartError
from tests.conftest import WATCHDOG, await_
from tests.support_server import STARTED, Kin, ask, holding, kin_of, linux
from tests.support_server import temporary as temporary

Servers = Callable[..., PopenServer]


def contents(directory: Path) -> list[str]:
    own = f"pytest-mlc-server-{os.getuid()}"  # the user's directory for locks stays, empty
    names = sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
    return [name for name in names if name != own]


def log_of(server: PopenServer) -> Path:
    assert server.log_path is not None
    return Path(server.log_path)


def test_the_output_is_in_the_log_and_nowhere_else(
    standin: Servers, capfd: pytest.CaptureFixture[str]
) -> None:
    server = standin("say=some-output")
    server.start()
    ask(server)
    text = log_of(server).read_text()
    assert "stand-in: starting\nsome-output\n" in text  # standard error
    assert '"POST /v1/completions HTTP/1.1"' in text  # standard output
    server.terminate()
    assert capfd.readouterr() == ("", "")


@linux
def test_neither_the_server_nor_its_guardian_has_the_holders_output_or_input(
    tmp_path: Path,
) -> None:
    body = STARTED + "signal.pause()\n"
    with holding(tmp_path, body, f"daemon={tmp_path}/daemon", stdout=subprocess.PIPE) as holder:
        kin = kin_of(tmp_path)
        pids = (kin.server, kin.keeper, kin.watcher, int((tmp_path / "daemon").read_text()))
        pipe = os.readlink(f"/proc/{holder.pid}/fd/1")
        errors = os.readlink(f"/proc/{holder.pid}/fd/2")
        assert pipe.startswith("pipe:")
        for pid in pids:
            open_files = {os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")}
            assert not open_files & {pipe, errors}
        assert os.readlink(f"/proc/{kin.server}/fd/0") == os.devnull
        assert {os.readlink(f"/proc/{kin.server}/fd/{n}") for n in (1, 2)} == {
            str(next(tmp_path.rglob("server-*-1.log")))
        }
    kin.await_gone()


@linux
def test_the_server_inherits_no_descriptor_but_its_output(standin: Servers, tmp_path: Path) -> None:
    inherited = os.open(tmp_path / "inherited", os.O_CREAT | os.O_WRONLY)
    os.set_inheritable(inherited, True)
    try:
        server = standin()
        server.start()
        kin = Kin.of(server)
        for pid in (kin.server, kin.keeper, kin.watcher):
            links = [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
            assert str(tmp_path / "inherited") not in links
        assert psutil.Process(kin.server).net_connections("unix") == []
    finally:
        os.close(inherited)


def test_after_a_good_stop_the_temporary_log_is_gone(standin: Servers, temporary: Path) -> None:
    server = standin()
    server.start()
    log = log_of(server)
    assert log.parent.parent == temporary
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    server.terminate()
    assert contents(temporary) == []
    assert server.log_path is None


def test_after_a_failed_start_the_log_is_kept(standin: Servers, temporary: Path) -> None:
    server = standin("say=why-it-failed", "exit=1")
    with pytest.raises(StartError) as caught:
        server.start()
    server.terminate()
    log = log_of(server)
    assert str(log) == caught.value.log_path
    assert "why-it-failed" in log.read_text()
    assert log.is_relative_to(temporary)


def test_a_log_that_somebody_asked_to_keep_is_kept(standin: Servers) -> None:
    server = standin()
    server.start()
    server.keep_log = True
    server.terminate()
    assert "Uvicorn running" in log_of(server).read_text()


def test_logs_in_a_directory_of_ones_own_stay_and_are_not_overwritten(
    standin: Servers, tmp_path: Path, temporary: Path
) -> None:
    directory = tmp_path / "made" / "by us"
    servers = [standin("say=first", log_dir=directory), standin("say=second", log_dir=directory)]
    paths = []
    for server in servers:
        server.start()
        paths.append(log_of(server))
    for server in servers:
        server.terminate()
    servers[0].start(extra_env={"STANDIN": "say=third"})
    paths.append(log_of(servers[0]))
    servers[0].terminate()
    assert sorted(str(path.relative_to(directory)) for path in paths) == contents(directory)
    assert ["first" in paths[0].read_text(), "second" in paths[1].read_text()] == [True, True]
    assert "third" in paths[2].read_text()
    assert contents(temporary) == []


def test_a_relative_log_directory_is_found_again_after_a_change_of_directory(
    standin: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    server = standin(log_dir="logs")
    server.start()
    monkeypatch.chdir("elsewhere")
    assert log_of(server).is_absolute()
    assert log_of(server).parent == tmp_path.resolve() / "logs"
    server.terminate()
    assert log_of(server).is_file()


def test_a_server_that_writes_megabytes_while_it_starts_becomes_ready(standin: Servers) -> None:
    server = standin("flood=20000")
    server.start()
    assert log_of(server).stat().st_size > 20_000_000
    assert ask(server)["choices"]


def test_a_server_that_closes_its_output_becomes_ready(standin: Servers) -> None:
    server = standin("mute")
    server.start()
    assert ask(server)["choices"]
    assert log_of(server).read_text() == "stand-in: starting\n"


def test_the_log_of_a_holder_that_was_killed_stays(tmp_path: Path) -> None:
    with holding(tmp_path, STARTED + "os.kill(os.getpid(), signal.SIGKILL)") as holder:
        kin = kin_of(tmp_path)
        holder.wait(WATCHDOG)
        kin.await_gone()
    (log,) = tmp_path.rglob("server-*-1.log")
    assert "Uvicorn running" in log.read_text()


def test_a_live_log_is_copied_as_it_comes(standin: Servers, tmp_path: Path) -> None:
    terminal = tmp_path / "terminal"
    output = os.open(terminal, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    server = standin("say=some-output", log_live=True)
    server.live_output = output
    server.start()
    await_(lambda: "[server] some-output\n" in terminal.read_text(), "the copy")
    ask(server)
    server.terminate()
    os.close(output)
    lines = terminal.read_text().splitlines()
    assert all(line.startswith("[server] ") for line in lines)
    assert any("POST /v1/completions" in line for line in lines)


def test_a_live_log_has_the_last_words_of_a_failed_start(standin: Servers, tmp_path: Path) -> None:
    terminal = tmp_path / "terminal"
    output = os.open(terminal, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    server = standin("exit=1", log_live=True)
    server.live_output = output
    with pytest.raises(StartError):
        server.start()
    os.close(output)
    assert terminal.read_text().endswith("[server] stand-in: leaving as ordered\n")


def test_a_log_directory_that_vanished_is_made_again(standin: Servers, tmp_path: Path) -> None:
    server = standin(log_dir=tmp_path / "logs")
    for _ in range(2):
        server.start()
        assert log_of(server).parent == tmp_path / "logs"
        server.terminate()
        shutil.rmtree(tmp_path / "logs")
