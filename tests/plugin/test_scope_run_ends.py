"""However a run with ``--mlc-scope run`` ends, its server ends with it; what contradicts it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from tests.conftest import WATCHDOG, await_, await_gone
from tests.support_plugin import Suite
from tests.support_runs import BUSY, CONFTEST, RUN, interrupt, left, no_other_servers

pytest.importorskip("xdist")

pytestmark = pytest.mark.slow

__all__ = ["no_other_servers"]  # a fixture

# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda pid: os.killpg(pid, signal.SIGINT), id="ctrl-c"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGTERM), id="SIGTERM"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGKILL), id="SIGKILL"),
    ],
)
@pytest.mark.parametrize("when", ["in a test", "in a start"])
def test_whatever_ends_the_controller_the_server_is_gone(
    suite: Suite, end: Callable[[int], None], when: str
) -> None:
    suite.write(conftest=CONFTEST, test_it=BUSY)
    process = suite.begin(*RUN, "-n2", orders="hang" if when == "in a start" else "")
    pid = suite.await_start()
    if when == "in a test":
        for name in ("here-gw0", "here-gw1"):
            suite.await_file(name)
    end(process.pid)
    assert process.wait(WATCHDOG) != 0
    await_gone(pid)
    assert len(suite.starts) == 1
    await_(lambda: left(suite) == [], "nothing left")


def test_killed_workers_do_not_take_the_server_along(suite: Suite) -> None:
    suite.write(conftest=CONFTEST, test_it=BUSY)
    process = suite.begin(*RUN, "-n2", "--max-worker-restart=4")
    for name in ("here-gw0", "here-gw1"):
        suite.await_file(name)
    for child in psutil.Process(process.pid).children():
        child.kill()
    # Which of the new workers gets a test is xdist's to decide: the other one may have none left.
    new = [suite.path / f"here-gw{number}" for number in (2, 3)]
    suite.await_event(lambda: any(file.exists() for file in new), "a test in a new worker")
    assert Path(f"/proc/{suite.starts[0]}").exists()
    assert len(suite.starts) == 1
    interrupt(process)
    suite.await_nothing_left()


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_directory_of_somebody_else_is_told_by_the_tests(suite: Suite, mode: int) -> None:
    suite.write(conftest=CONFTEST, test_it="def test_asks(sheet): pass\ndef test_too(sheet): pass")
    directory = suite.temporary / f"pytest-mlc-server-{os.getuid()}"
    directory.mkdir()
    directory.chmod(mode)
    result = suite.run(*RUN, "-n2")
    result.assert_outcomes(errors=2)
    text = result.stdout.str()
    assert "must be a directory that only this user can use" in text
    assert "INTERNALERROR" not in text + result.stderr.str()
    assert suite.starts == []


# --- contradictions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ini", "arguments", "named"),
    [
        ("mlc_reset = test", ["--mlc-scope=run"], ["mlc_reset in *.ini", "--mlc-scope on the"]),
        ("mlc_scope = run", ["--mlc-reset=module"], ["mlc_scope in *.ini", "--mlc-reset on the"]),
        ("mlc_scope = run", ["--mlc-url=http://h:1"], ["mlc_scope in *.ini", "--mlc-url on the"]),
        ("mlc_reuse = 60", ["--mlc-url=http://h:1"], ["mlc_reuse in *.ini", "--mlc-url on the"]),
        ("mlc_url = http://h:1", ["--mlc-reuse=9"], ["mlc_url in *.ini", "--mlc-reuse on the"]),
        ("", ["--mlc-scope=host"], ["--mlc-scope on the command line", "worker, run"]),
        ("", ["--mlc-reuse=-1"], ["--mlc-reuse on the command line"]),
        ("", ["--mlc-reuse=soon"], ["--mlc-reuse on the command line"]),
        ("", ["--mlc-start=late"], ["--mlc-start on the command line", "eager"]),
    ],
)
def test_contradictions_name_both_places(
    suite: Suite, ini: str, arguments: Sequence[str], named: Sequence[str]
) -> None:
    suite.pytester.makeini(f"[pytest]\n{ini}\n")
    suite.tests("def test_nothing(): pass")
    result = suite.run_bare(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    for words in named:
        result.stderr.fnmatch_lines([f"*{words}*"])
