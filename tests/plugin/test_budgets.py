"""The mark `mlc_budget`: a test that costs more than it may fails, with the figures."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_mlc_server.exchanges import Exchange
from pytest_mlc_server.reporting.budgets import Verdict
from pytest_mlc_server.usage import Usage
from tests.support_costs import run, sim_suite
from tests.support_plugin import Suite

__all__ = ["sim_suite"]


def lines_of(result: pytest.RunResult, beginning: str) -> list[str]:
    return [line.strip() for line in result.outlines if line.strip().startswith(beginning)]


def test_what_costs_too_much_fails(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        import time, unittest
        import pytest
        from conftest import ask

        budget = pytest.mark.mlc_budget

        @budget(tokens=1000, seconds=60, ttft=60)
        def test_within(mlc_server):
            ask(mlc_server)

        @budget(tokens=105)
        def test_just_within(mlc_server):
            ask(mlc_server)

        @budget(tokens=104)
        def test_tokens(mlc_server):
            ask(mlc_server)

        @budget(seconds=0)
        def test_seconds(mlc_server):
            ask(mlc_server)

        @budget(seconds=0)
        def test_seconds_without_a_server():
            pass

        @budget(ttft=0)
        def test_ttft(mlc_server):
            ask(mlc_server)

        @budget(tokens=0, seconds=0, ttft=0)
        def test_nothing_asked(mlc_server):
            pass

        @budget(tokens=0, ttft=0)
        def test_zero(mlc_server):
            pass

        @budget(tokens=0)
        def test_fails_by_itself(mlc_server):
            ask(mlc_server)
            assert 1 == 2

        @pytest.mark.xfail(reason="too dear")
        @budget(tokens=0)
        def test_xfail(mlc_server):
            ask(mlc_server)

        @budget(tokens=0)
        class TestClass:
            def test_of_the_class(self, mlc_server):
                ask(mlc_server)

            @budget(tokens=200)
            def test_says_itself(self, mlc_server):
                ask(mlc_server)

            @budget(ttft=60)
            def test_says_other_things(self, mlc_server):
                ask(mlc_server)

        @budget(tokens=0)
        class TestCase(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _server(self, mlc_server):
                self.server = mlc_server

            def test_of_unittest(self):
                ask(self.server)

        @pytest.mark.parametrize("n", [1, pytest.param(9, marks=budget(tokens=1))])
        def test_parametrized(mlc_server, n):
            ask(mlc_server, n)

        @budget(tokens=102)
        def test_setups_count(mlc_server, request):
            ask(mlc_server, 1)
            ask(mlc_server, 1)
        """
    )
    result = run(sim_suite, "-rfxX", "--strict-markers", "--junitxml=it.xml")
    result.assert_outcomes(passed=5, failed=11, xfailed=1)
    failed = {line.split(" ")[1].rpartition("::")[2] for line in lines_of(result, "FAILED")}
    assert failed == {
        "test_tokens",
        "test_seconds",
        "test_seconds_without_a_server",
        "test_ttft",
        "test_nothing_asked",
        "test_fails_by_itself",
        "test_of_the_class",
        "test_says_other_things",
        "test_of_unittest",
        "test_parametrized[9]",
        "test_setups_count",
    }
    result.stdout.fnmatch_lines(
        [
            "over its mlc_budget: 105 tokens of 104 (100 prompt + 5 completion)",
            "in all: 1 request, 100 prompt + 5 completion tokens, first token after *",
            "over its mlc_budget: 0.0* seconds of 0",
            "over its mlc_budget: first token after * of 0.0 ms",
        ]
    )
    assert "warnings summary" not in result.stdout.str()
    assert '<property name="mlc_completion_tokens" value="5"' in (
        sim_suite.path / "it.xml"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("tokens='many'", "(tokens='many'): expected a number of 0 or more"),
        ("tokens=True", "(tokens=True): expected a number of 0 or more"),
        ("tokens=-1", "(tokens=-1): expected a number of 0 or more"),
        ("seconds=float('nan')", "(seconds=nan): expected a number of 0 or more"),
        ("ttft=float('inf')", "(ttft=inf): expected a number of 0 or more"),
        ("ttft=None", "(ttft=None): expected a number of 0 or more"),
        ("token=5", ": there is no token=5, there are tokens=..., seconds=..., ttft=..."),
        ("5", "(5,): name what it limits: tokens=..., seconds=..., ttft=..."),
        ("", " limits nothing; there are tokens=..., seconds=..., ttft=..."),
    ],
)
def test_a_wrong_budget_ends_the_run_before_it_begins(
    mark: str, said: str, sim_suite: Suite
) -> None:
    sim_suite.tests(
        f"""
        import pytest

        def test_other(mlc_server):
            assert False

        @pytest.mark.mlc_budget({mark})
        def test_it():
            assert False
        """
    )
    result = run(sim_suite)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: test_it.py::test_it: mark mlc_budget{said}" in result.stderr.str()
    assert sim_suite.left_logs == []  # nothing was started


def test_on_a_worker_a_wrong_budget_is_the_tests_error(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        import pytest
        from conftest import ask

        @pytest.mark.mlc_budget(tokens="many")
        def test_it():
            assert False

        @pytest.mark.mlc_budget(tokens=1)
        def test_other(mlc_server):
            ask(mlc_server)
        """
    )
    result = run(sim_suite, "-p", "xdist", "-n1")
    result.assert_outcomes(errors=1, failed=1)
    result.stdout.fnmatch_lines(
        ["test_it.py::test_it: mark mlc_budget(tokens='many'): expected a number *"]
    )
    result.stdout.fnmatch_lines(["over its mlc_budget: 105 tokens of 1 (*"])


def test_what_cannot_be_checked_is_said(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        import pytest
        from conftest import ask

        @pytest.mark.mlc_budget(tokens=10_000)
        def test_restart(mlc_server):
            ask(mlc_server)
            mlc_server.restart()
            ask(mlc_server)

        @pytest.mark.mlc_budget(tokens=1)
        def test_restart_and_too_much(mlc_server):
            mlc_server.restart()
            ask(mlc_server)

        @pytest.mark.mlc_budget(ttft=0.2)
        def test_several(mlc_sim, mlc_server):
            mlc_sim.latency(ttft=0.3)
            ask(mlc_server)
            mlc_sim.latency(ttft=0.0)
            ask(mlc_server)
        """
    )
    result = run(sim_suite)
    result.assert_outcomes(passed=2, failed=1, warnings=2)
    result.stdout.fnmatch_lines(
        [
            "*::test_restart: its mlc_budget of tokens was not checked: the server was started *",
            "*::test_several: its mlc_budget of ttft was not checked: the server tells that of *",
        ]
    )


def test_an_engine_without_tokens(suite: Suite) -> None:
    suite.tests(
        """
        import pytest, urllib.request

        @pytest.mark.mlc_budget(tokens=1, seconds=60)
        def test_it(mlc_server):
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            opener.open(mlc_server.openai_v1_base_url + "/models").close()
        """
    )
    result = suite.run("-W", "default")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(
        ["*its mlc_budget of tokens was not checked: its engine counts no tokens*"]
    )


def test_switched_off(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        import pytest
        from conftest import ask

        @pytest.mark.mlc_budget(tokens=1, ttft=0)
        def test_it(mlc_server):
            ask(mlc_server)

        @pytest.mark.mlc_budget(seconds=0)
        def test_seconds(mlc_server):
            ask(mlc_server)
        """
    )
    result = run(sim_suite, "--mlc-no-usage")
    result.assert_outcomes(passed=1, failed=1, warnings=2)
    result.stdout.fnmatch_lines(["*mlc_budget of tokens was not checked: --mlc-no-usage*"])
    result.stdout.fnmatch_lines(["*mlc_budget of ttft was not checked: --mlc-no-usage*"])


def test_the_mark_is_told_of(suite: Suite) -> None:
    suite.run_bare("--markers").stdout.fnmatch_lines(["@pytest.mark.mlc_budget(tokens=None, *"])


# --- what is decided on which evidence ------------------------------------------------------------


def sent(*waits: float | None, tokens: int = 0) -> list[Exchange]:
    """Return requests of our own clients that got their first bytes after so many seconds."""
    return [Exchange("http://a", "POST", "/v1", 200, 0.0, 1.0, wait, tokens, 0) for wait in waits]


@pytest.mark.parametrize(
    ("limits", "usage", "exchanges", "over", "doubts"),
    [
        # Of several requests the server tells the last one's time alone.
        ({"ttft": 0.5}, Usage(ttft_s=0.7, ttft_at_least=True, requests=2), [], 1, 0),
        ({"ttft": 0.5}, Usage(ttft_s=0.3, ttft_at_least=True, requests=2), [], 0, 1),
        # Nothing took longer than the test.
        ({"ttft": 2.5}, Usage(ttft_s=0.3, ttft_at_least=True, requests=2), [], 0, 0),
        # Our own clients saw all of them, or did not.
        ({"ttft": 0.5}, Usage(ttft_s=0.3, ttft_at_least=True, requests=2), sent(0.4, 0.1), 0, 0),
        ({"ttft": 0.5}, Usage(ttft_s=0.3, ttft_at_least=True, requests=3), sent(0.4, 0.1), 0, 1),
        ({"ttft": 0.5}, Usage(ttft_s=0.3, ttft_at_least=True, requests=2), sent(0.6, 0.1), 0, 1),
        ({"ttft": 0.5}, Usage(ttft_s=0.3, ttft_at_least=True, requests=2), sent(None, 0.1), 0, 1),
        ({"ttft": 0.5}, Usage(ttft_s=0.3, ttft_at_least=True), sent(0.4, 0.1), 0, 1),
        ({"ttft": 0.5}, Usage(ttft_s=0.7, shared="others"), [], 0, 1),
        ({"ttft": 0.5}, Usage(requests=1, prompt_tokens=0), [], 0, 0),
        ({"ttft": 0.5}, Usage(requests=1), [], 0, 1),
        ({"tokens": 9}, Usage(prompt_tokens=5, completion_tokens=5), [], 1, 0),
        ({"tokens": 10}, Usage(prompt_tokens=5, completion_tokens=5), [], 0, 0),
        ({"tokens": 9}, Usage(prompt_tokens=5, completion_tokens=5, shared="others"), [], 0, 1),
        ({"tokens": 10}, Usage(prompt_tokens=5, completion_tokens=5, shared="others"), [], 0, 0),
        (
            {"tokens": 9},
            Usage(prompt_tokens=50, completion_tokens=5, shared="others"),
            sent(0.1, tokens=10),
            1,
            0,
        ),
        ({"tokens": 9}, Usage(), sent(0.1, tokens=10), 1, 0),
        ({"tokens": 9}, Usage(), sent(0.1, tokens=9), 0, 1),
        ({"tokens": 10}, Usage(prompt_tokens=5, completion_tokens=5, note="reset"), [], 0, 1),
        ({"tokens": 9}, Usage(prompt_tokens=5, completion_tokens=5, note="reset"), [], 1, 0),
        ({"seconds": 1.5, "tokens": 1}, Usage(prompt_tokens=1, completion_tokens=1), [], 2, 0),
    ],
)
def test_what_is_beyond_doubt(
    limits: dict[str, float], usage: Usage, exchanges: list[Exchange], over: int, doubts: int
) -> None:
    verdict = Verdict(limits, dataclasses.replace(usage, seconds=2.0), exchanges)
    assert (len(verdict.over), len(verdict.doubts)) == (over, doubts)
