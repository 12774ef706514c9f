"""Faults of the whole server: each test has one of its own."""

from __future__ import annotations

import signal
import socket
import struct

import pytest
import requests

from tests.conftest import await_
from tests.sim import scripted
from tests.sim.scripted import CHAT, TestDoor, content, open_door, read_all
from tests.sim.simulator import DEADLINE_S

# A socket that lingers for no time at all is closed by a reset.
NO_LINGER = struct.pack("ii", 1, 0)


def test_the_first_door_refuses_and_is_told_through_another() -> None:
    with scripted.start() as sim:
        other = open_door(sim)
        first = TestDoor(sim, sim.port)
        first.fault(fault={"kind": "refuse"})
        with pytest.raises(ConnectionRefusedError):
            first.connect()
        assert other.chat().status_code == 200
        answer = requests.delete(
            f"{other.url}/sim/faults",
            headers={"X-MLC-Sim-Token": scripted.TOKEN, "X-MLC-Sim-Door": str(sim.port)},
            timeout=DEADLINE_S,
        )
        assert answer.status_code == 204
        assert first.chat().status_code == 200
        first.fault(fault={"kind": "refuse"})
        # It ends as ever, with its own port closed.
        assert sim.stop() == 0


def test_a_stall_for_ever_ends_when_the_server_ends() -> None:
    with scripted.start() as sim:
        door = TestDoor(sim, sim.port)
        door.rule({"text": "a b c", "fault": {"kind": "stall", "after": 1}})
        with door.send_chat(stream=True) as channel:
            assert channel.recv(1)
            assert sim.stop(signal.SIGINT) == 0
            read_all(channel)


def test_clients_that_come_and_go_as_they_like_break_nothing() -> None:
    body = b'{"messages": [{"role": "user", "content": "x"}], "stream": true}'
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    said = [head + body, head + body[:-5], (head + body) * 3, b"\x16\x03\x01\xff\r\n\r\n", b""]
    with scripted.start() as sim:
        door = TestDoor(sim, sim.port)
        door.rule({"text": "a b c"})
        for round_ in range(40):
            for sent in said:
                with door.connect() as channel:
                    channel.sendall(sent)
                    if round_ % 2:
                        channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        assert content(door.chat()) == "a b c"
        assert sim.stop(signal.SIGINT) == 0
        assert "Traceback" not in "".join(sim.stderr)


@pytest.mark.parametrize("by", ["rule", "control"])
def test_a_wedged_server_lists_its_model_and_generates_nothing(by: str) -> None:
    with scripted.start() as sim:
        try:
            _wedge_and_ask(TestDoor(sim, sim.port), by)
        finally:
            # Nothing else ends it: it has requests that wait.
            sim.stop(signal.SIGKILL)
        log = "".join(sim.stderr)
        assert "Exception in thread Thread-1" in log
        assert "\ntvm.error.InternalError: Check failed: " in log


def _wedge_and_ask(door: TestDoor, by: str) -> None:
    if by == "rule":
        door.rule({"fault": {"kind": "wedge"}}, when={"last_message": "poison"})
    else:
        door.tell("POST", "/wedge")
    with door.send_chat("poison") as waiting, door.send_chat("later") as later:
        await_(lambda: len(door.requests) == 2, "both requests have come")
        assert door.sim.get("/v1/models").status_code == 200
        assert [record["status"] for record in door.requests] == [None, None, 200]
        for channel in (waiting, later):
            channel.setblocking(False)
            with pytest.raises(BlockingIOError):
                channel.recv(1)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
@pytest.mark.parametrize("by", ["rule", "control"])
def test_a_crash_ends_the_process_by_a_signal(by: str, name: str) -> None:
    with scripted.start() as sim:
        door = TestDoor(sim, sim.port)
        fault = {"kind": "crash", "signal": name}
        if by == "rule":
            door.rule({"fault": fault})
        with pytest.raises(requests.ConnectionError):
            _ = door.chat() if by == "rule" else door.control("POST", "/crash", fault)
        assert sim.stop() == -signal.Signals[name]
