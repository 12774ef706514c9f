"""Nothing starts before its time where no test will ask for it, or nobody can know for what."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.plugin.test_health_runs import summary
from tests.support_plugin import Suite
from tests.support_runs import BEFORE, EARLY, waiting

__all__ = ["waiting"]  # a fixture


def nothing_was_begun(suite: Suite) -> bool:
    """Tell whether not even a log was made: a server that is given up at once leaves no more."""
    return suite.starts == [] and not (suite.path / "logs").exists()


# --- when nothing starts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--collect-only"],
        ["--collect-only", "-q"],
        ["--setup-plan"],
        ["--fixtures"],
        ["--fixtures-per-test"],
        ["--markers"],
        ["--cache-show"],
        ["-k", "nothing_like_it"],
        ["-m", "nothing_like_it"],
        ["--deselect=test_it.py::test_uses_it"],
        ["--ignore=test_it.py"],
        ["no_such_file.py"],
    ],
    ids=" ".join,
)
def test_what_executes_no_tests_starts_nothing(suite: Suite, arguments: Sequence[str]) -> None:
    suite.tests("def test_uses_it(mlc_server): pass")
    # Before collection nobody knows which tests there will be.
    known = arguments[0].startswith(("--c", "--s", "--f", "--m"))
    eager = [*arguments, "--mlc-start=eager"] if known else arguments
    suite.run("--mlc-log-dir=logs", *arguments)
    suite.run("--mlc-log-dir=logs", *eager)
    assert nothing_was_begun(suite)


SKIPPED = {
    "mark": '@pytest.mark.skip(reason="no")',
    "condition": '@pytest.mark.skipif(True, reason="no")',
    "text": '@pytest.mark.skipif("sys.platform != 1", reason="no")',
    "text with config": '@pytest.mark.skipif("config.option.verbose < 9", reason="no")',
    "second": '@pytest.mark.skipif(False, reason="no")\n    @pytest.mark.skipif(True, reason="no")',
    "engine": '@pytest.mark.mlc_engine("sim")',
    "simulator": '@pytest.mark.usefixtures("mlc_sim")',
    "not run": "@pytest.mark.xfail(run=False)",
}


@pytest.mark.parametrize(
    ("mark", "where"),
    [
        (mark, where)
        for mark in SKIPPED
        for where in ("function", "class", "module", "parameter")
        if (mark, where) != ("simulator", "parameter")  # those cannot use fixtures by a mark
    ],
)
def test_when_all_are_skipped_nothing_starts(suite: Suite, mark: str, where: str) -> None:
    decorator = SKIPPED[mark]
    marks = ", ".join(decorator.replace("@", "").split("\n    "))
    body = {
        "function": f"{decorator}\ndef test_uses_it(mlc_server): pass",
        "class": "{}\nclass TestIt:\n    def test_uses_it(self, mlc_server): pass".format(
            decorator.replace("\n    ", "\n")
        ),
        "module": f"pytestmark = [{marks}]\ndef test_uses_it(mlc_server): pass",
        "parameter": (
            f'@pytest.mark.parametrize("n", [pytest.param(1, marks=[{marks}])])\n'
            "def test_uses_it(mlc_server, n): pass"
        ),
    }[where].replace("\n    @", "\n@")
    (suite.path / "test_it.py").write_text(f"import sys\nimport pytest\n\n{body}\n")
    result = suite.run("--mlc-log-dir=logs")
    assert result.parseoutcomes() in ({"skipped": 1}, {"xfailed": 1})
    assert nothing_was_begun(suite)


@pytest.mark.parametrize(
    "body",
    [
        "pytest.skip('not here', allow_module_level=True)\ndef test_uses_it(mlc_server): pass",
        "pytest.importorskip('no_such_module')\ndef test_uses_it(mlc_server): pass",
        "def test_uses_nothing(): pass",
        "def test_uses_the_configuration(mlc_server_config): pass",
        "@pytest.mark.skipif('no_such_name', reason='')\ndef test_uses_it(mlc_server): pass",
    ],
)
def test_where_no_test_will_ask_nothing_starts(suite: Suite, body: str) -> None:
    (suite.path / "test_it.py").write_text(f"import pytest\n\n{body}\n")
    suite.run("--mlc-log-dir=logs")
    assert nothing_was_begun(suite)


def test_one_test_that_is_not_skipped_is_enough(suite: Suite) -> None:
    suite.tests(
        """
        import pytest
        from conftest import wait_for_start

        def test_first(): wait_for_start()

        @pytest.mark.skip
        def test_skipped(mlc_server): pass

        @pytest.mark.mlc_engine("mlc")
        def test_uses_it(mlc_server): pass
        """
    )
    suite.run().assert_outcomes(passed=2, skipped=1)
    assert len(suite.starts) == 1


def test_after_an_error_in_the_collection_nothing_starts(suite: Suite) -> None:
    suite.write(test_bad="import no_such_module", test_it="def test_uses_it(mlc_server): pass")
    suite.run("--mlc-log-dir=logs")
    assert nothing_was_begun(suite)
    suite.run("--continue-on-collection-errors").assert_outcomes(passed=1, errors=1)
    assert len(suite.starts) == 1


# --- never guessed wrong --------------------------------------------------------------------------

OVERRIDDEN = {
    "configuration": """
    @pytest.fixture(scope="session")
    def mlc_server_config(mlc_server_config):
        return mlc_server_config.replace(mode="interactive")
    """,
    "configuration, from elsewhere": """
    @pytest.fixture(scope="session")
    def mlc_server_config(pytestconfig):
        from pytest_mlc_server import ServerConfig
        wanted = dict(pair.split("=", 1) for pair in pytestconfig.option.mlc_env)
        model = pytestconfig.option.mlc_model
        model = model if isinstance(model, str) else model[0]
        return ServerConfig(model=model, env=wanted, mode="interactive")
    """,
    "server": """
    @pytest.fixture(scope="session")
    def mlc_server(mlc_server_factory):
        return mlc_server_factory(mode="interactive")
    """,
}


@pytest.mark.parametrize("start", ["collected", "eager", "lazy"])
@pytest.mark.parametrize("overridden", OVERRIDDEN)
def test_what_a_fixture_overrides_is_not_guessed(suite: Suite, overridden: str, start: str) -> None:
    suite.write(conftest=EARLY + OVERRIDDEN[overridden])
    suite.tests(
        f"""
        import os
        from conftest import pids, started, wait_for_start

        def test_first():
            if {start == "eager"}:
                wait_for_start()
            else:
                assert not started()

        def test_uses_it(mlc_server):
            assert mlc_server.mode == "interactive"
            for pid in pids():
                alive = os.path.exists(f"/proc/{{pid}}")
                assert alive == (pid == mlc_server.pid) or {overridden == "server"}
        """
    )
    result = suite.run(f"--mlc-start={start}", "--mlc-max-servers=2")
    result.assert_outcomes(passed=2)
    assert len(suite.starts) == (2 if start == "eager" else 1)
    assert len(summary(result)) == 1
    suite.await_nothing_left()


def test_a_factory_of_ones_own_is_not_guessed(suite: Suite) -> None:
    own = """
    @pytest.fixture(scope="session")
    def mlc_server_factory(mlc_server_factory):
        mlc_server_factory(mode="interactive")
        return mlc_server_factory
    """
    suite.write(conftest=EARLY + own)
    suite.tests(BEFORE.format(first="assert not started()", fixture="mlc_server_factory"))
    suite.run("--mlc-log-dir=logs").assert_outcomes(passed=2)
    assert len(list((suite.path / "logs").iterdir())) == 1


def test_a_directory_that_overrides_it_does_not_keep_others_from_it(suite: Suite) -> None:
    below = suite.pytester.mkpydir("below")
    (below / "conftest.py").write_text(
        "import pytest\n@pytest.fixture(scope='session')\ndef mlc_server(): return 'none'\n"
    )
    (below / "test_below.py").write_text(
        "def test_below(mlc_server): assert mlc_server == 'none'\n"
    )
    suite.tests(BEFORE.format(first="wait_for_start()", fixture="mlc_server"))
    suite.run().assert_outcomes(passed=3)
    assert len(suite.starts) == 1
