"""The bound by itself: when a server counts as gone, and whom it bounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import psutil
import pytest

from pytest_mlc_server import PopenServer, ServerConfig, bounds, nvml
from pytest_mlc_server.bounds import Bound
from tests.support_gpus import GIB, Gpus, gpus
from tests.support_server import temporary

__all__ = ["gpus", "temporary"]

Servers = Callable[..., PopenServer]


def test_a_server_is_gone_when_the_driver_has_its_memory_back(
    standin: Servers, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = standin()
    server.start()
    pid = server.pid
    assert pid is not None
    gpus.show({"total": GIB, "free": 0, "processes": [[pid, GIB]]})
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        assert not psutil.pid_exists(pid)
        gpus.show({"total": GIB, "free": GIB, "processes": []})

    monkeypatch.setattr(nvml, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    bounds.end(server)
    assert len(waited) == 1


@pytest.mark.parametrize("engine", ["mock", "sim"])
def test_servers_without_a_gpu_are_gone_with_their_processes(
    engine: str, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.show({"total": GIB, "free": 0, "processes": [[7, GIB]]})
    monkeypatch.setattr(nvml, "wait_until_released", pytest.fail)
    bounds.await_memory([7], engine)


@pytest.mark.parametrize(
    ("limit", "engine", "expected"),
    [(None, "mlc", 1), (None, "mock", 4), (None, "sim", 4), (3, "mlc", 3), (3, "sim", 3)],
)
def test_the_default_depends_on_the_engine(limit: int | None, engine: str, expected: int) -> None:
    assert Bound(limit).of(ServerConfig(engine=engine, model="m")) == expected


def test_no_process_has_no_tree() -> None:
    assert bounds.tree(0) == []
