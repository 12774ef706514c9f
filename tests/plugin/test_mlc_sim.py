"""The fixture `mlc_sim`: afresh for each test, skipped on other engines, told what went wrong."""

from __future__ import annotations

import pytest

from tests.support_plugin import PLAIN, Suite

#: An application under test, which knows the server from its environment alone.
APP = """
    import json, os
    from urllib.error import HTTPError
    from urllib.request import ProxyHandler, Request, build_opener
    import pytest

    OPENER = build_opener(ProxyHandler({}))
    HEADERS = {"Content-Type": "application/json"}

    @pytest.fixture
    def ask(mlc_environ):
        def ask(text, timeout=60):
            url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
            body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
            try:
                with OPENER.open(Request(url, body, HEADERS), timeout=timeout) as answer:
                    content = json.load(answer)["choices"][0]["message"]["content"]
                # An echo is one of the whole prompt, as the model would get it.
                return text if f"user\\n{text}<" in content else content
            except HTTPError as error:
                with error:
                    return error.code
        return ask
    """


@pytest.fixture
def sim_suite(suite: Suite) -> Suite:
    suite.write(conftest=APP)
    return suite


def run(suite: Suite, *args: str) -> pytest.RunResult:
    """Run the suite with the simulator, in the order in which its tests stand."""
    return suite.run_bare("--mlc-engine=sim", "-p", "no:randomly", *args)


def test_each_test_begins_afresh_and_leaves_nothing(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        def test_first(mlc_sim, ask):
            mlc_sim.when("weather").reply("Sunny")
            mlc_sim.fail(503, when={"containing": "snow"})
            assert [ask("weather"), ask("snow")] == ["Sunny", 503]
            mlc_sim.assert_called(times=2)

        def test_second(mlc_sim, ask):
            assert mlc_sim.requests == []
            assert [ask("weather"), ask("snow")] == ["weather", "snow"]
            mlc_sim.default("fail")

        def test_without_it(ask):
            assert ask("weather") == "weather"

        def test_asked_for_in_the_middle(request, ask):
            mlc_sim = request.getfixturevalue("mlc_sim")
            mlc_sim.when("weather").reply("Cold")
            assert ask("weather") == "Cold"

        class TestSame:
            def test_is_the_sessions_server(self, mlc_sim, mlc_server):
                assert mlc_sim.server is mlc_server
        """
    )
    result = run(sim_suite)
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["sim 'sim-model', device auto, http://*"])
    assert sum("ready after" in line for line in result.outlines) == 1


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--mlc-model=m"], "engine = 'mlc' (the default)"),
        (["--mlc-engine=mock"], "engine = 'mock' (from --mlc-engine on the command line)"),
        (
            ["--mlc-url=http://127.0.0.1:1"],
            "url = 'http://127.0.0.1:1' (from --mlc-url on the command line)",
        ),
    ],
)
def test_on_other_engines_the_test_is_skipped_before_a_server_starts(
    args: list[str], reason: str, suite: Suite
) -> None:
    suite.tests(
        """
        import unittest
        import pytest

        def test_both(mlc_server, mlc_sim): pass

        @pytest.mark.usefixtures("mlc_sim")
        class TestUsing(unittest.TestCase):
            def test_it(self): pass

        def test_later(request):
            request.getfixturevalue("mlc_sim")
        """
    )
    result = suite.run_bare("-rs", *args)
    result.assert_outcomes(skipped=3)
    skips = [line for line in result.outlines if line.startswith("SKIPPED")]
    wanted = "mlc_sim scripts the simulator (--mlc-engine sim), and this run has "
    assert skips
    assert all(line.endswith(wanted + reason) for line in skips), skips
    assert "mlc servers" not in result.stdout.str()


def test_an_overridden_configuration_decides(suite: Suite) -> None:
    suite.write(
        conftest="""
            import pytest

            @pytest.fixture(scope="session")
            def mlc_server_config(mlc_server_config):
                return mlc_server_config.replace(engine="mock")
            """,
        test_it="def test_it(mlc_sim): pass",
    )
    result = run(suite, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*engine = 'mock' (from the fixture mlc_server_config)"])


def test_a_test_fails_at_its_end_for_what_it_did_not_expect(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        def test_unexpected(mlc_sim, ask):
            mlc_sim.default("fail")
            mlc_sim.when("weather", name="forecast").reply("Sunny")
            assert ask("weather") == "Sunny"
            assert ask("snow") == 500

        def test_function(mlc_sim, ask):
            def forecast(request):
                raise LookupError(f"no city in {request.last_message}")
            mlc_sim.when("weather").reply_with(forecast)
            assert ask("weather") == 500

        def test_assertion_in_a_function(mlc_sim, ask):
            def forecast(request):
                assert request.model == "another"
            mlc_sim.when("weather").reply_with(forecast)
            ask("weather")

        def test_function_that_skips_is_no_skip(mlc_sim, ask):
            import pytest
            mlc_sim.when("weather").reply_with(lambda request: pytest.skip("no"))
            ask("weather")

        def test_begun(mlc_sim):
            mlc_sim.when("weather", times=2)

        def test_next(mlc_sim, ask):
            assert ask("snow") == "snow"
        """
    )
    result = run(sim_suite)
    result.assert_outcomes(passed=6, errors=5)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_unexpected*",
            "the simulator was asked what no rule is for, and its default is to fail",
            "  POST /v1/chat/completions 'snow' -> 500 (no rule)",
            "    rule-1 (forecast): 'weather' is not in the last message, 'snow'",
            "*ERROR at teardown of test_function*",
            "a reply function failed:",
            "*in forecast",
            "LookupError: no city in weather",
            "*ERROR at teardown of test_assertion_in_a_function*",
            "*AssertionError*",
            "*ERROR at teardown of test_begun*",
            "when(containing='weather') says no answer, so it made no rule: *",
        ]
    )


def test_an_assertion_shows_what_was_asked_and_where_the_test_stands(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        def test_called(mlc_sim, ask):
            ask("rain")
            mlc_sim.assert_called("snow")

        def test_mistake(mlc_sim):
            mlc_sim.when(regex="(").reply("a")
        """
    )
    result = run(sim_suite)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            '>*mlc_sim.assert_called("snow")',
            "E *AssertionError: expected at least one request with containing='snow'*",
            "E *1. POST /v1/chat/completions 'rain' -> 200 (no rule)",
            '>*mlc_sim.when(regex="(").reply("a")',
            "E *ValueError: *when.last_message_regex*",
        ]
    )
    # The test's own lines are shown, and none of the plugin's.
    assert "simulator/" not in result.stdout.str()


def test_no_report_shows_the_token(sim_suite: Suite) -> None:
    sim_suite.tests(
        """
        import os

        def test_fails(mlc_sim, mlc_server, ask, mlc_environ):
            with open("token", "w") as file:
                file.write(mlc_server.sim_token)
            assert not [name for name in mlc_environ if "SIM" in name]
            assert "PYTEST_MLC_SIM_TOKEN" not in os.environ
            ask("a")
            mlc_sim.control.call("POST", "/sim/nothing")
        """
    )
    result = run(sim_suite, "--showlocals", "--mlc-log-dir=logs")
    result.assert_outcomes(failed=1)
    token = (sim_suite.path / "token").read_text()
    logs = [path.read_text() for path in (sim_suite.path / "logs").iterdir()]
    assert len(token) >= 32
    assert not [text for text in (result.stdout.str(), *logs) if token in text]


def test_a_script_file_is_where_each_test_begins(sim_suite: Suite) -> None:
    sim_suite.pytester.makefile(
        ".toml", replies='[[rules]]\nwhen = { last_message = "tide" }\nreply = { text = "High" }\n'
    )
    sim_suite.pytester.makefile(
        ".ini", pytest="[pytest]\nmlc_engine = sim\nmlc_sim_script = replies.toml"
    )
    sim_suite.tests(
        """
        def test_script(mlc_sim, ask):
            assert [ask("tide"), ask("rain")] == ["High", "rain"]
            mlc_sim.when("tide").reply("Low")
            assert ask("tide") == "Low"

        def test_again(ask):
            assert ask("tide") == "High"
        """
    )
    sim_suite.run_bare("-p", "no:randomly").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("[[rules]\n", "TOML"),
        ('[[rules]]\nwhen = { last_mesage = "a" }\nreply = { text = "b" }\n', "last_mesage"),
    ],
)
def test_a_mistake_in_a_script_is_found_before_anything_starts(
    text: str | None, said: str, suite: Suite
) -> None:
    if text is not None:
        suite.pytester.makefile(".toml", replies=text)
    suite.tests("def test_it(mlc_sim): pass")
    result = run(suite, "--mlc-sim-script=replies.toml")
    result.assert_outcomes(errors=1)
    named = "sim_script = 'replies.toml' (from --mlc-sim-script on the command line)"
    result.stdout.fnmatch_lines([f"E *ConfigError: {named}: *replies.toml*", f"*{said}*"])
    assert "mlc servers" not in result.stdout.str()


@pytest.mark.parametrize("scope", ["worker", "run"])
def test_no_xdist_worker_sees_what_another_one_does(scope: str, sim_suite: Suite) -> None:
    pytest.importorskip("xdist")
    sim_suite.tests(
        """
        import pytest

        @pytest.mark.parametrize("n", range(12))
        def test_own(mlc_sim, ask, n):
            mlc_sim.default("fail")
            mlc_sim.when(f"<{n}>").reply(f"={n}")
            mlc_sim.when("upper").reply_with(lambda request: request.last_message.upper())
            assert [ask(f"<{n}>"), ask("upper")] == [f"={n}", "UPPER"]
            assert len(mlc_sim.requests) == 2
        """
    )
    result = run(sim_suite, "-p", "xdist", "-n2", f"--mlc-scope={scope}")
    result.assert_outcomes(passed=12)


def test_a_run_without_it_loads_nothing_of_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        """
        import sys

        def test_it(mlc_server_config):
            assert not [name for name in sys.modules if "pytest_mlc_server.simulator" in name]
        """
    )
    pytester.runpytest_subprocess(*PLAIN, "--mlc-engine=sim").assert_outcomes(passed=1)
