"""``ps``, ``stop`` and ``logs``, on servers of every kind and on none."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_mlc_server import __main__, manage, shared_servers, sharing
from tests.conftest import await_, await_gone
from tests.support_sharing import Shared


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_dir: str) -> Iterator[Shared]:
    """The directory of servers that outlive their runs, below the test's own."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    found = Shared(Path(sharing.reuse_directory()), model_dir)
    yield found
    found.close()


def idle(shared: Shared, *words: str, key: str = "key") -> shared_servers.Found:
    """Have a server that waits for its next user."""
    shared.started(*words, key=key, linger=60.0).terminate()

    def waiting() -> list[shared_servers.Found]:
        servers = shared_servers.found(str(shared.path), key)
        return [one for one in servers if one.status["idle"] is not None]

    found: shared_servers.Found = await_(waiting, "a server that waits")[0]
    return found


def test_without_servers_there_is_nothing_to_do(
    shared: Shared, capsys: pytest.CaptureFixture[str]
) -> None:
    assert manage.main("ps", []) == 0
    assert manage.main("stop", ["--all"]) == 0
    assert capsys.readouterr().out == "no servers\n" * 2
    assert manage.main("ps", ["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    for command in ("stop", "logs"):
        assert manage.main(command, ["abc"]) == 1
        assert "'abc' is no shared server's id: there is none" in capsys.readouterr().err


def test_those_of_runs_are_listed_too(
    shared: Shared, capsys: pytest.CaptureFixture[str], model_dir: str
) -> None:
    waiting = idle(shared)
    used = shared.started(key="other", directory=sharing.run_directory("abc"))
    assert manage.main("ps", ["--json"]) == 0
    listed = {one["pid"]: one for one in json.loads(capsys.readouterr().out)}
    assert set(listed) == set(shared.starts)
    one, other = listed[waiting.status["pid"]], listed[used.pid]
    assert (one["users"], other["users"]) == (0, 1)
    assert one["idle"] >= 0
    assert other["idle"] is None
    assert other["url"] == used.base_url
    for facts in listed.values():
        assert (facts["engine"], facts["model"], facts["state"]) == ("mlc", model_dir, "ready")
        assert Path(facts["log"]).exists()
    assert manage.main("ps", []) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_one_that_is_in_use_is_stopped_as_well_and_its_user_hears_of_it(
    shared: Shared, capsys: pytest.CaptureFixture[str]
) -> None:
    user = shared.started()
    (found,) = shared_servers.everywhere()
    assert manage.main("stop", [found.id]) == 0
    assert capsys.readouterr().out == f"{found.id}: stopped\n"
    await_(lambda: user.poll() == "exited", "the news")
    assert "stopped from outside" in user.trouble


def test_the_beginning_of_an_id_must_mean_one(
    shared: Shared, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = sorted(idle(shared, key=key).id for key in ("a", "b"))
    assert manage.main("stop", [""]) == 1
    error = capsys.readouterr().err
    assert "is the beginning of several ids" in error
    assert all(identifier in error for identifier in ids)
    assert len(shared.alive) == 2
    assert manage.main("stop", [ids[0], ids[0], "zzz"]) == 1
    told = capsys.readouterr()
    assert told.out == f"{ids[0]}: stopped\n"
    assert "'zzz'" in told.err
    assert manage.main("stop", ids[1:]) == 0


def test_a_server_that_ignores_signals_is_killed_within_the_time_limit(
    shared: Shared, capsys: pytest.CaptureFixture[str]
) -> None:
    found = idle(shared, "stubborn")
    assert manage.main("stop", [found.id, "--timeout=0.1"]) == 0
    assert "stopped" in capsys.readouterr().out
    await_gone(found.status["pid"])


def test_logs_are_shown_whole_or_in_part_or_named(
    shared: Shared, capsys: pytest.CaptureFixture[str]
) -> None:
    found = idle(shared, "say=hello")
    log = Path(found.status["log"])
    assert manage.main("logs", [found.id[:3]]) == 0
    assert capsys.readouterr().out == log.read_text()
    assert "hello" in log.read_text()
    assert manage.main("logs", ["-n", "2", found.id]) == 0
    assert capsys.readouterr().out.splitlines() == log.read_text().splitlines()[-2:]
    assert manage.main("logs", ["--path", found.id]) == 0
    assert capsys.readouterr().out == f"{log}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["stop"],
        ["stop", "--all", "abc"],
        ["stop", "--timeout=-1", "--all"],
        ["stop", "--timeout=soon", "--all"],
        ["stop", "--a"],
        ["logs"],
        ["logs", "a", "b"],
        ["ps", "abc"],
    ],
    ids=" ".join,
)
def test_wrong_use_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        manage.main(arguments[0], arguments[1:])
    assert end.value.code == 2
    assert f"usage: python -m pytest_mlc_server {arguments[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["ps", "stop", "logs"])
def test_the_command_line_knows_them(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        raise SystemExit(__main__.main([command, "--help"]))
    assert end.value.code == 0
    assert f"pytest_mlc_server {command}" in capsys.readouterr().out


def test_a_directory_of_somebody_else_is_an_error_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    directory = tmp_path / f"pytest-mlc-server-{os.getuid()}"
    directory.mkdir()
    directory.chmod(0o777)
    assert manage.main("ps", []) == 2
    assert "only this user can use" in capsys.readouterr().err


def test_a_door_of_the_dead_is_not_listed_and_goes(
    shared: Shared, capsys: pytest.CaptureFixture[str]
) -> None:
    found = idle(shared)
    os.kill(found.status["keeper"], signal.SIGKILL)
    await_gone(found.status["pid"])
    assert manage.main("ps", []) == 0
    assert capsys.readouterr().out == "no servers\n"
    assert shared.files == []
