"""A simulator that a test ends on purpose: the next test has a new one, and nobody is blamed."""

from __future__ import annotations

import re

import pytest

from tests.plugin.test_mlc_sim import APP, run
from tests.support_plugin import Suite

pytestmark = pytest.mark.slow

#: Both ways to die, at once and by a rule; after each, a test that needs a server that works.
DEATHS = """
    import time
    import pytest
    from pytest_mlc_server import Reply, SimulatorError

    @pytest.mark.parametrize("death", ["crash", "wedge"])
    def test_at_once(mlc_sim, ask, death):
        getattr(mlc_sim, death)()
        with pytest.raises(OSError):
            ask("a")

    def test_between(mlc_sim, ask):
        mlc_sim.when("weather").reply("Sunny")
        assert ask("weather") == "Sunny"

    @pytest.mark.parametrize("death", ["crash", "wedge"])
    def test_by_a_rule(mlc_sim, ask, death):
        getattr(mlc_sim.when("now"), death)()
        assert ask("later") == "later"
        with pytest.raises(OSError):
            ask("now")

    def test_without_the_fixture(ask):
        assert ask("a") == "a"

    def test_by_a_fault_and_nobody_waits(mlc_sim, ask):
        mlc_sim.faults.sequence(Reply.wedge())
        with pytest.raises(OSError):
            ask("a", timeout=0.05)
        try:
            while not mlc_sim.requests:
                time.sleep(0.005)
        except SimulatorError:
            pass  # it died already

    def test_last(mlc_sim, ask):
        assert mlc_sim.requests == []
        assert ask("a") == "a"
    """


@pytest.fixture
def sim_suite(suite: Suite) -> Suite:
    suite.write(conftest=APP)
    return suite


def test_the_next_test_has_a_server_and_no_restart_is_used_up(sim_suite: Suite) -> None:
    sim_suite.tests(DEATHS)
    result = run(sim_suite, "--mlc-restarts=1")
    result.assert_outcomes(passed=8)
    text = result.stdout.str()
    assert "warning" not in text
    told = re.findall(
        r"^test_it.py::(\S+): .*, on purpose \((.*)\); started again in", text, re.MULTILINE
    )
    assert told == [
        ("test_at_once[crash]", "mlc_sim.crash()"),
        ("test_at_once[wedge]", "mlc_sim.wedge()"),
        ("test_by_a_rule[crash]", "when(containing='now') of mlc_sim"),
        ("test_by_a_rule[wedge]", "when(containing='now') of mlc_sim"),
        ("test_by_a_fault_and_nobody_waits", "a fault of mlc_sim"),
    ]
    assert sim_suite.left_logs == []


def test_without_restarts_there_is_none(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        def test_ends_it(mlc_sim):
            mlc_sim.crash()

        def test_next(mlc_sim): pass
        """
    )
    result = run(sim_suite, "--mlc-restarts=0")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E *on purpose (mlc_sim.crash()), during*::test_ends_it; it is*"])


def test_a_test_that_fails_of_it_tells_what_happened(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        def test_fails(mlc_sim, ask):
            mlc_sim.wedge()
            ask("a")
        """
    )
    result = run(sim_suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- mlc server (sim, http://127.0.0.1:*) -*",
            "during this test: the server is wedged: *, on purpose (mlc_sim.wedge())",
            "*InternalError*",
        ]
    )


def test_a_death_that_nobody_asked_for_is_told_as_ever(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        import os, signal

        def test_never(mlc_sim, ask):
            mlc_sim.when("never").crash()
            ask("a")

        def test_killed(mlc_sim, mlc_server):
            os.kill(mlc_server.pid, signal.SIGKILL)
            while mlc_server.poll() == "ready":
                pass

        def test_next(mlc_sim, ask):
            ask("a")
        """
    )
    result = run(sim_suite, "-W", "default")
    result.assert_outcomes(passed=3, warnings=1)
    result.stdout.fnmatch_lines(["*test_killed did not fail, although*SIGKILL*"])
    assert "on purpose" not in result.stdout.str()


def test_a_server_that_answers_badly_on_purpose_is_not_taken_for_wedged(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        import pytest

        def test_fails(mlc_sim, ask):
            mlc_sim.when().stall()
            with pytest.raises(OSError):
                ask("a", timeout=0.2)
            assert False, "for another reason"

        def test_fails_too(mlc_sim, ask):
            mlc_sim.latency(ttft=60)
            mlc_sim.fail(503)
            assert ask("a") == 200

        def test_same_server(mlc_server, ask):
            assert (ask("a"), mlc_server.restarts) == ("a", 0)
        """
    )
    result = run(sim_suite)
    result.assert_outcomes(failed=2, passed=1)
    assert "is wedged" not in result.stdout.str()
