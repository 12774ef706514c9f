"""What each test costs at its servers: in reports, properties and the fixture."""

from __future__ import annotations

import pytest

from tests.support_costs import costs, run, sim_suite, tokens
from tests.support_plugin import Suite

__all__ = ["sim_suite"]


def test_each_test_has_its_own_cost(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        import pytest
        from conftest import ask

        def test_first(mlc_server):
            ask(mlc_server)

        def test_has_the_server_and_does_not_use_it(mlc_server):
            pass

        def test_several(mlc_server):
            for tokens in (1, 2, 3):
                ask(mlc_server, tokens)

        def test_without_the_server():
            pass

        @pytest.fixture
        def greeted(mlc_server):
            ask(mlc_server, 2)
            yield mlc_server
            ask(mlc_server, 90)

        def test_a_setup_counts_and_a_teardown_does_not(greeted):
            ask(greeted, 3)

        def test_after_a_teardown(mlc_server):
            ask(mlc_server, 4)

        def test_errors(mlc_server):
            assert ask(mlc_server, temperature="hot") == 422
            assert ask(mlc_server, path="/nowhere") == 404
            ask(mlc_server, 1)

        def test_its_own_look_at_the_metrics(mlc_server):
            import urllib.request
            from conftest import OPENER
            OPENER.open(mlc_server.base_url + "/metrics").close()

        def test_fails(mlc_server):
            ask(mlc_server, 6)
            assert False

        def test_after_a_failure(mlc_server):
            ask(mlc_server, 7)

        @pytest.fixture
        def broken(mlc_server):
            ask(mlc_server, 8)
            assert False

        def test_whose_setup_fails(broken):
            pass

        @pytest.mark.xfail
        def test_xfail(mlc_server):
            ask(mlc_server, 9)
            assert False

        def test_skips_on_the_way(mlc_server):
            ask(mlc_server, 10)
            pytest.skip("enough")

        def test_does_not_ask_for_the_fixture():
            import os
            assert ask(type("Server", (), {"base_url": os.environ["ADDRESS"]}), 11) != 404

        @pytest.fixture(autouse=True, scope="module")
        def address(mlc_server):
            import os
            os.environ["ADDRESS"] = mlc_server.base_url
        """
    )
    run(sim_suite, "--junitxml=it.xml").assert_outcomes(
        passed=10, failed=1, errors=1, xfailed=1, skipped=1
    )
    found = costs(sim_suite)
    assert {name: [tokens(cost) for cost in each] for name, each in found.items()} == {
        "test_first": [(1, 0, 100, 5)],
        "test_several": [(3, 0, 300, 6)],
        "test_a_setup_counts_and_a_teardown_does_not": [(2, 0, 200, 5)],
        "test_after_a_teardown": [(1, 0, 100, 4)],
        "test_errors": [(3, 2, 100, 1)],
        "test_its_own_look_at_the_metrics": [(1, 0, 0, 0)],
        "test_fails": [(1, 0, 100, 6)],
        "test_after_a_failure": [(1, 0, 100, 7)],
        "test_whose_setup_fails": [(1, 0, 100, 8)],
        "test_xfail": [(1, 0, 100, 9)],
        "test_skips_on_the_way": [(1, 0, 100, 10)],
        "test_does_not_ask_for_the_fixture": [(1, 0, 100, 11)],
    }
    first = found["test_first"][0]
    (server,) = first["servers"]
    assert server["server"].startswith("http://127.0.0.1:")
    assert tokens(server) == tokens(first)
    assert (first["shared"], first["note"], first["when"]) == ("", "", "call")
    assert first["seconds"] > first["duration"]  # the start of the server was in its setup
    assert found["test_whose_setup_fails"][0]["when"] == "setup"
    assert (first["ttft_at_least"], found["test_several"][0]["ttft_at_least"]) == (False, True)
    assert 0 < first["ttft_s"] < 60
    assert first["tokens_per_s"] == pytest.approx(4 / server["decode_s"])
    assert first["properties"] == {
        "mlc_requests": 1,
        "mlc_errors": 0,
        "mlc_prompt_tokens": 100,
        "mlc_completion_tokens": 5,
        "mlc_ttft_s": pytest.approx(first["ttft_s"], abs=1e-6),
        "mlc_tokens_per_s": pytest.approx(first["tokens_per_s"], abs=1e-6),
    }
    xml = (sim_suite.path / "it.xml").read_text()
    assert xml.count('<property name="mlc_completion_tokens"') == len(found)
    assert '<property name="mlc_completion_tokens" value="8"' in xml


def test_what_it_has_cost_so_far(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        import asyncio, unittest
        import pytest
        from conftest import ask, OPENER
        from pytest_mlc_server.errors import UsageUnknownError

        def test_it(mlc_server, mlc_usage):
            assert (mlc_usage.requests, mlc_usage.errors, mlc_usage.total_tokens) == (0, 0, 0)
            with pytest.raises(UsageUnknownError, match="ttft_s is not known: no request"):
                mlc_usage.ttft_s
            ask(mlc_server, 5)
            assert mlc_usage.completion_tokens == 5
            assert mlc_usage.ttft_s > 0 and not mlc_usage.ttft_at_least
            ask(mlc_server, 7)
            assert mlc_usage.completion_tokens == 12
            assert mlc_usage.total_tokens == 12 + mlc_usage.prompt_tokens
            # It looked after each request: nothing has escaped it.
            assert not mlc_usage.ttft_at_least
            assert mlc_usage.tokens_per_s > 0
            now = mlc_usage.now()
            assert (now.requests, now.server) == (2, "")
            assert now.seconds > now.prefill_s + now.decode_s
            assert [one.server for one in mlc_usage.servers()] == [mlc_server.base_url]
            assert str(mlc_usage).startswith("2 requests, 200 prompt + 12 completion tokens, ")
            assert repr(mlc_usage) == f"<mlc_usage: {mlc_usage}>"
            assert "completion_tokens" in dir(mlc_usage)
            with pytest.raises(AttributeError, match="no attribute 'cost'"):
                mlc_usage.cost

        def test_begins_at_nothing(mlc_usage):
            assert mlc_usage.requests == 0
            assert mlc_usage.now().shared == ""

        def test_a_stream_that_goes_on(mlc_server, mlc_usage):
            import json
            from urllib.request import Request
            body = json.dumps({"prompt": [5] * 500, "max_tokens": 400, "stream": True})
            url = mlc_server.openai_v1_base_url + "/completions"
            headers = {"Content-Type": "application/json"}
            with OPENER.open(Request(url, body.encode(), headers)) as answer:
                answer.readline()
                assert mlc_usage.requests == 1
                answer.read()
                # No new line in the log, and the tokens have come.
                assert mlc_usage.completion_tokens == 400

        class TestCase(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _server(self, mlc_server, mlc_usage):
                self.server, self.usage = mlc_server, mlc_usage

            def test_of_unittest(self):
                ask(self.server, 3)
                self.assertEqual(self.usage.completion_tokens, 3)

        @pytest.mark.parametrize("n", [1, 2])
        def test_parametrized(mlc_server, mlc_usage, n):
            async def main():
                await asyncio.to_thread(ask, mlc_server, n)
                return mlc_usage.completion_tokens
            assert asyncio.run(main()) == n
        """
    )
    run(sim_suite).assert_outcomes(passed=6)
    assert tokens(costs(sim_suite)["test_a_stream_that_goes_on"][0]) == (1, 0, 500, 400)


def test_restarts_resets_and_deaths(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        import time
        from conftest import ask

        def test_restart(mlc_server, mlc_usage):
            ask(mlc_server, 5)
            mlc_server.restart()
            ask(mlc_server, 3)
            assert mlc_usage.completion_tokens == 3

        def test_restart_after_a_look(mlc_server, mlc_usage):
            ask(mlc_server, 5)
            assert mlc_usage.completion_tokens == 5
            mlc_server.restart()
            ask(mlc_server, 3)

        def test_reset(mlc_server):
            ask(mlc_server, 5)
            ask(mlc_server, path="/debug/reset_engine", model="x")
            ask(mlc_server, 90)

        def test_is_not_concerned(mlc_server):
            ask(mlc_server, 4)

        def test_wedge(mlc_sim, mlc_server, mlc_usage):
            ask(mlc_server, 2)
            assert mlc_usage.completion_tokens == 2
            mlc_sim.wedge()
            while mlc_server.poll() != "wedged":
                time.sleep(0.01)

        def test_has_a_new_server(mlc_server):
            ask(mlc_server, 4)

        def test_temporary(mlc_server, mlc_server_factory):
            with mlc_server_factory.temporary(model="other") as other:
                ask(other, 6)
            ask(mlc_server, 1)
        """
    )
    run(sim_suite, "--mlc-restarts=5")
    found = {name: each[0] for name, each in costs(sim_suite).items()}
    assert {name: tokens(cost) for name, cost in found.items()} == {
        "test_restart": (2, 0, 100, 3),
        "test_restart_after_a_look": (2, 0, 200, 8),
        "test_reset": (3, 0, 100, 90),
        "test_is_not_concerned": (1, 0, 100, 4),
        "test_wedge": (1, 0, 100, 2),
        "test_has_a_new_server": (1, 0, 100, 4),
        "test_temporary": (2, 0, 200, 7),
    }
    exact = {name for name, cost in found.items() if not cost["note"]}
    assert exact == {"test_is_not_concerned", "test_has_a_new_server", "test_temporary"}
    assert "started again" in found["test_restart"]["note"]
    assert "reset" in found["test_reset"]["note"]
    assert "the server is wedged" in found["test_wedge"]["note"]
    assert found["test_restart"]["properties"]["mlc_note"] == found["test_restart"]["note"]
    assert [tokens(one) for one in found["test_temporary"]["servers"]] == [
        (1, 0, 100, 1),
        (1, 0, 100, 6),
    ]


@pytest.mark.parametrize("reset", ["never", "test"])
def test_what_we_do_between_tests_is_nobodys_cost(reset: str, sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        from conftest import ask

        def test_one(mlc_server):
            ask(mlc_server, 5)
            assert False

        def test_other(mlc_server, mlc_usage):
            assert mlc_usage.requests == 0
            ask(mlc_server, 4)
        """
    )
    run(sim_suite, f"--mlc-reset={reset}").assert_outcomes(passed=1, failed=1)
    found = costs(sim_suite)
    assert tokens(found["test_one"][0]) == (1, 0, 100, 5)
    assert tokens(found["test_other"][0]) == (1, 0, 100, 4)
    assert found["test_other"][0]["note"] == ""
