"""Ports of servers and of workers, and who has them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_mlc_server import ServerConfig, shared_servers
from pytest_mlc_server.doctor import port
from pytest_mlc_server.doctor.case import Case
from pytest_mlc_server.doctor.findings import Section


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def of(workers: int = 1, shared: Any = (), **fields: Any) -> Section:
    config = ServerConfig(engine="sim", **fields)
    return port.section(Case(config, (), workers), list(shared))


def kinds(section: Section) -> list[str]:
    return [finding.code for finding in section.findings]


def test_a_port_that_the_server_chooses() -> None:
    assert kinds(of()) == ["port.auto"]


def test_a_port_that_is_taken(taken: int) -> None:
    made = of(port=taken)
    (finding,) = made.findings
    assert finding.code == "port.wrong"
    assert f"port {taken} is occupied" in finding.text
    assert finding.remedy == "stop that program, or use --mlc-port auto"
    assert made.facts == {"first": taken, "workers": 1}


def test_ports_of_workers(taken: int) -> None:
    made = of(port=taken - 2, workers=3)
    assert any(f"port {taken} is occupied" in finding.text for finding in made.findings)
    made = of(port=65534, workers=4)
    assert sum("above 65535" in finding.text for finding in made.findings) == 1


def test_a_port_that_is_free(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_mlc_server.preflight.port_problems", lambda _: [])
    (finding,) = of(port=8000, workers=3).findings
    assert finding.text == "8000 to 8002, one for each worker, can be bound on 127.0.0.1"
    (finding,) = of(port=8000).findings
    assert (finding.code, finding.text) == ("port.free", "8000 can be bound on 127.0.0.1")


def test_a_server_that_waits_makes_room(taken: int) -> None:
    status = {"ready": {"port": taken}, "idle": 3.0}
    waiting = shared_servers.Found("abc", "/door", {}, status)
    (finding,) = of(port=taken, shared=[waiting]).findings
    assert (finding.code, finding.level) == ("port.ours", "note")
    assert "server abc, which waits" in finding.text
    busy = shared_servers.Found("abc", "/door", {}, {**status, "idle": None})
    assert kinds(of(port=taken, shared=[busy])) == ["port.wrong"]


def test_a_port_that_everybody_reaches() -> None:
    made = of(host="0.0.0.0")
    assert kinds(made) == ["port.host", "port.auto"]
    assert "--mlc-api-key auto" in made.findings[0].remedy
    assert kinds(of(host="0.0.0.0", api_key="k3y")) == ["port.auto"]
