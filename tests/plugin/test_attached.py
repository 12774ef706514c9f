"""Runs against a server that is there already: ``--mlc-url``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_mlc_server import PopenServer
from tests.support_plugin import Suite


@pytest.mark.parametrize("workers", [0, 2])
def test_the_tests_use_it_and_leave_it_alone(
    suite: Suite, standin: Callable[..., PopenServer], workers: int
) -> None:
    suite.tests(
        """
        import pytest
        from urllib.request import urlopen

        @pytest.mark.parametrize("n", range(4))
        @pytest.mark.mlc_engine("external")
        def test_attached(mlc_server, mlc_server_config, mlc_environ, n):
            assert mlc_server.engine == "external"
            assert mlc_server.base_url == mlc_server_config.url
            assert mlc_environ["OPENAI_BASE_URL"] == f"{mlc_server.base_url}/v1"
            assert (mlc_server.pid, mlc_server.log_path, mlc_server.startup_seconds) == (None,) * 3
            mlc_server.terminate()
            urlopen(f"{mlc_server.openai_v1_base_url}/models").close()
        """
    )
    parallel = ["-p", "xdist", f"-n{workers}"] if workers else []
    with standin() as server:
        result = suite.run_bare(f"--mlc-url={server.base_url}", "--mlc-require=4", *parallel)
        result.assert_outcomes(passed=4)
        assert server.is_alive()
        header = next(line for line in result.outlines if line.startswith("mlc-server: "))
        assert "engine external" in header
        assert server.base_url in header


def test_a_password_in_the_url_is_shown_nowhere(
    suite: Suite, standin: Callable[..., PopenServer]
) -> None:
    suite.tests(
        """
        def test_asks(mlc_server, mlc_server_config, mlc_session):
            mlc_session.get("/v1/models")
            print(mlc_server, mlc_server_config)
            assert False

        def test_another_model(mlc_server_factory):
            mlc_server_factory(model="another")
        """
    )
    with standin() as server:
        url = server.base_url.replace("//", "//somebody:s3cret-word@")
        result = suite.run_bare(
            f"--mlc-url={url}", "-l", "-rA", "--junitxml=report.xml", "--mlc-report=report.json"
        )
        result.assert_outcomes(failed=2)
    files = ("report.xml", "report.json")
    shown = [result.stdout.str(), *((suite.path / name).read_text("utf-8") for name in files)]
    for text in shown:
        assert "//***@127.0.0.1" in text
        assert [line for line in text.splitlines() if "s3cret-word" in line] == []


def test_a_url_and_an_engine_contradict_each_other(suite: Suite) -> None:
    suite.tests("def test_asks(mlc_server): pass")
    result = suite.run("--mlc-url=http://127.0.0.1:9", "--mlc-engine=sim")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *--mlc-url*--mlc-engine*"])
    assert suite.starts == []


def test_a_server_that_is_not_there_is_reported_once_in_full(suite: Suite) -> None:
    suite.tests(
        """
        def test_first(mlc_server): pass
        def test_second(mlc_server): pass
        """
    )
    result = suite.run_bare("--mlc-url=http://127.0.0.1:9")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["E *--mlc-url*", "E *first reported by*test_first*"])
