"""Several holders of one server: found or started, never stopped under a user, gone after all."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import ConfigError, PopenServer, StartError, runtime, shared_servers, sharing
from tests.conftest import await_, await_gone
from tests.support_server import ask
from tests.support_sharing import Shared, User, keeper_of, shared, together, users, watcher_of

__all__ = ["shared", "users"]  # fixtures


# --- one name for all -----------------------------------------------------------------------------


def test_the_first_one_decides(tmp_path: Path) -> None:
    assert sharing.agreed(str(tmp_path), "key", lambda: "first") == "first"
    assert sharing.agreed(str(tmp_path), "key", lambda: "second") == "first"
    assert sharing.agreed(str(tmp_path), "other", lambda: "second") == "second"


def test_who_was_overtaken_takes_what_the_other_one_computed(tmp_path: Path) -> None:
    def slow() -> str:
        sharing.agreed(str(tmp_path), "key", lambda: "fast")
        return "slow"

    assert sharing.agreed(str(tmp_path), "key", slow) == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["key.agreed"]


# --- one for all ----------------------------------------------------------------------------------


def test_processes_that_ask_at_the_same_moment_get_one_server(
    shared: Shared, users: Callable[..., list[User]]
) -> None:
    several = users(5)
    for user in several:
        user.say("start")
    told = [user.hear() for user in several]
    assert len(shared.starts) == 1
    assert {one["pid"] for one in told} == set(shared.starts)
    assert {one["state"] for one in told} == {"ready"}
    first, second, *rest = several
    first.kill()  # the one that may have started it, in no order
    assert second.does("terminate")["state"] == "stopped"
    for user in rest:
        assert user.does("check")["state"] == "ready"
        assert len(shared.alive) == 1
        user.kill() if user is rest[0] else user.does("terminate")
    await_gone(shared.starts[0])
    await_(lambda: shared.files == [], "the removal of the door")


def test_threads_that_ask_at_the_same_moment_get_one_server(shared: Shared) -> None:
    handles = [shared.handle() for _ in range(8)]
    assert together(*(one.start for one in handles)) == [None] * 8
    assert len(shared.starts) == 1
    for one in handles:
        assert one.poll() == "ready"
        assert ask(one)["choices"]
        one.terminate()
    await_gone(shared.starts[0])


def test_whoever_comes_while_it_starts_waits_for_the_same_start(
    shared: Shared, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    first, second = shared.handle(f"wait={go}"), shared.handle(f"wait={go}")
    first.begin()
    second.begin()
    await_(lambda: shared.starts, "the start")
    first.terminate()  # whoever began it need not be the one who uses it
    go.touch()
    second.start()
    assert shared.starts == [second.pid]
    assert second.poll() == "ready"


def test_a_start_that_nobody_waits_for_any_more_is_given_up(shared: Shared) -> None:
    handles = [shared.handle("hang") for _ in range(3)]
    for one in handles:
        one.begin()
    (pid,) = await_(lambda: shared.starts, "the start")
    for one in handles:
        one.terminate()
    await_gone(pid)


@pytest.mark.parametrize("linger", [0.0, 60.0])
def test_who_comes_as_the_last_one_leaves_has_a_server(shared: Shared, linger: float) -> None:
    holder = shared.started(linger=linger)
    for _ in range(12):
        comer = shared.handle(linger=linger)
        assert together(holder.terminate, comer.start) == [None, None]
        assert comer.poll() == "ready"
        assert ask(comer)["choices"]
        assert shared.alive == [comer.pid]  # never two at once: one GPU has no room for that
        holder = comer
    if linger:
        assert len(shared.starts) == 1


def test_other_keys_have_other_servers(shared: Shared) -> None:
    first, second = shared.started(key="a"), shared.started(key="ab")
    assert first.pid != second.pid
    assert shared.starts == [first.pid, second.pid]


def test_the_port_that_was_given_is_free_again_for_who_comes_next(shared: Shared) -> None:
    holder = shared.started()
    port = holder.port
    given = {"config": {"port": port}}
    holder.terminate()
    for _ in range(4):
        comer = shared.handle(**given)
        assert together(holder.terminate, comer.start) == [None, None]
        assert comer.port == port
        holder = comer


def test_a_doorway_with_a_long_path_is_as_good(shared: Shared, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["x" * 60] * 3)
    deep.mkdir(parents=True)
    first = shared.started(directory=str(deep))
    second = shared.started(directory=str(deep))
    assert first.pid == second.pid
    (door,) = deep.glob("*.door")
    assert len(os.fsencode(door)) > 107
    (found,) = shared_servers.found(str(deep))
    assert found.status["leases"] == 2
    first.terminate()
    second.terminate()
    await_(lambda: not list(deep.glob("*.door")), "the removal of the door")


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("orders", [("exit=3", "say=no-memory"), ("engine-dies",)])
def test_a_failed_start_is_tried_once_and_told_to_all_in_the_same_words(
    shared: Shared, orders: tuple[str, ...], tmp_path: Path
) -> None:
    failures = str(tmp_path)
    handles = [shared.handle(*orders, failures=failures) for _ in range(4)]
    errors = together(*(one.start for one in handles))
    errors += together(shared.handle(*orders, failures=failures).start)
    assert len(shared.starts) == 1
    assert {type(error) for error in errors} == {StartError}
    assert len({str(error) for error in errors}) == 1
    assert "log: " in str(errors[0])
    assert all(Path(error.log_path).exists() for error in errors)
    assert [one.poll() for one in handles] == ["stopped"] * 4


def test_without_a_run_a_failed_start_is_tried_again(shared: Shared) -> None:
    for _ in range(2):
        with pytest.raises(StartError, match="exit code 3"):
            shared.handle("exit=3").start()
    assert len(shared.starts) == 2


def test_what_is_wrong_before_a_start_leaves_no_door(shared: Shared, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        shared.handle(config={"model": str(tmp_path / "nowhere")}).start()
    assert shared.files == []
    assert shared.starts == []


def await_exited(one: PopenServer) -> None:
    """Wait until a holder has heard that its server has ended."""
    await_(lambda: one.poll() == "exited", "the news of its end")


# --- deaths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "victim", [lambda one: one.pid, keeper_of], ids=["the server", "its keeper"]
)
def test_after_a_death_it_is_started_once_for_all(
    shared: Shared, victim: Callable[[PopenServer], int]
) -> None:
    handles = [shared.started() for _ in range(4)]
    os.kill(victim(handles[0]), signal.SIGKILL)
    for one in handles:
        await_exited(one)
    together(*(one.restart for one in handles))
    assert [one.poll() for one in handles] == ["ready"] * 4
    assert len(shared.starts) == 2
    assert {one.pid for one in handles} == {shared.starts[1]}
    assert all(len(one.troubles) == 1 for one in handles)
    assert "killed" in handles[0].troubles[0]


def test_who_hears_late_of_a_death_does_not_restart_what_another_restarted(shared: Shared) -> None:
    first, second = shared.started(), shared.started()
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    for one in (first, second):
        await_exited(one)
    first.restart()
    assert len(second.troubles) == 1
    second.settle()
    second.terminate()
    assert first.check() == "ready"
    assert len(shared.starts) == 2


def test_awatcher_of_that_is_killed_costs_nobody_a_working_server(shared: Shared) -> None:
    handles = [shared.started() for _ in range(2)]
    os.kill(watcher_of(handles[0]), signal.SIGKILL)
    for one in handles:
        if one.check() != "ready":
            one.restart()
        assert ask(one)["choices"]
    assert len(shared.alive) == 1


def test_a_second_death_is_a_second_restart(shared: Shared) -> None:
    handles = [shared.started() for _ in range(2)]
    for generation in (1, 2):
        assert handles[0].pid is not None
        os.kill(handles[0].pid, signal.SIGKILL)
        for one in handles:
            await_exited(one)
        together(*(one.restart for one in handles))
        assert [one.restarts for one in handles] == [generation] * 2
    assert len(shared.starts) == 3


# --- what earlier users left ----------------------------------------------------------------------


def _dead(path: Path, facts: str | None = None) -> None:
    share = sharing.Share(key="key", directory=str(path))
    door = sharing.open_door(share, own_log=False)
    door.listener.close()
    if facts is not None:
        Path(door.info).write_text(facts)


STALE: dict[str, Callable[[Path], Any]] = {
    "a door of the dead": _dead,
    "a file": lambda path: (path / "key.0.door").write_text("no socket"),
    "a directory": lambda path: (path / "key.0.door").mkdir(),
    "a link to nowhere": lambda path: (path / "key.0.door").symlink_to(path / "nowhere"),
    "no JSON": lambda path: (path / "key.0.json").write_text("{"),
    "a lock": lambda path: (path / "key.lock").write_text("1"),
    **{
        f"a door of the dead with {facts}": partial(_dead, facts=facts)
        for facts in (
            "",
            "[]",
            '{"keeper": "x"}',
            '{"keeper": null}',
            '{"keeper": 1, "keeper_start": "0"}',
            '{"keeper": -1, "stop_timeout": []}',
        )
    },
}


@pytest.mark.parametrize("stale", STALE)
def test_what_the_dead_have_left_is_in_nobodys_way(shared: Shared, stale: str) -> None:
    STALE[stale](shared.path)
    first, second = shared.started(), shared.started()
    assert shared.starts == [first.pid]
    assert second.pid == first.pid
    assert len(shared_servers.found(str(shared.path))) == 1
    first.terminate()
    second.terminate()
    await_gone(shared.starts[0])
    for path in shared.doors:
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["reuse", "run-x"])
@pytest.mark.parametrize("wrong", ["mode", "owner", "link"])
def test_a_directory_that_others_may_write_to_is_refused(
    name: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = Path(runtime.directory(), name)
    if wrong == "link":
        path.symlink_to(tmp_path)
    else:
        path.mkdir(mode=0o700)
    if wrong == "mode":
        path.chmod(0o770)
    if wrong == "owner":
        if os.getuid() != 0:
            pytest.skip("only root can give a directory away")
        os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="must be a directory that only this user can use"):
        sharing.reuse_directory() if name == "reuse" else sharing.run_directory("x")


def test_a_lock_that_nobody_frees_is_an_error_that_says_so(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "LOCK_WITHIN", 0.05)
    with sharing.locked(shared.share()), pytest.raises(StartError, match=r"key\.lock"):
        shared.handle().start()
    shared.started()


def test_a_lock_file_that_was_removed_meanwhile_locks_nothing(shared: Shared) -> None:
    with sharing.locked(shared.share()):
        (shared.path / "key.lock").unlink()
        shared.started()  # whoever comes then has a lock of their own
