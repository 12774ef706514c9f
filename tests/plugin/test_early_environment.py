"""A server that starts early sees what fixtures set before the first test asks for it."""

from __future__ import annotations

import pytest

from tests.support_plugin import Suite


@pytest.mark.parametrize("start", ["eager", "collected", "lazy"])
def test_the_server_sees_what_a_session_fixture_sets(suite: Suite, start: str) -> None:
    suite.pytester.makeconftest(
        """
        import os
        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def _cache():
            os.environ["MLC_LLM_HOME"] = "/somewhere/else"
        """
    )
    suite.tests(
        """
        from pathlib import Path

        def test_it(mlc_server):
            environ = Path(f"/proc/{mlc_server.pid}/environ").read_bytes().split(b"\\0")
            assert b"MLC_LLM_HOME=/somewhere/else" in environ
        """
    )
    suite.run(f"--mlc-start={start}").assert_outcomes(passed=1)


def test_a_factory_of_ones_own_need_not_be_ours(suite: Suite) -> None:
    suite.pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session")
        def mlc_server_factory(mlc_server_factory):
            return lambda **changes: mlc_server_factory(stop_timeout=5, **changes)
        """
    )
    suite.tests(
        """
        def test_it(mlc_server):
            assert mlc_server.is_alive()
            assert mlc_server.stop_timeout == 5
        """
    )
    suite.run().assert_outcomes(passed=1)
    assert len(suite.starts) == 1
