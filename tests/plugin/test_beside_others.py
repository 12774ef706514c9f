"""Beside other plugins, other options and other Pythons' warnings."""

from __future__ import annotations

import importlib.util

import pytest

from tests.support_plugin import Suite

ALL_FIXTURES = """
    import pytest
    from pytest_mlc_server import factories

    small = factories.mlc_server(overrides="max_num_sequence=1")

    def test_one(mlc_server, mlc_environ): pass
    def test_two(small, mlc_server_config): pass
    def test_three(mlc_server_factory):
        with mlc_server_factory.temporary() as server:
            assert server.is_alive()
    @pytest.mark.mlc_engine("sim")
    def test_four(mlc_server): pass
    """


@pytest.fixture
def all_plugins(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have the inner run load what is installed, as a user's does; return what it then needs."""
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    if importlib.util.find_spec("pytest_asyncio") is None:
        return []
    # Some versions warn where it is not set, before any test.
    return ["-o", "asyncio_default_fixture_loop_scope=function"]


def test_with_all_installed_plugins_and_warnings_as_errors(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, all_plugins: list[str]
) -> None:
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "error::ResourceWarning")
    suite.tests(ALL_FIXTURES)
    process = suite.begin("-W", "error", "-vv", "--setup-show", *all_plugins)
    assert process.wait() == 0, suite.output
    assert "3 passed, 1 skipped" in suite.output
    assert "Warning" not in suite.output


def test_in_any_order(suite: Suite, all_plugins: list[str]) -> None:
    pytest.importorskip("pytest_randomly")
    suite.tests(ALL_FIXTURES)
    process = suite.begin("-p", "randomly", "--randomly-seed=2", *all_plugins)
    assert process.wait() == 0, suite.output
    assert len(suite.starts) == 3


@pytest.mark.parametrize("option", ["-p no:terminal", "-p no:capture", "-q -q"])
def test_with_parts_of_pytest_switched_off(suite: Suite, option: str) -> None:
    suite.tests("def test_green(mlc_server): assert mlc_server.is_alive()")
    settings = [*option.split(), "--mlc-log-live", "--mlc-require=1"]
    assert suite.run(*settings).ret == 0
    assert len(suite.starts) == 1


def test_where_the_plugin_is_blocked_nothing_of_it_is_there(suite: Suite) -> None:
    suite.tests("def test_green(request): assert not hasattr(request.config.option, 'mlc_model')")
    result = suite.pytester.runpytest_subprocess("-p", "no:mlc_server")
    result.assert_outcomes(passed=1)


def test_a_nested_run_leaves_the_outer_server_alone(suite: Suite) -> None:
    suite.write(
        conftest="pytest_plugins = ['pytester']",
        test_it="""
            def test_outer(mlc_server, pytester):
                pytester.makepyfile("def test_inner(): pass")
                pytester.runpytest_inprocess("-p", "mlc_server").assert_outcomes(passed=1)
                assert mlc_server.is_alive()
            """,
    )
    suite.run().assert_outcomes(passed=1)
    assert len(suite.starts) == 1
