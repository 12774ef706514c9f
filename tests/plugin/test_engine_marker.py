"""The marker ``mlc_engine``: a test that runs on some engines only."""

from __future__ import annotations

import pytest

from tests.support_plugin import Suite

MARKED = """
    import unittest
    import pytest

    @pytest.fixture(scope="session", autouse=True)
    def started_everywhere(mlc_server):
        pass

    @pytest.mark.mlc_engine("mock", "sim")
    def test_function(mlc_server): pass

    @pytest.mark.mlc_engine("sim")
    class TestClass:
        def test_method(self, mlc_server): pass

    @pytest.mark.mlc_engine("sim")
    class TestOldStyle(unittest.TestCase):
        def test_unittest(self): pass
    """


def test_on_other_engines_the_test_is_skipped_before_a_server_starts(suite: Suite) -> None:
    suite.tests(MARKED)
    result = suite.run("-rs", "--strict-markers")
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(["SKIPPED*mock or sim*mlc*"])
    assert suite.starts == []


def test_on_its_engines_the_test_runs(suite: Suite) -> None:
    suite.tests(
        """
        import pytest
        pytestmark = pytest.mark.mlc_engine("mlc", "mock")

        def test_inherits(mlc_server):
            assert mlc_server.engine == "mlc"

        @pytest.mark.mlc_engine("external")
        def test_nearest_mark_counts(mlc_server):
            assert False
        """
    )
    result = suite.run("--strict-markers")
    result.assert_outcomes(passed=1, skipped=1)
    assert len(suite.starts) == 1


def test_an_overridden_configuration_decides(suite: Suite) -> None:
    suite.write(
        conftest="""
            import pytest

            @pytest.fixture(scope="session")
            def mlc_server_config(mlc_server_config):
                return mlc_server_config.replace(engine="sim")
            """,
        test_it="""
            import pytest

            @pytest.mark.mlc_engine("sim")
            def test_sim(mlc_server_config): pass

            @pytest.mark.mlc_engine("mlc")
            def test_mlc(mlc_server): assert False
            """,
    )
    suite.run().assert_outcomes(passed=1, skipped=1)
    assert suite.starts == []


WRONG = """
    import pytest

    @pytest.mark.mlc_engine(%s)
    def test_marked(mlc_server): pass
    """


@pytest.mark.parametrize(("engines", "named"), [('"mlc", "mcl"', "mcl"), ("", "mlc_engine()")])
def test_an_unknown_engine_is_wrong_use(suite: Suite, engines: str, named: str) -> None:
    suite.tests(WRONG % engines)
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*test_it.py::test_marked*{named}*mlc, mock, sim, external*"])


def test_under_xdist_the_test_with_an_unknown_engine_says_so(suite: Suite) -> None:
    suite.tests(WRONG % '"mcl"')
    result = suite.run("-p", "xdist", "-n1")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *test_it.py::test_marked*mcl*mlc, mock, sim, external*"])
    assert suite.starts == []


def test_pytest_lists_it(suite: Suite) -> None:
    suite.run_bare("--markers").stdout.fnmatch_lines(["@pytest.mark.mlc_engine(*):*skipped*"])
