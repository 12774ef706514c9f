"""A server that a warm parent forks: it is started, watched and stopped as any other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from pytest_mlc_server import StartError, doors, engines, shared_servers, warm
from pytest_mlc_server.guardian.forked import WAITING
from tests.conftest import STANDIN, WATCHDOG, await_, await_gone, await_text
from tests.support_launch import launch_env
from tests.support_server import ask, kill, linux
from tests.support_warm import Kin, Warm, log_of, was_forked
from tests.support_warm import forks as forks

pytestmark = [linux, pytest.mark.slow]


def test_servers_are_forked_from_one_parent_that_ends_after_the_last(forks: Warm) -> None:
    first, second = forks.started(), forks.started()
    kin, other = Kin.of(first), Kin.of(second)
    assert kin.parent == other.parent
    assert kin.server != other.server
    for server in (first, second):
        assert ask(server)["choices"]
    first.terminate()
    kin.await_gone("server", "reaper", "keeper", "watcher")
    assert ask(second)["choices"]
    second.terminate()
    assert "parent" in other.alive()
    forks.parents.close()
    other.await_gone()


def test_the_end_of_a_server_is_reported_with_its_code(forks: Warm) -> None:
    server = forks.started()
    ask_and_lose(server, "crash")
    await_(lambda: server.poll() == "exited", "the end of the server")
    assert server.returncode == -signal.SIGSEGV
    assert "killed by SIGSEGV" in server.trouble
    server.restart()
    assert was_forked(server)
    assert ask(server)["choices"]


def ask_and_lose(server: object, prompt: str) -> None:
    import requests

    with pytest.raises(requests.RequestException):
        ask(server, prompt)  # type: ignore[arg-type]


def test_a_server_that_exits_while_it_starts_fails_as_any_other(forks: Warm) -> None:
    with pytest.raises(StartError, match="exit code 7") as caught:
        forks.started(server="exit=7")
    assert "stand-in: leaving as ordered" in str(caught.value)


def test_a_wedged_server_is_found_and_started_again_from_the_same_parent(forks: Warm) -> None:
    server = forks.started()
    kin = Kin.of(server)
    ask_and_lose(server, "wedge")
    await_(lambda: server.poll() == "wedged", "the death of its engine")
    server.restart()
    again = Kin.of(server)
    assert (again.parent, again.keeper) == (kin.parent, kin.keeper)
    assert again.server != kin.server
    kin.await_gone("server", "reaper")


def test_it_is_stopped_in_order(forks: Warm, tmp_path: Path) -> None:
    server = forks.started(server=f"clean={tmp_path / 'clean'}")
    server.terminate()
    assert (tmp_path / "clean").read_text() == "closed in order"
    assert server.returncode == 0


def test_what_it_left_is_ended_with_it_a_daemon_without_environment_too(
    forks: Warm, tmp_path: Path
) -> None:
    server = forks.started(server=f"daemon={tmp_path / 'daemon'} scrub")
    daemon = int(await_text(tmp_path / "daemon"))
    assert psutil.Process(daemon).ppid() == Kin.of(server).reaper
    server.terminate()
    assert not psutil.pid_exists(daemon)


def test_a_reaper_that_is_stopped_does_not_hold_up_the_end(forks: Warm) -> None:
    server = forks.started()
    kin = Kin.of(server)
    os.kill(kin.reaper, signal.SIGSTOP)
    server.terminate()
    kin.await_gone("server", "reaper")


def test_the_secret_comes_over_a_descriptor(forks: Warm) -> None:
    server = forks.started(api_key="of this test alone")
    assert was_forked(server)
    assert ask(server)["choices"]
    assert server.pid is not None
    assert not any("of this test" in word for word in psutil.Process(server.pid).cmdline())


def test_a_directory_that_is_not_there_is_told(forks: Warm, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    server = forks.handle(cwd=gone)
    forks.started()  # the parent began elsewhere
    server.begin()
    # What the preflight looks at is there; the keeper's question comes later.
    server.terminate()
    gone.rmdir()
    with pytest.raises(Exception, match="gone"):
        server.start()


# --- what a process is given ----------------------------------------------------------------------

#: What differs between two processes, or is only the kernel's.
OWN = {"pid", "ppid", "random", "c_environment"}


def test_it_is_what_a_process_is_that_was_launched_directly(forks: Warm, tmp_path: Path) -> None:
    facts = {}
    (tmp_path / "there").mkdir()
    for launch in ("direct", "warm"):
        path = tmp_path / f"facts-{launch}"
        # The parent has another directory, environment and secret.
        forks.started(env={"ONLY": "the first"}).terminate()
        server = forks.started(
            f"facts={path}",
            launch=launch,
            api_key="a key",
            cwd=tmp_path / "there",
            env={"TZ": "UTC", "STANDIN_LAUNCH": f"facts={path}"},
        )
        assert was_forked(server) == (launch == "warm")
        facts[launch] = json.loads(path.read_text())
        server.terminate()
    for found in facts.values():
        for name in ("PYTEST_MLC_SERVER_MARK", "STANDIN_LAUNCH"):
            del found["environment"][name]
        for number in ("1", "2"):
            assert found["descriptors"].pop(number).startswith(str(tmp_path / "temporary"))
        found["descriptors"] = [
            path for path in found["descriptors"].values() if "/facts-" not in path
        ]
    assert facts["warm"]["random"] != facts["direct"]["random"]
    for found in facts.values():
        for name in OWN:
            del found[name]
    assert facts["warm"] == facts["direct"]


def test_its_own_command_line_is_shown(forks: Warm) -> None:
    server = forks.started()
    assert server.pid is not None
    words = psutil.Process(server.pid).cmdline()
    assert words[:4] == [os.path.basename(sys.executable), "-m", "mlc_llm", "serve"]
    assert server.model.startswith(words[4])


def test_the_kernel_shows_its_own_mark(forks: Warm) -> None:
    first, second = forks.started(), forks.started()
    marks = set()
    for server in (first, second):
        assert server.pid is not None
        marks.add(psutil.Process(server.pid).environ()["PYTEST_MLC_SERVER_MARK"])
        assert server._lease is not None
        assert server._lease.mark in marks
    assert len(marks) == 2


# --- a parent that cannot ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("thread", "the thread 'at-import' runs in it"),
        ("native=2", "2 native threads run in it"),
        ("import-fails", "importing mlc_llm failed: ImportError"),
    ],
)
def test_a_parent_that_cannot_fork_says_why_and_the_server_is_launched_directly(
    forks: Warm, words: str, reason: str, tmp_path: Path
) -> None:
    logs = []
    for _ in range(2):
        server = forks.handle(words, f"import-gate={tmp_path / 'gate'}")
        server.begin()
        while not (tmp_path / "gate").exists():
            assert server._pending is not None
            message = server._pending.next(WATCHDOG)
            assert message is not None
            if message.get("phase") == WAITING:
                (tmp_path / "gate").touch()
        if words == "import-fails":
            with pytest.raises(StartError, match="undefined symbol, as ordered") as caught:
                server.start()
            logs.append(Path(caught.value.log_path or "").read_text())
        else:
            server.start()
            assert not was_forked(server)
            logs.append(log_of(server))
        # It has told this process before it went.
        await_(lambda: shared_servers.found(warm.directory()) == [], "the end of the parent")
    assert f"--- not forked from the warm parent: {reason}" in logs[0]
    assert f"--- not forked from a warm parent: {reason}" in logs[1]


def test_a_server_with_another_environment_has_another_parent(forks: Warm) -> None:
    first = forks.started(env={"MLC_JIT_POLICY": "READONLY"})
    second = forks.started(env={"MLC_JIT_POLICY": "OFF"})
    third = forks.started(env={"MLC_JIT_POLICY": "OFF", "ANYTHING": "else"})
    parents = [Kin.of(server).parent for server in (first, second, third)]
    assert parents[0] != parents[1] == parents[2]


def test_a_parent_that_was_killed_is_followed_by_another(forks: Warm) -> None:
    server = forks.started()
    kin = Kin.of(server)
    kill(kin.parent)
    await_(lambda: server.poll() == "exited", "the end of the server")
    assert "the warm parent that it was forked from has ended" in server.trouble
    kin.await_gone("server", "reaper", "parent", "parent_keeper", "parent_watcher")
    server.restart()
    again = Kin.of(server)
    assert again.keeper == kin.keeper
    assert again.parent != kin.parent
    await_gone(kin.parent)


# --- a parent that is out of date, or does not fit ------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    """The environment of servers that find packages in a directory of the test's own."""
    path = tmp_path / "site"
    path.mkdir()
    (path / "thing-1.0.dist-info").mkdir()
    return {"PYTHONPATH": os.pathsep.join((str(path), launch_env()["PYTHONPATH"]))}


def test_an_installation_makes_the_parent_stale_and_a_new_one_is_started(
    forks: Warm, site: dict[str, str], tmp_path: Path
) -> None:
    first = forks.started(env=site)
    kin = Kin.of(first)
    (tmp_path / "site" / "thing-1.0.dist-info").rename(tmp_path / "site" / "thing-2.0.dist-info")
    second = forks.started(env=site)
    assert Kin.of(second).parent != kin.parent
    assert ask(first)["choices"]
    first.restart()
    assert Kin.of(first).parent == Kin.of(second).parent
    kin.await_gone("server", "reaper", "parent", "parent_keeper", "parent_watcher")


def test_a_stale_parent_refuses_whoever_has_not_looked(
    forks: Warm, site: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kin = Kin.of(forks.started(env=site))
    (tmp_path / "site" / "late.pth").write_text("")
    monkeypatch.setattr(warm._Held, "trouble", lambda _: None)
    server = forks.started(env=site)
    assert not was_forked(server)
    assert "late.pth in" in log_of(server)
    monkeypatch.undo()
    assert Kin.of(forks.started(env=site)).parent not in (kin.parent, server.pid)


@pytest.mark.parametrize(("name", "forked"), [("json.py", False), ("unrelated.py", True)])
def test_a_directory_that_would_change_the_imports_is_launched_in_directly(
    forks: Warm, tmp_path: Path, name: str, forked: bool
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / name).write_text("raise ImportError('no json')\n")
    forks.started()
    if forked:
        assert was_forked(forks.started(cwd=place))
        return
    if "COVERAGE_PROCESS_CONFIG" in os.environ:
        pytest.skip("whoever counts lines has imported json already")
    # As it would be without this package.
    with pytest.raises(StartError, match="no json") as caught:
        forks.started(cwd=place)
    log = Path(caught.value.log_path or "").read_text()
    assert f"{place / name} would be imported instead of" in log


def test_the_pool_of_a_numpy_that_the_package_imports_forbids_nothing(
    forks: Warm, tmp_path: Path
) -> None:
    tvm = tmp_path / "numeric" / "tvm"
    tvm.mkdir(parents=True)
    original = STANDIN / "tvm"
    (tvm / "__init__.py").write_text(
        f"import numpy\n__path__ = [{str(original)!r}]\n"
        f"exec(open({str(original / '__init__.py')!r}).read())\n"
    )
    path = os.pathsep.join((str(tvm.parent), launch_env()["PYTHONPATH"]))
    env = {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "3"}
    for server in (forks.started(env=env), forks.started(env=env)):
        assert was_forked(server)


def test_a_handle_without_a_session_holds_the_parent_through_its_keeper_alone(forks: Warm) -> None:
    server = forks.handle()
    server.parents = None
    server.start()
    kin = Kin.of(server)
    server.restart()
    assert Kin.of(server).parent == kin.parent
    server.terminate()
    kin.await_gone()


def test_a_parent_that_does_not_get_ready_is_not_waited_for_longer_than_a_start_may_take(
    forks: Warm, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    hasty = forks.handle(f"import-gate={gate}", startup_timeout=0.3).config
    assert not isinstance(forks.parents.place(engines.plan(hasty, mark=""), hasty), str)
    server = forks.handle(f"import-gate={gate}")
    server.begin()
    (held,) = forks.parents._held.values()
    await_(lambda: (held.trouble() or ("", False))[0], "the end of the parent's start")
    gate.touch()
    server.start()
    assert not was_forked(server)


@pytest.mark.parametrize("said", [b"", b"nonsense\n", b"fork\n", b"fork", b"\xff" * 5000])
def test_whoever_says_nonsense_to_a_parent_is_sent_away(forks: Warm, said: bytes) -> None:
    first = forks.started()
    (held,) = forks.parents._held.values()
    with doors.connect(warm.Place(held.door, 0.0).socket) as guest:
        guest.settimeout(WATCHDOG)
        with contextlib.suppress(BrokenPipeError):
            guest.sendall(said)
        guest.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while guest.recv(4096):
                pass
    second = forks.started()
    assert Kin.of(first).parent == Kin.of(second).parent


def test_a_request_that_cannot_be_read_is_refused(forks: Warm, tmp_path: Path) -> None:
    forks.started()
    (held,) = forks.parents._held.values()
    (tmp_path / "request").write_text('{"argv": 7}')
    file = os.open(tmp_path / "request", os.O_RDONLY)
    with doors.connect(warm.Place(held.door, 0.0).socket) as guest:
        socket.send_fds(guest, [b"fork\n"], [file, file])
        answer = json.loads(guest.makefile().readline())
    os.close(file)
    assert answer["event"] == "failed"
    assert "the request cannot be read" in answer["problem"]


@pytest.mark.parametrize(
    ("change", "event", "reason"),
    [
        ({"cwd": "/nowhere/at/all"}, "failed", "cannot enter the directory /nowhere/at/all: No"),
        ({"env": "unmarked"}, "refused", "the mark of its environment cannot be replaced"),
        ({"env": {}}, "refused", "its environment differs in what imports read: HOME, "),
    ],
)
def test_what_a_fork_cannot_do_is_told_from_what_no_process_could(
    forks: Warm, tmp_path: Path, change: dict[str, object], event: str, reason: str
) -> None:
    server = forks.started(env={"HOME": str(tmp_path)})
    env = {**server._plan.env, "PYTEST_MLC_SERVER_MARK": "0" * 32}
    request = {"argv": [], "cwd": "/", "umask": 0, "mark": "PYTEST_MLC_SERVER_MARK"}
    request |= {"secret": False, "env": env, **change}
    if request["env"] == "unmarked":  # the block that the kernel shows has no room for it
        request["env"] = {**env, "PYTEST_MLC_SERVER_MARK": "longer" * 32}
    (tmp_path / "request").write_text(json.dumps(request))
    (held,) = forks.parents._held.values()
    descriptors = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("request", "log")]
    with doors.connect(warm.Place(held.door, 0.0).socket) as guest:
        socket.send_fds(guest, [b"fork\n"], descriptors)
        answer = json.loads(guest.makefile().readline())
    for descriptor in descriptors:
        os.close(descriptor)
    assert answer["event"] == event
    assert reason in answer["reason"]
