"""Nothing is started unless a test asks for it."""

from __future__ import annotations

import pytest

from tests.support_plugin import Suite

ASKS = """
import pytest

@pytest.fixture(scope="session", autouse=True)
def everywhere(request):
    if "mlc_server" in request.node.items[0].fixturenames:
        request.getfixturevalue("mlc_server")

def test_asks(mlc_server, mlc_environ):
    assert mlc_server.is_alive()
"""


@pytest.mark.parametrize("look", ["--collect-only", "--setup-plan", "--fixtures", "--help"])
def test_a_look_at_a_suite_starts_nothing(suite: Suite, look: str) -> None:
    suite.tests(ASKS)
    result = suite.run(look)
    assert result.ret == 0
    assert suite.starts == []
    assert suite.left_logs == []


def test_a_suite_that_does_not_ask_starts_nothing(suite: Suite) -> None:
    suite.tests(
        """
        def test_plain(mlc_server_config, mlc_server_factory):
            pass

        def test_asks(mlc_server):
            pass
        """
    )
    result = suite.run("-k", "plain")
    result.assert_outcomes(passed=1, deselected=1)
    assert suite.starts == []
    result.stdout.no_fnmatch_line("*mlc servers*")


def test_nothing_of_it_shows_where_nothing_is_configured(suite: Suite) -> None:
    suite.tests("def test_plain(): pass")
    result = suite.run_bare()
    result.assert_outcomes(passed=1)
    shown = [line for line in result.outlines if not line.startswith("plugins: ")]
    assert not [line for line in shown if "mlc" in line]


def test_asking_with_nothing_configured_lists_the_ways(suite: Suite) -> None:
    suite.tests(
        """
        def test_first(mlc_server): pass
        def test_second(mlc_environ): pass
        def test_third(mlc_server_factory): mlc_server_factory(mode="server")
        """
    )
    result = suite.run_bare()
    result.assert_outcomes(errors=2, failed=1)
    assert result.ret == 1
    for way in ("--mlc-model", "--mlc-engine mock", "--mlc-engine sim", "--mlc-url"):
        result.stdout.fnmatch_lines([f"*{way} *"])
    result.stdout.fnmatch_lines(["*mlc_model*PYTEST_MLC_MODEL*mlc_server_config*"])


def test_the_simulator_does_not_step_in_for_another_engine(suite: Suite) -> None:
    suite.tests("def test_asks(mlc_server): pass")
    result = suite.run_bare("--mlc-device=cpu")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *no MLC server is configured*"])
