"""Costs where others use the server as well, with xdist and beside other plugins; the table."""

from __future__ import annotations

import pytest

from tests.support_costs import costs, run, sim_suite, tokens
from tests.support_plugin import Suite

pytestmark = pytest.mark.slow

__all__ = ["sim_suite"]


def test_what_workers_share_is_said_to_be_shared(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        import os, time
        import pytest
        from conftest import ask

        def both(what):
            # Each worker runs the test, and both at the same time.
            open(f"{what}-{os.environ['PYTEST_XDIST_WORKER']}", "w").close()
            while len([name for name in os.listdir() if name.startswith(what)]) < 2:
                time.sleep(0.005)

        @pytest.mark.mlc_budget(tokens=110)
        def test_it(mlc_server, mlc_usage):
            both("began")
            ask(mlc_server, 5)
            both("asked")
            assert mlc_usage.requests >= 2
            assert mlc_usage.total_tokens >= 210
            assert "other workers" in mlc_usage.shared
            both("ended")

        def test_without_the_server():
            pass
        """
    )
    workers = ("-p", "xdist", "-n2", "--dist=each")
    result = run(sim_suite, *workers, "--mlc-scope=run", "--mlc-durations=5")
    result.assert_outcomes(passed=4, warnings=2)
    found = costs(sim_suite)
    assert set(found) == {"test_it"}
    assert len(found["test_it"]) == 2
    for cost in found["test_it"]:
        assert cost["requests"] >= 2
        assert cost["prompt_tokens"] >= 200
        assert "other workers" in cost["shared"] == cost["properties"]["mlc_shared"]
    result.stdout.fnmatch_lines(
        [
            "*over its mlc_budget, but not beyond doubt: 2* tokens of 110 (*); *",
            "*mlc server: 2 most expensive tests*",
            "[*] other workers of the run use the server at the same time",
        ]
    )


def test_tokens_of_our_own_clients_are_the_tests_beyond_doubt(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        import pytest

        @pytest.mark.mlc_budget(tokens=10)
        def test_it(mlc_server):
            mlc_server.complete("Hello " * 20, max_tokens=5)
        """
    )
    from pytest_mlc_server import PopenServer

    with PopenServer(None, engine="sim", port="auto", cwd=str(sim_suite.path)) as server:
        result = sim_suite.run_bare(f"--mlc-url={server.base_url}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["over its mlc_budget: * tokens of 10 (of the clients *"])


def test_a_single_worker_shares_with_nobody(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        from conftest import ask

        def test_it(mlc_server):
            ask(mlc_server, 5)
        """
    )
    run(sim_suite, "-p", "xdist", "-n1", "--mlc-scope=run").assert_outcomes(passed=1)
    (cost,) = costs(sim_suite)["test_it"]
    assert tokens(cost) == (1, 0, 100, 5)
    assert cost["shared"] == ""


def test_the_most_expensive_tests(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        import pytest
        from conftest import ask

        @pytest.mark.parametrize("n", range(1, 8))
        def test_it(mlc_server, n):
            for _ in range(n):
                ask(mlc_server, n)

        def test_nothing(mlc_server):
            pass
        """
    )
    result = run(sim_suite, "-p", "xdist", "-n2", "--mlc-durations=3", "--junitxml=it.xml")
    result.assert_outcomes(passed=8)
    begin = next(n for n, line in enumerate(result.outlines) if "most expensive" in line)
    title, head, *rows, more = result.outlines[begin : begin + 6]
    assert title.strip("= ") == "mlc server: 3 most expensive tests"
    assert head.split("  ")[-1] == "test"
    assert [row.split()[0] for row in rows] == ["749", "636", "525"]
    assert [row.split()[1] for row in rows] == ["7", "6", "5"]
    assert [row.split()[-1] for row in rows] == [f"test_it.py::test_it[{n}]" for n in (7, 6, 5)]
    assert more == "(4 more that used a server cost less)"
    xml = (sim_suite.path / "it.xml").read_text(encoding="utf-8")
    assert xml.count('<property name="mlc_requests"') == 7


@pytest.mark.parametrize("flag", ["-q", "-qq"])
def test_the_table_of_a_quiet_run(flag: str, sim_suite: Suite) -> None:
    sim_suite.tests("def test_it(): pass")
    result = run(sim_suite, "--mlc-durations=3", flag)
    assert ("no test used a server" in result.outlines) == (flag == "-q")


def test_a_test_that_runs_again_has_the_cost_of_its_last_run(sim_suite: Suite) -> None:
    pytest.importorskip("pytest_rerunfailures")
    sim_suite.tests(
        """
        from conftest import ask

        RUNS = []

        def test_it(mlc_server, mlc_usage):
            assert mlc_usage.requests == 0
            RUNS.append(1)
            ask(mlc_server, len(RUNS))
            assert len(RUNS) == 3
        """
    )
    result = run(sim_suite, "-p", "rerunfailures", "--reruns=2")
    assert "1 passed, 2 rerun" in result.stdout.str()
    found = costs(sim_suite)["test_it"]
    assert [tokens(cost) for cost in found] == [(1, 0, 100, n) for n in (1, 2, 3)]
    assert found[-1]["properties"]["mlc_completion_tokens"] == 3


def test_subtests_do_not_end_the_account(sim_suite: Suite) -> None:
    if not hasattr(pytest, "Subtests"):
        pytest.skip("this pytest has no subtests")
    sim_suite.tests(
        """
        from conftest import ask

        def test_it(mlc_server, subtests):
            for n in (1, 2):
                with subtests.test(n=n):
                    ask(mlc_server, n)
        """
    )
    run(sim_suite)
    (cost,) = costs(sim_suite)["test_it"]
    assert tokens(cost) == (2, 0, 200, 3)


def test_async_tests(sim_suite: Suite) -> None:
    pytest.importorskip("anyio")
    sim_suite.tests(
        """
        import anyio, pytest
        from conftest import ask

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        @pytest.mark.mlc_budget(tokens=1)
        async def test_it(mlc_server, mlc_usage):
            await anyio.to_thread.run_sync(ask, mlc_server)
            assert mlc_usage.completion_tokens == 5
        """
    )
    result = run(sim_suite, "-p", "anyio")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["over its mlc_budget: 105 tokens of 1 (*"])
