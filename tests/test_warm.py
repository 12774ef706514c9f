"""Which warm parent fits a server, and what happens where there can be none."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import ServerConfig, engines, shared_servers, warm
from tests.conftest import await_
from tests.support_server import ask, linux
from tests.support_warm import Kin, Warm, log_of
from tests.support_warm import forks as forks


def key(env: dict[str, str] | None = None, **options: Any) -> str:
    config = ServerConfig(model="m", engine="mlc", launch="warm", env=env or {}, **options)
    return warm.key(engines.plan(config, mark=os.urandom(16).hex()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"env": {"MLC_JIT_POLICY": "OFF"}}),
        ({}, {"env": {"PYTHONPATH": "/elsewhere"}}),
        ({"env": {"CUDA_VISIBLE_DEVICES": "0"}}, {"env": {"CUDA_VISIBLE_DEVICES": "1"}}),
        ({}, {"env": {"OPENBLAS_NUM_THREADS": "7"}}),
        ({"python": sys.executable}, {"python": "/bin/sh"}),
    ],
)
def test_what_counts_at_import_divides_servers(one: Any, other: Any) -> None:
    assert key(**one) == key(**one)
    assert key(**one) != key(**other)


@pytest.mark.parametrize(
    "options",
    [
        {"env": {"ANYTHING": "else", "http_proxy": "x"}},
        {"device": "cpu", "port": 9999, "mode": "server", "enable_debug": False},
        {"api_key": "a key"},
        {"model": "another"},
    ],
)
def test_what_a_server_is_told_later_does_not(options: dict[str, Any]) -> None:
    other = {"model": "m", **options}
    config = ServerConfig(engine="mlc", launch="warm", **other)
    assert warm.key(engines.plan(config, mark="0" * 32)) == key()


def test_a_directory_counts_where_it_holds_the_package(tmp_path: Path) -> None:
    for name in ("plain", "other", "source"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "mlc_llm").mkdir()
    assert key(cwd=tmp_path / "plain") == key(cwd=tmp_path / "other")
    assert key(cwd=tmp_path / "source") != key(cwd=tmp_path / "plain")


def test_a_python_is_looked_for_where_the_server_would_find_it(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "my-python").write_text(name)
        (tmp_path / name / "my-python").chmod(0o755)
        found.append(key({"PATH": str(tmp_path / name)}, python="my-python"))
    assert found[0] != found[1]


@linux
def test_what_a_process_inherits_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    limit = resource.getrlimit(resource.RLIMIT_CORE)
    monkeypatch.setattr(
        resource,
        "getrlimit",
        lambda which: (1, 1) if which == resource.RLIMIT_CORE else limit,
    )
    assert key() != before


@pytest.mark.parametrize(
    ("engine", "launch", "wanted"),
    [
        ("mlc", "warm", True),
        ("mock", "warm", True),
        ("mlc", "direct", False),
        ("sim", "warm", False),
    ],
)
def test_only_servers_of_mlc_llm_are_forked(engine: str, launch: str, wanted: bool) -> None:
    config = ServerConfig(model="m", engine=engine, launch=launch)
    assert warm.wanted(config) == wanted


# --- where there can be none ----------------------------------------------------------------------


@linux
def test_on_another_platform_a_server_is_launched_directly(
    forks: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_mlc_server.warm.sys", Elsewhere)
    server = forks.started()
    monkeypatch.undo()
    assert ask(server)["choices"]
    line = log_of(server).splitlines()[0]
    assert line.startswith("--- not forked from a warm parent: this platform has no means")
    assert line.endswith("; launched directly ---")


class Elsewhere:
    platform = "darwin"


@linux
def test_where_others_could_come_in_there_is_no_parent(forks: Warm) -> None:
    place = forks.path / f"pytest-mlc-server-{os.getuid()}"
    place.mkdir(mode=0o700)
    (place / "warm").mkdir()
    (place / "warm").chmod(0o777)
    server = forks.started()
    assert ask(server)["choices"]
    assert "must be a directory that only this user can use" in log_of(server).splitlines()[0]


@linux
def test_a_user_that_wants_no_parent_to_stay_does_not_end_one_that_does(forks: Warm) -> None:
    forks.parents.linger = 60.0
    server = forks.started()
    parent = Kin.of(server).parent
    server.terminate()
    forks.parents.close()
    forks.parents = warm.Parents()
    again = forks.started()
    assert Kin.of(again).parent == parent
    again.terminate()
    forks.parents.close()

    def idle() -> shared_servers.Found | None:
        (found,) = shared_servers.found(warm.directory())
        return found if found.status["idle"] is not None else None

    found = await_(idle, "the end of the last lease")
    assert (found.status["linger"], found.status["servers"]) == (60.0, 0)
    assert found.stop(0.0)


@linux
def test_a_fork_of_a_holder_lets_nothing_go(forks: Warm) -> None:
    server = forks.started()
    child = os.fork()
    if child == 0:
        forks.parents.close()
        os._exit(0)
    os.waitpid(child, 0)
    server.terminate()
    again = forks.started()
    assert ask(again)["choices"]
    (held,) = forks.parents._held.values()
    assert held.trouble() is None
