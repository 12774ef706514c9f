"""Slots: how many servers a run has, counted by locks that the kernel frees."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_mlc_server import PopenServer, slots
from pytest_mlc_server.slots import FullError, Slots
from tests.conftest import WATCHDOG, await_
from tests.support_server import Kin, kill, linux, temporary

__all__ = ["temporary"]

Servers = Callable[..., PopenServer]


def test_no_more_are_given_than_there_are(tmp_path: Path) -> None:
    counted = Slots(str(tmp_path), 2)
    first, second = counted.take("a"), counted.take("b")
    assert counted.taken() == {"a", "b"}
    with pytest.raises(FullError, match="2 servers are live"):
        counted.take("c")
    os.close(first)
    third = counted.take("c")
    assert counted.taken() == {"b", "c"}
    os.close(second)
    os.close(third)
    assert counted.taken() == set()
    assert not list(tmp_path.glob("slot-*"))


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    counted = Slots(str(tmp_path), 5)
    first = counted.take("a")
    with pytest.raises(FullError, match="still going"):
        counted.take("a")
    os.close(first)


def test_those_who_join_count_as_one_and_until_the_last_has_gone(tmp_path: Path) -> None:
    counted = Slots(str(tmp_path), 2)
    joined = [counted.join("found"), counted.join("found")]
    assert all(joined)
    one = counted.take("a")
    with pytest.raises(FullError):
        counted.take("b")
    for descriptor in joined:
        assert counted.taken() == {"a", "found"}
        assert descriptor is not None
        os.close(descriptor)
    assert counted.taken() == {"a"}
    os.close(one)


def test_what_its_guardian_counts_is_not_counted_again(tmp_path: Path) -> None:
    counted = Slots(str(tmp_path), 2)
    taken = counted.take("a")
    assert counted.join("a") is None
    os.close(taken)


@pytest.mark.parametrize(("lingering", "fits"), [(0, True), (1, True), (2, False)])
def test_servers_of_earlier_runs_count(tmp_path: Path, lingering: int, fits: bool) -> None:
    asked: list[set[str]] = []

    def count(names: set[str]) -> int:
        asked.append(names)
        return lingering

    counted = Slots(str(tmp_path), 2, count)
    if fits:
        os.close(counted.take("a"))
    else:
        with pytest.raises(FullError):
            counted.take("a")
    assert asked == [{"a"}]


_TAKER = """
import os, sys
from pytest_mlc_server.slots import FullError, Slots
counted = Slots(sys.argv[1], 3)
names = []
for number in range(20):
    try:
        counted.take(f"{os.getpid()}-{number}")
    except FullError:
        continue
    names.append(number)
print(len(names), flush=True)
sys.stdin.read()
"""


def test_processes_that_take_at_once_have_no_more_together(tmp_path: Path) -> None:
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", _TAKER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    try:
        had = [int(taker.stdout.readline()) for taker in takers if taker.stdout is not None]
        assert sum(had) == 3
        assert len(Slots(str(tmp_path), 3).taken()) == 3
    finally:
        for taker in takers:
            taker.kill()
            taker.communicate(timeout=WATCHDOG)
    assert Slots(str(tmp_path), 3).taken() == set()


# --- servers that hold them -----------------------------------------------------------------------


def bounded(standin: Servers, directory: Path, *words: str) -> PopenServer:
    server = standin(*words)
    server.slots = Slots(str(directory), 1)
    return server


def test_a_server_has_its_slot_until_it_is_gone(standin: Servers, tmp_path: Path) -> None:
    first, second = bounded(standin, tmp_path), bounded(standin, tmp_path)
    first.start()
    for _ in range(2):  # to ask again changes nothing
        with pytest.raises(FullError):
            second.start()
    first.terminate()
    second.start()
    second.terminate()
    assert second.slots is not None
    assert second.slots.taken() == set()


@linux
def test_only_the_guardian_keeps_the_slot_open(standin: Servers, tmp_path: Path) -> None:
    server = bounded(standin, tmp_path)
    server.start()
    kin = Kin.of(server)

    def holds(pid: int) -> bool:
        directory = f"/proc/{pid}/fd"
        links = [os.readlink(f"{directory}/{name}") for name in os.listdir(directory)]
        return any("slot-" in link for link in links)

    held = {name: holds(pid) for name, pid in vars(kin).items()}
    assert held == {"server": False, "keeper": True, "watcher": True}


@linux
@pytest.mark.parametrize("who", [["server"], ["keeper"], ["watcher"], ["keeper", "watcher"]])
def test_whoever_is_killed_the_slot_is_free_in_the_end(
    standin: Servers, tmp_path: Path, who: list[str]
) -> None:
    server = bounded(standin, tmp_path)
    server.start()
    kin = Kin.of(server)
    for name in who:
        kill(getattr(kin, name))
    server.terminate()
    counted = server.slots
    assert counted is not None
    await_(lambda: not counted.taken(), "a free slot")
    kin.await_gone()


def test_a_start_that_fails_frees_its_slot(standin: Servers, tmp_path: Path) -> None:
    server = bounded(standin, tmp_path, "exit=3")
    with pytest.raises(Exception, match="did not start"):
        server.start()
    assert Slots(str(tmp_path), 1).taken() == set()


def test_without_a_bound_nothing_is_held() -> None:
    with slots.held(None, "a") as descriptor:
        assert descriptor is None
