"""With ``--mlc-scope run`` all pytest-xdist workers of a host share one server."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from tests.conftest import await_
from tests.plugin.test_health_runs import TOOLS, summary
from tests.support_plugin import Suite, free_ports, is_free
from tests.support_runs import BUSY, CONFTEST, RUN, interrupt, left, no_other_servers, shared
from tests.support_warm import runs

__all__ = ["no_other_servers", "shared"]  # fixtures

pytest.importorskip("xdist")

pytestmark = pytest.mark.slow

MANY = """
    import pytest

    class TestA:
        @pytest.mark.parametrize("n", range(3))
        def test_a(self, sheet, n): pass

    @pytest.mark.xdist_group("together")
    @pytest.mark.parametrize("n", range(3))
    def test_b(sheet, n): pass
    """

MEETING = """
    import pytest

    @pytest.mark.parametrize("n", range(8))
    def test_meets(meet, n): pass
    """


def sheets(suite: Suite) -> list[dict[str, Any]]:
    """What the tests wrote about their server."""
    return [json.loads(path.read_text()) for path in suite.path.glob("sheet-*")]


def workers(suite: Suite) -> set[str]:
    """The workers that had a server."""
    return {sheet["worker"] for sheet in sheets(suite)}


# --- one server -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        (["-n2", "--dist=load"], 6),
        (["-n2", "--dist=loadscope"], 6),
        (["-n2", "--dist=loadgroup"], 6),
        (["-n2", "--dist=worksteal"], 6),
        (["-n2", "--dist=each"], 12),
        (["-n4", "--maxprocesses=2"], 6),
        (["-n0"], 6),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_however_tests_are_distributed_there_is_one_server(
    shared: Suite, arguments: Sequence[str], passed: int
) -> None:
    shared.tests(MANY)
    result = shared.run(*RUN, *arguments)
    result.assert_outcomes(passed=passed)
    assert len(shared.starts) == 1
    assert {sheet["pid"] for sheet in sheets(shared)} == set(shared.starts)
    (line,) = summary(result)
    assert "http://127.0.0.1:" in line
    result.stdout.fnmatch_lines(["mlc-server: *, scope run*"])


def test_workers_that_use_it_at_the_same_time_share_all_of_it(shared: Suite) -> None:
    port = free_ports(1)
    shared.tests(MEETING)
    result = shared.run(*RUN, "-n3", f"--mlc-port={port}", "--mlc-api-key=auto")
    result.assert_outcomes(passed=8)
    assert len(shared.starts) == 1
    assert workers(shared) == {"gw0", "gw1", "gw2"}
    # A given port is that very port, not that of the first of several workers.
    assert {(sheet["port"], sheet["pid"]) for sheet in sheets(shared)} == {(port, shared.starts[0])}
    (key,) = {sheet["key"] for sheet in sheets(shared)}
    assert key != "auto"
    assert key not in result.stdout.str()
    assert len(summary(result)) == 1
    assert is_free(port)


def test_the_default_is_still_a_server_for_each_worker(shared: Suite) -> None:
    shared.tests(MEETING)
    result = shared.run("-p", "xdist", "-n2")
    result.assert_outcomes(passed=8)
    assert len(shared.starts) == 2
    result.stdout.fnmatch_lines(["mlc-server: *, scope worker*"])


def test_servers_of_the_factory_are_shared_and_fresh_ones_are_not(shared: Suite) -> None:
    shared.tests(
        """
        import os
        import pytest
        from conftest import leave, wait_for, WORKER
        from pytest_mlc_server import factories

        small = factories.mlc_server(overrides="max_num_sequence=1")

        @pytest.mark.parametrize("n", range(8))
        def test_three(mlc_server, mlc_server_factory, small, n):
            again = mlc_server_factory(overrides="max_num_sequence=1")
            other = mlc_server_factory(overrides="max_num_sequence=2")
            fresh = mlc_server_factory(fresh=True)
            pids = [one.pid for one in (mlc_server, small, other, fresh)]
            assert again is small
            assert len(set(pids)) == 4
            fresh.terminate()
            leave(f"pids-{WORKER}", pids=pids)
            wait_for("pids-gw0", "pids-gw1")
        """
    )
    result = shared.run(*RUN, "-n2")
    result.assert_outcomes(passed=8)
    first, second = (json.loads((shared.path / f"pids-gw{n}").read_text())["pids"] for n in (0, 1))
    assert first[:3] == second[:3]
    assert first[3] != second[3]
    assert len(shared.starts) == 3 + 8
    assert len([line for line in summary(result) if "max_num" in line or "http:" in line]) == 11


def test_logs_in_a_directory_of_ones_own_leave_nothing_elsewhere(
    suite: Suite, shared: None
) -> None:
    suite.tests("def test_it(mlc_server): pass")
    suite.run(*RUN, "-n2", "--dist=each", "--mlc-log-dir=logs").assert_outcomes(passed=2)
    assert [path.suffix for path in (suite.path / "logs").iterdir()] == [".log"]
    assert suite.left() == []


def test_two_runs_at_the_same_time_share_nothing(shared: Suite) -> None:
    shared.tests(BUSY.replace("meet", "sheet"))
    begun = [shared.begin(*RUN, "-n2") for _ in range(2)]
    first, second = await_(lambda: shared.starts[1:2] and shared.starts, "two servers")
    interrupt(begun[0])  # it does not wait for the end of its server
    await_(lambda: not (runs(first) and runs(second)), "the end of its server")
    assert runs(first) or runs(second)
    interrupt(begun[1])
    assert len(shared.starts) == 2


# --- what fails -----------------------------------------------------------------------------------


def test_a_failed_start_is_tried_once_and_told_by_all_workers_in_the_same_words(
    suite: Suite,
) -> None:
    suite.write(conftest=CONFTEST)
    suite.tests(
        """
        import pytest
        from conftest import leave, wait_for, WORKER

        @pytest.mark.parametrize("n", range(2))
        def test_asks(request, n):
            try:
                request.getfixturevalue("mlc_server")
            except Exception as error:
                leave(f"error{n}-{WORKER}", text=str(error))
                raise
        """
    )
    result = suite.run(*RUN, "-n3", "--dist=each", orders="exit=3 say=no-memory")
    result.assert_outcomes(failed=6)
    assert len(suite.starts) == 1
    texts = {path.read_text() for path in suite.path.glob("error0-gw*")}
    assert len(texts) == 1
    assert "exit code 3" in texts.pop()
    result.stdout.fnmatch_lines(["*stand-in: leaving as ordered*"])
    assert left(suite) == []


def test_a_worker_that_replaces_a_crashed_one_uses_the_same_server(shared: Suite) -> None:
    shared.tests(
        """
        import os
        import pytest

        @pytest.mark.parametrize("n", range(6))
        def test_crashes(sheet, n):
            if n in (1, 3):
                os._exit(1)
        """
    )
    result = shared.run(*RUN, "-n2", "--mlc-log-dir=logs")
    result.assert_outcomes(passed=4, failed=2)
    assert len(workers(shared)) >= 3
    assert len(shared.starts) == 1
    assert {sheet["pid"] for sheet in sheets(shared)} == set(shared.starts)


def test_a_worker_that_crashes_while_it_starts_takes_nothing_from_the_others(
    shared: Suite,
) -> None:
    go = shared.path / "go"
    shared.tests(
        """
        import os
        import pytest
        from conftest import leave, wait_for, WORKER

        @pytest.mark.parametrize("n", range(4))
        def test_crashes(request, n):
            if WORKER == "gw0":
                wait_for("started.txt")
                leave("go")
                os._exit(1)
            assert request.getfixturevalue("mlc_server").check() == "ready"

        def never(mlc_server): pass
        """
    )
    result = shared.run(*RUN, "-n2", "--mlc-start=eager", orders=f"wait={go}")
    assert result.parseoutcomes()["failed"] == 1 or result.parseoutcomes()["passed"] >= 2
    assert len(shared.starts) == 1


#: The first worker hurts the server in its test while the other one is in a test as well; the
#: other one goes on before or after the first has had it started again.
HURT = """
    from conftest import leave, wait_for, WORKER

    def test_hurts(mlc_server, ask):
        leave(f"in-{WORKER}")
        wait_for("in-gw0", "in-gw1")
        if WORKER == "gw0":
            try:
                ask("PROMPT")
            except OSError:
                pass
        while not mlc_server.troubles:  # not its state: the other worker may be fast
            mlc_server.poll()
        assert WORKER != "gw0"

    def test_between():
        leave(f"between-{WORKER}")
        if WORKER == "gw0":
            wait_for("between-gw1")
        elif LATE:
            wait_for("after-gw0")

    def test_after(mlc_server, ask):
        assert ask("hello")["choices"]
        leave(f"after-{WORKER}")
        wait_for("after-gw0", "after-gw1")
        assert ask("hello")["choices"]
    """


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("prompt", ["crash", "wedge"])
def test_after_a_wedge_in_one_workers_test_it_is_started_again_once_for_all(
    suite: Suite, prompt: str, late: bool
) -> None:
    test = HURT.replace("PROMPT", prompt).replace("LATE", str(late))
    suite.write(conftest=CONFTEST + TOOLS, test_it=test)
    result = suite.run(*RUN, "-n2", "--dist=each")
    outcomes = result.parseoutcomes()
    assert outcomes == {"passed": 5, "failed": 1, "warnings": 1}, result.stdout.str()
    assert len(suite.starts) == 2
    (line,) = [line for line in summary(result) if "http://127.0.0.1:" in line and "::" not in line]
    assert "restarts: 1" in line


def test_the_budget_of_restarts_is_the_runs(suite: Suite) -> None:
    suite.write(
        conftest=CONFTEST + TOOLS,
        test_it="""
        import pytest

        @pytest.mark.parametrize("n", range(6))
        def test_kills(mlc_server, ask, n):
            before = len(mlc_server.troubles)
            try:
                ask("crash")
            except OSError:
                pass
            while len(mlc_server.troubles) == before:
                mlc_server.poll()
            assert False
        """,
    )
    result = suite.run(*RUN, "-n2", "--mlc-restarts=1")
    assert result.ret == 1
    assert len(suite.starts) == 2
    result.stdout.fnmatch_lines(["*it is not started again (--mlc-restarts 1)*"])


def test_a_log_slice_says_that_lines_may_be_another_tests(suite: Suite) -> None:
    suite.write(conftest=CONFTEST + TOOLS)
    suite.tests(
        """
        import pytest

        @pytest.mark.parametrize("n", range(2))
        def test_fails(ask, meet, n):
            ask("hello")
            assert False
        """
    )
    for arguments, may in ((RUN, True), (("-p", "xdist"), False)):
        text = suite.run(*arguments, "-n2").stdout.str()
        titles = re.findall(r"^-+ (mlc server log .*?) -+$", text, re.MULTILINE)
        assert len(titles) == 2, text
        assert all(("may belong to" in title) == may for title in titles)
