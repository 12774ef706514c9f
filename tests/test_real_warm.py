"""The warm parent with a real `mlc_llm`: skipped, with a reason, where it cannot be imported."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_mlc_server import PopenServer, warm
from tests.conftest import await_
from tests.support_server import linux
from tests.support_warm import Kin, was_forked
from tests.test_real_launch import echo, log_of, make

pytestmark = [pytest.mark.mlc_real, pytest.mark.timeout(600), linux]


class Servers:
    """Servers that are forked from one parent."""

    def __init__(self) -> None:
        self.parents = warm.Parents()
        self.made: list[PopenServer] = []

    def started(self, launch: str = "warm") -> PopenServer:
        server = make(device="cpu", launch=launch)
        server.parents = self.parents
        self.made.append(server)
        server.start()
        return server


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = Servers()
    yield made
    for server in made.made:
        server.terminate()
    made.parents.close()
    await_(lambda: not list(tmp_path.rglob("*.door")), "the end of the parent")


def test_forked_servers_are_plain_ones(servers: Servers) -> None:
    plain, first, second = (servers.started(launch) for launch in ("plain", "warm", "warm"))
    assert was_forked(first)
    assert was_forked(second)
    assert Kin.of(first).parent == Kin.of(second).parent
    assert echo(plain) == echo(first) == echo(second)
    assert log_of(plain) == log_of(first) == log_of(second)
    for server in (plain, first, second):
        server.terminate()
        assert server.returncode == 0


def test_one_that_died_is_forked_again(servers: Servers) -> None:
    server = servers.started()
    before = Kin.of(server)
    os.kill(before.server, signal.SIGKILL)
    await_(lambda: server.poll() == "exited", "the end of the server")
    server.restart()
    assert Kin.of(server).parent == before.parent
    assert echo(server)
