"""When and where it is shown what a starting server is doing, and by whom."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import socket
import struct
import termios
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pytest_mlc_server import PopenServer, logs, progress, relay, status_row, waiting
from pytest_mlc_server.progress import Snapshot
from tests.conftest import await_
from tests.support_progress import DOWNLOADING, snapshot
from tests.support_server import temporary as temporary

# --- when it is said ------------------------------------------------------------------------------


class Said:
    """A display whose lines are kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.display = waiting.Display(None, self.lines.append)

    def at(self, *seconds: float, starts: Sequence[Snapshot] = ()) -> list[str]:
        """Let some moments pass, and return what is said then."""
        before = len(self.lines)
        for second in seconds:
            self.display.update(starts or [snapshot()], 100.0 + second)
        return self.lines[before:]


def test_a_plain_line_comes_every_ten_seconds() -> None:
    said = Said()
    assert said.at(0, 5, 9.9) == []
    assert said.at(10.0, 10.1, 19.9) == ["mlc-server: mlc 'model': loading, 10 s: a line"]
    assert said.at(20.05, 29.9) == ["mlc-server: mlc 'model': loading, 20 s: a line"]
    assert len(said.at(30.0, 40.0)) == 2


def test_whoever_comes_late_is_told_once_and_then_every_ten_seconds() -> None:
    said = Said()
    assert said.at(65.0, 65.1, 65.2) == ["mlc-server: mlc 'model': loading, 65 s: a line"]
    assert said.at(69.9) == []
    assert said.at(70.0, 70.1) == ["mlc-server: mlc 'model': loading, 70 s: a line"]


def test_a_server_that_got_its_log_is_the_same_server() -> None:
    said = Said()
    said.at(10.0, starts=[snapshot(key="none yet")])
    said.at(11.0)
    said.display.end(waiting.READY)
    assert [line.partition(", after")[0] for line in said.lines[1:]] == [
        "mlc-server: mlc 'model': loading, 11 s: a line",
        "mlc-server: mlc 'model': ready",
    ]


def test_each_server_has_a_line_of_its_own() -> None:
    both = [snapshot(), snapshot(key="b", what="mlc 'b'", began=95.0)]
    assert [line.split(": ")[1] for line in Said().at(5.0, 10.0, starts=both)] == [
        "mlc 'b'",
        "mlc 'model'",
    ]


@pytest.mark.parametrize("outcome", [waiting.READY, waiting.FAILED])
def test_the_end_is_said_of_what_was_spoken_of(
    outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 112.0)
    said = Said()
    said.at(10.0)
    said.display.end(outcome)
    assert said.lines[1:] == [f"mlc-server: mlc 'model': {outcome}, after 12 s"]
    said.display.end(outcome)
    assert len(said.lines) == 2


def test_a_short_start_is_not_spoken_of() -> None:
    said = Said()
    said.at(9.0)
    said.display.end(waiting.READY)
    assert said.lines == []
    # The next start of that server begins its own ten seconds.
    assert said.at(12.0, starts=[snapshot(began=105.0)]) == []


class Row(status_row.StatusRow):
    """A row that keeps what it shows."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.shown: list[str] = []
        self.closed = 0

    def show(self, text: str) -> None:
        self.shown.append(text)

    def close(self) -> None:
        self.closed += 1


def test_a_live_line_waits_a_moment_and_turns_its_spinner() -> None:
    row = Row()
    display = waiting.Display(row, pytest.fail)
    for second in (0.0, waiting.LIVE_AFTER - 0.01):
        display.update([snapshot()], 100.0 + second)
    assert row.shown == []
    for second in (waiting.LIVE_AFTER, 1.0, 60.0):
        display.update([snapshot()], 100.0 + second)
    assert [text[0] for text in row.shown] == list(progress.FINE_SPINNER[:3])
    display.end(waiting.READY)
    assert row.closed == 1


@pytest.mark.parametrize(
    ("term", "size", "is_one"),
    [
        ("xterm", (80, 24), True),
        ("xterm", (30, 4), True),
        ("xterm", (29, 24), False),
        ("xterm", (80, 3), False),
        ("dumb", (80, 24), False),
        ("", (80, 24), False),
        (None, (80, 24), False),
    ],
)
def test_what_is_a_terminal_with_a_row_to_spare(
    term: str | None, size: tuple[int, int], is_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    ours, theirs = pty.openpty()
    try:
        wanted = struct.pack("HHHH", *size[::-1], 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, wanted)
        assert status_row.possible(theirs) == is_one
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_file_is_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with (tmp_path / "file").open("w") as file:
        assert not status_row.possible(file.fileno())
    assert not status_row.possible(-1)


class Taken:
    """A sink that keeps what it takes."""

    def __init__(self) -> None:
        self.taken: list[Snapshot] = []
        self.outcomes: list[str] = []

    def update(self, starts: Sequence[Snapshot], now: float) -> None:
        assert now >= starts[0].began
        self.taken += starts

    def end(self, outcome: str) -> None:
        self.outcomes.append(outcome)


def test_a_wait_is_followed_in_a_thread_that_ends_with_it(
    standin: Callable[..., PopenServer], tmp_path: Path
) -> None:
    log, gate = tmp_path / "log.txt", tmp_path / "gate"
    log.write_text(f"{DOWNLOADING}@await {gate}\n")
    server, sink, heard = standin(f"log={log}"), Taken(), list[str]()
    server.on_phase = heard.append

    def open_gate() -> None:
        await_(lambda: sink.taken and sink.taken[-1].phase == logs.DOWNLOADING, "the phase")
        gate.touch()

    release = threading.Thread(target=open_gate)
    release.start()
    with waiting.Waiting(server, sink):
        server.start()
    release.join()
    assert sink.outcomes == [waiting.READY]
    assert {one.key for one in sink.taken[-1:]} == {server.log_path}
    assert server.on_phase == heard.append
    assert logs.DOWNLOADING in heard
    assert not [thread for thread in threading.enumerate() if thread.name == "mlc-progress"]


def test_a_wait_that_fails_says_so_and_a_broken_display_harms_nobody(
    standin: Callable[..., PopenServer],
) -> None:
    class Broken(Taken):
        def update(self, starts: Sequence[Snapshot], now: float) -> None:
            super().update(starts, now)
            raise RuntimeError("as ordered")

    sink, ended = Broken(), []
    with (  # noqa: PT012
        pytest.raises(KeyboardInterrupt),
        waiting.Waiting(standin(), sink, lambda: ended.append(1)),
    ):
        await_(lambda: sink.taken, "a look")
        raise KeyboardInterrupt
    assert (sink.outcomes, ended, len(sink.taken)) == ([waiting.FAILED], [1], 1)


# --- from workers to their controller -------------------------------------------------------------


class Controller:
    """The controller's end, and what it shows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(relay, "LOOK_EVERY", 0.01)
        self.row = Row()
        self.receiver = relay.Receiver(waiting.Display(self.row, pytest.fail))

    def sender(self, worker: str) -> relay.Sender:
        return relay.Sender(self.receiver.address, worker)

    def shows(self, text: str) -> None:
        before = len(self.row.shown)
        await_(lambda: any(text in line for line in self.row.shown[before:]), text)

    def silent(self) -> None:
        """Wait until nothing is shown any more."""
        await_(lambda: self.row.closed, "the end")


def test_workers_that_wait_for_one_server_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Controller(monkeypatch)
    try:
        senders = [controller.sender(f"gw{n}") for n in range(3)]
        for sender, began in zip(senders, (30.0, 10.0, 20.0), strict=True):
            sender.update([snapshot(began=began, what=f"mlc {began}")], 100.0)
        controller.shows("mlc-server: mlc 10.0: loading")
        senders[2].update([snapshot(key="another")], 101.0)
        controller.shows("2 servers start, the slowest: mlc 10.0")
        senders[1].end(waiting.READY)
        controller.shows("2 servers start, the slowest: mlc 30.0")
        controller.receiver.forget("gw0")
        controller.shows("mlc-server: mlc 'model': loading")
        controller.row.closed = 0
        senders[2].end(waiting.FAILED)
        controller.silent()
    finally:
        controller.receiver.close()


def test_what_a_worker_does_not_repeat_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "BELIEVED_FOR", 0.1)
    controller = Controller(monkeypatch)
    try:
        controller.sender("gw0").update([snapshot()], 100.0)
        await_(lambda: controller.row.shown, "the line")  # it may be over already
        controller.silent()
    finally:
        controller.receiver.close()


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"no JSON \xff",
        b"[]",
        b"{}",
        json.dumps({"token": "wrong", "worker": "gw0", "starting": snapshot().message()}).encode(),
    ],
)
def test_what_strangers_send_is_ignored(message: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Controller(monkeypatch)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(message, ("127.0.0.1", controller.receiver.address["port"]))
        controller.sender("gw1").update([snapshot(what="mlc 'ours'")], 100.0)
        controller.shows("mlc-server: mlc 'ours'")
        assert not any("servers" in line for line in controller.row.shown)
    finally:
        controller.receiver.close()


def test_a_worker_repeats_itself_and_says_nothing_twice_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[dict[str, object]] = []
    sender = relay.Sender({}, "gw0")
    monkeypatch.setattr(sender, "tell", lambda **message: told.append(message))
    for now in (100.0, 100.5, 101.0):
        sender.update([snapshot()], now)
    sender.update([snapshot(percent=1)], 101.1)
    assert [message["starting"]["percent"] for message in told] == [None, None, 1]  # type: ignore[index]
    sender.end(waiting.READY)
    sender.end(waiting.READY)
    assert told[3:] == [{"ended": waiting.READY}]
