"""The order of signals, on a clock of the test's own; real trees are in tests/test_server_stop."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import psutil
import pytest

from pytest_mlc_server.guardian.stop import GIVE_UP_AFTER, KILL_AFTER, TERM_AFTER, Stop

MODULE = "pytest_mlc_server.guardian.stop"
SERVER, CHILD = 4000001, 4000002


@dataclass
class Machine:
    """A machine with one server and its child: its clock, and the signals that were sent."""

    now: float = 100.0
    children: bool = True
    sent: list[tuple[int, str]] = field(default_factory=list)
    immortal: bool = False

    def kill(self, pid: int, number: int) -> None:
        self.sent.append((pid, signal.Signals(number).name))

    def kill_tree(self, tree: list[psutil.Process]) -> None:
        for one in tree:
            self.kill(one.pid, signal.SIGKILL)
        self.children = self.immortal


@dataclass
class Child:
    pid: int
    machine: Machine

    def send_signal(self, number: signal.Signals) -> None:
        self.machine.kill(self.pid, number)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()

    def tree(_: Stop) -> list[psutil.Process]:
        pids = (SERVER, CHILD) if made.children else ()
        return [cast(psutil.Process, Child(pid, made)) for pid in pids]

    monkeypatch.setattr(f"{MODULE}.time", SimpleNamespace(monotonic=lambda: made.now))
    monkeypatch.setattr(f"{MODULE}.os", SimpleNamespace(kill=made.kill))
    monkeypatch.setattr(f"{MODULE}.process", SimpleNamespace(kill=made.kill_tree))
    monkeypatch.setattr(f"{MODULE}._has_children", lambda: made.children)
    monkeypatch.setattr(Stop, "_tree", tree)
    return made


def test_a_stop_begins_with_sigint_alone(machine: Machine) -> None:
    stop = Stop(SERVER, "mark", 10.0)
    assert not stop.advance(alive=True)
    assert machine.sent == [(SERVER, "SIGINT")]
    assert stop.by == "SIGINT"
    assert stop.pause() == pytest.approx(10.0 * TERM_AFTER)
    assert not stop.advance(alive=True)
    assert machine.sent == [(SERVER, "SIGINT")]


def test_sigterm_follows_once_and_reaches_the_tree(machine: Machine) -> None:
    stop = Stop(SERVER, "mark", 10.0)
    stop.advance(alive=True)
    machine.sent.clear()
    machine.now += 10.0 * TERM_AFTER
    assert not stop.advance(alive=True)
    assert not stop.advance(alive=True)
    assert machine.sent == [(SERVER, "SIGTERM"), (CHILD, "SIGTERM")]
    assert stop.pause() == pytest.approx(10.0 * (KILL_AFTER - TERM_AFTER))


def test_sigkill_follows_and_is_repeated_until_nothing_is_left(machine: Machine) -> None:
    machine.immortal = True
    stop = Stop(SERVER, "mark", 10.0)
    stop.advance(alive=True)
    machine.now += 10.0
    stop.advance(alive=True)
    machine.sent.clear()
    assert not stop.advance(alive=False)
    assert not stop.advance(alive=False)
    assert machine.sent.count((CHILD, "SIGKILL")) == 2
    assert stop.pause() < 0.1
    machine.immortal = False
    assert not stop.advance(alive=False)
    assert stop.advance(alive=False)
    assert (stop.by, stop.left) == ("SIGKILL", [])


def test_the_time_limit_0_kills_at_once(machine: Machine) -> None:
    stop = Stop(SERVER, "mark", 0.0)
    stop.advance(alive=True)
    assert machine.sent[0] == (SERVER, "SIGKILL")
    assert {name for _, name in machine.sent} == {"SIGKILL"}


def test_children_of_a_server_that_ended_are_killed_without_delay(machine: Machine) -> None:
    stop = Stop(SERVER, "mark", 10.0)
    stop.advance(alive=True)
    machine.sent.clear()
    assert not stop.advance(alive=False)
    assert (CHILD, "SIGKILL") in machine.sent
    assert stop.advance(alive=False)
    assert stop.by == "SIGINT"


def test_a_server_that_ended_by_itself_gets_no_signal(machine: Machine) -> None:
    machine.children = False
    stop = Stop(SERVER, "mark", 10.0)
    assert stop.advance(alive=False)
    assert (stop.by, machine.sent) == ("", [])


@pytest.mark.parametrize(("hurry", "limit"), [(1.0, 4.0), (100.0, 10.0)])
def test_hurry_can_only_shorten_the_time_limit(
    machine: Machine, hurry: float, limit: float
) -> None:
    stop = Stop(SERVER, "mark", 10.0)
    stop.advance(alive=True)
    machine.now += 3.0
    stop.hurry(hurry)
    assert stop.pause() == pytest.approx(max(0.0, limit * TERM_AFTER - 3.0))


def test_what_survives_sigkill_is_given_up_and_named(machine: Machine) -> None:
    machine.immortal = True
    stop = Stop(SERVER, "mark", 0.0)
    assert not stop.advance(alive=True)
    machine.now += GIVE_UP_AFTER + 1
    assert stop.advance(alive=True)
    assert stop.left == [SERVER, CHILD]


def test_the_server_may_end_before_its_signal_comes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(pid: int, number: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(f"{MODULE}.os.kill", gone)
    stop = Stop(SERVER, "mark", 10.0)
    assert not stop.advance(alive=True)
    assert stop.by == "SIGINT"


def test_sigint_goes_to_the_process_that_serves(machine: Machine) -> None:
    serving = cast(psutil.Process, Child(CHILD, machine))
    stop = Stop(SERVER, "mark", 10.0, serving)
    assert not stop.advance(alive=True)
    assert machine.sent == [(CHILD, "SIGINT")]
