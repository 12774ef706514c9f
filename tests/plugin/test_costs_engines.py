"""Costs with engines that count less, with the simulator's script, with several models."""

from __future__ import annotations

from tests.support_costs import CONFTEST, costs, run, sim_suite, tokens
from tests.support_plugin import Suite

__all__ = ["sim_suite"]


def test_a_mock_engine_counts_requests_alone(suite: Suite) -> None:
    suite.write(conftest=CONFTEST)
    suite.tests(
        """
        import pytest
        from conftest import ask
        from pytest_mlc_server.errors import UsageUnknownError

        def test_it(mlc_server, mlc_usage):
            ask(mlc_server)
            assert mlc_usage.requests == 1
            with pytest.raises(UsageUnknownError, match="its engine counts no tokens"):
                mlc_usage.completion_tokens
        """
    )
    # The stand-in's metrics have no tokens either.
    suite.run().assert_outcomes(passed=1)
    (cost,) = costs(suite)["test_it"]
    assert tokens(cost) == (1, 0, None, None)
    assert set(cost["properties"]) == {"mlc_requests", "mlc_errors"}


def test_an_external_server_has_tokens_and_no_requests(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        import pytest
        from conftest import ask

        def test_it(mlc_server, mlc_usage):
            ask(mlc_server)
            assert mlc_usage.completion_tokens == 5
            assert "did not start the server" in mlc_usage.shared

        def test_other(mlc_server):
            ask(mlc_server, 3)

        def test_none(mlc_server):
            pass
        """
    )
    from pytest_mlc_server import PopenServer

    with PopenServer(None, engine="sim", port="auto", cwd=str(sim_suite.path)) as server:
        result = sim_suite.run_bare(
            f"--mlc-url={server.base_url}", "-p", "no:randomly", "--mlc-durations=3"
        )
    result.assert_outcomes(passed=3)
    found = costs(sim_suite)
    assert {name: tokens(each[0]) for name, each in found.items()} == {
        "test_it": (None, None, 100, 5),
        "test_other": (None, None, 100, 3),
    }
    assert "mlc_requests" not in found["test_it"][0]["properties"]
    assert "did not start the server" in found["test_it"][0]["properties"]["mlc_shared"]
    result.stdout.fnmatch_lines(["* 105[*] * test_it.py::test_it", "[*] this run did not start*"])


def test_switched_off(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        from conftest import ask

        def test_it(mlc_server):
            ask(mlc_server)
            with open(mlc_server.log_path) as log:
                assert "/metrics" not in log.read()

        def test_asks_for_it(mlc_usage):
            assert False
        """
    )
    result = run(sim_suite, "--mlc-no-usage", "--mlc-durations=3", "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    assert costs(sim_suite) == {}
    result.stdout.fnmatch_lines(
        [
            "nothing was recorded: --mlc-no-usage",
            "SKIPPED * mlc_usage: what tests cost is not recorded in this run (*--mlc-*usage*)",
        ]
    )


def test_beside_the_simulators_script(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        from conftest import ask

        def test_it(mlc_sim, mlc_server, mlc_usage):
            mlc_sim.default("fail")
            mlc_sim.when("Hello").reply("Yes.")
            mlc_sim.fail(503, when={"containing": "snow"})
            ask(mlc_server, prompt="Hello")
            assert ask(mlc_server, prompt="snow") == 503
            assert (mlc_usage.requests, mlc_usage.errors) == (2, 1)
            assert len(mlc_sim.requests) == 2  # our own questions are none of them
        """
    )
    run(sim_suite).assert_outcomes(passed=1)


def test_several_models(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        from conftest import ask

        def test_it(mlc_server):
            ask(mlc_server, 5)
        """
    )
    run(sim_suite, "--mlc-model=one", "--mlc-model=two").assert_outcomes(passed=2)
    found = costs(sim_suite)
    assert {name: [tokens(cost) for cost in each] for name, each in found.items()} == {
        "test_it[one]": [(1, 0, 100, 5)],
        "test_it[two]": [(1, 0, 100, 5)],
    }
