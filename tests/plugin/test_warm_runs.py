"""With ``--mlc-launch warm`` a run's servers are forked; with ``--mlc-warm``, the next run's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_mlc_server import manage, shared_servers
from tests.conftest import WATCHDOG, await_, await_gone
from tests.support_launch import launch_env
from tests.support_plugin import Suite
from tests.support_server import linux

pytestmark = [linux, pytest.mark.slow]

WARM = ("--mlc-launch=warm", "--mlc-device=cpu")

TESTS = """
    import os, pathlib

    def leave(server):
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        with open(f"servers-{worker}", "a") as file:
            file.write(f"{server.pid}\\n")

    def test_one(mlc_server):
        leave(mlc_server)

    def test_another_configuration(mlc_server_factory):
        with mlc_server_factory.temporary(enable_debug=False) as server:
            leave(server)
    """

#: Notes of each server from which process its own came: they have ended when the run has.
NOTES = """
    import psutil, pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(item):
        server = item.funcargs.get("mlc_server")
        if server is not None:
            parent = psutil.Process(server.pid).parent().parent()
            with open("parents", "a") as file:
                file.write(f"{parent.pid}\\n")
            with open("owners", "a") as file:  # of its guardian
                file.write(f"{parent.parent().parent().ppid()}\\n")
    """


class Runs:
    """Runs whose servers are forked."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.imported = suite.path / "imported"

    def run(self, *args: str, words: str = "") -> pytest.RunResult:
        env = launch_env(f"imported={self.imported}", words)
        settings = [f"--mlc-env={name}={value}" for name, value in env.items()]
        return self.suite.run_bare(f"--mlc-model={self.suite.model}", *settings, *WARM, *args)

    @property
    def imports(self) -> list[int]:
        """The processes that have imported the package."""
        return _lines(self.imported)

    @property
    def owners(self) -> set[int]:
        """The processes that had the parents started."""
        return set(_lines(self.suite.path / "owners"))

    @property
    def parents(self) -> list[int]:
        """The parents from which the servers of `mlc_server` came."""
        return _lines(self.suite.path / "parents")


def _lines(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.fixture
def runs(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    suite.tests(TESTS)
    suite.write(conftest=NOTES)
    made = Runs(suite)
    yield made
    for found in shared_servers.everywhere():
        found.stop(0.0)
    for pid in made.imports:
        await_gone(pid)
    suite.await_nothing_left()
    await_(lambda: list(suite.temporary.rglob("*.door")) == [], "the removal of doors")


def test_the_servers_of_two_runs_are_forked_from_one_parent(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    first = runs.run("--mlc-warm=300")
    first.assert_outcomes(passed=2)
    first.stdout.fnmatch_lines(["mlc-server: *, warm 300 s"])
    second = runs.run("--mlc-warm=300")
    second.assert_outcomes(passed=2)
    second.stdout.fnmatch_lines(["mlc-server: *, warm parent of [0-9][0-9]:[0-9][0-9]"])
    (parent,) = runs.imports
    assert runs.parents == [parent, parent]
    capsys.readouterr()

    def idle() -> bool:
        return all(found.status["idle"] is not None for found in shared_servers.everywhere())

    await_(idle, "the end of the last lease")
    assert manage.main("ps", ["--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["kind"], listed["servers"], listed["pid"]) == ("warm parent", 0, parent)
    assert manage.main("ps", []) == 0
    assert f"warm parent of {listed['python']}, 0 servers" in capsys.readouterr().out
    assert manage.main("stop", [listed["id"]]) == 0
    await_gone(parent)


def test_workers_share_one_parent_that_their_controller_began_and_that_ends_with_the_run(
    runs: Runs,
) -> None:
    runs.suite.tests("def test_it(mlc_server): pass")
    result = runs.run("-p", "xdist", "-n2", "--dist=each", "--mlc-start=eager")
    result.assert_outcomes(passed=2)
    (parent,) = runs.imports
    assert runs.parents == [parent, parent]
    assert runs.owners == {os.getpid()}  # the controller
    await_gone(parent)


@pytest.mark.parametrize("start", ["eager", "collected"])
def test_it_imports_while_pytest_is_on_its_way_to_the_first_test(
    runs: Runs, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = f"""
        import os, time

        def wait():
            deadline = time.monotonic() + {WATCHDOG}
            while not os.path.exists({str(runs.imported)!r}):
                assert time.monotonic() < deadline, "nothing was imported"
                time.sleep(0.01)
        """
    when = {"eager": "wait()", "collected": "def test_first(): wait()"}[start]
    runs.suite.write(conftest=wait)
    runs.suite.tests(f"from conftest import wait\n{when}\ndef test_it(mlc_server): pass\n")
    assert runs.run(f"--mlc-start={start}").ret == 0
    assert len(runs.imports) == 1


@pytest.mark.parametrize(
    ("flags", "named"),
    [(["--mlc-launch=direct"], "launch = 'direct' (from --mlc-launch"), ([], "launch plain")],
)
def test_a_time_for_a_parent_that_there_is_not_is_a_mistake(
    suite: Suite, flags: list[str], named: str
) -> None:
    suite.tests("def test_it(): pass")
    result = suite.run("--mlc-warm=300", *flags)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stderr.str()
    assert "warm = '300' (from --mlc-warm" in text
    assert named in text


def test_users_and_servers_are_counted_apart(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.suite.tests(
        """
        from pytest_mlc_server import manage

        def test_it(mlc_server, mlc_server_factory, capsys):
            mlc_server_factory(enable_debug=False)
            assert manage.main("ps", []) == 0
            text = capsys.readouterr().out
            assert ", 2 servers " in text
            assert text.splitlines()[-1].split()[2] == "1"
        """
    )
    runs.run("--mlc-max-servers=2").assert_outcomes(passed=1)


def test_a_server_that_waits_for_the_next_run_keeps_its_parent(runs: Runs) -> None:
    runs.suite.tests("def test_it(mlc_server): pass")
    for _ in range(2):
        runs.run("--mlc-reuse=300").assert_outcomes(passed=1)
    (parent,) = runs.imports
    assert runs.parents == [parent, parent]
    assert manage.main("stop", ["--all"]) == 0
    await_gone(parent)


def test_the_models_of_a_matrix_are_forked_from_one_parent(runs: Runs) -> None:
    runs.suite.tests("def test_it(mlc_server): pass")
    shutil.copytree(runs.suite.model, runs.suite.path / "another")
    result = runs.run(f"--mlc-model={runs.suite.path / 'another'}")
    result.assert_outcomes(passed=2)
    (parent,) = runs.imports
    assert runs.parents == [parent, parent]
