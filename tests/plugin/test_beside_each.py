"""Beside each plugin that touches the same hooks: both do all of their work, and nothing is left.

Elsewhere: pytest-randomly's order in `test_matrix`, pytest-asyncio and anyio in
`test_clients_async`, pytest-html's page in `test_report_others`, pytest-sugar's terminal in
`test_progress_live`.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from tests.conftest import await_
from tests.support_plugin import Suite

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

#: How long a start may take in these tests, in seconds, before pytest-timeout ends it: long enough
#: for a guardian to execute its server on any machine.
PATIENCE = 8


def needs(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


def nothing_left(suite: Suite) -> None:
    suite.await_nothing_left()

    def others() -> list[Path]:  # than logs, which are kept after a failure
        return [path for path in suite.left() if not path.is_dir() and path.suffix != ".log"]

    await_(lambda: others() == [], "clean files")


# --- pytest-rerunfailures -------------------------------------------------------------------------


@needs("pytest_rerunfailures")
@pytest.mark.parametrize("end", ["os.kill(mlc_server.pid, signal.SIGKILL)", "pass"])
def test_a_rerun_has_a_server_that_works(suite: Suite, end: str) -> None:
    suite.tests(
        f"""
        import os, signal
        import requests

        PIDS = []

        def test_it(mlc_server, mlc_usage):
            PIDS.append(mlc_server.pid)
            if len(PIDS) == 1:
                {end}
                raise AssertionError("the first time")
            assert mlc_server.is_alive()
            requests.get(mlc_server.base_url + "/v1/models", timeout=60).raise_for_status()
        """
    )
    result = suite.run("-p", "rerunfailures", "--reruns=1")
    result.assert_outcomes(passed=1)
    assert "1 passed, 1 rerun" in result.stdout.str()
    # One that has not ended is kept: pytest-rerunfailures tears session fixtures down for no rerun.
    assert len(suite.starts) == (1 if end == "pass" else 2)
    nothing_left(suite)


@needs("pytest_rerunfailures")
def test_a_start_that_failed_is_told_at_each_rerun(suite: Suite) -> None:
    suite.tests("def test_it(mlc_server): pass")
    result = suite.run("-p", "rerunfailures", "--reruns=2", orders="exit=3")
    result.assert_outcomes(errors=1)
    text = result.stdout.str()
    assert "2 rerun" in text
    assert "the MLC server did not start: its process ended (exit code 3)" in text
    nothing_left(suite)


# --- pytest-timeout -------------------------------------------------------------------------------


@needs("pytest_timeout")
@pytest.mark.parametrize("method", ["signal", "thread"])
def test_a_start_that_is_timed_out_leaves_no_server(suite: Suite, method: str) -> None:
    suite.tests("def test_it(mlc_server): pass")
    limit = (f"--timeout={PATIENCE}", f"--timeout-method={method}")
    process = suite.begin("-p", "pytest_timeout", *limit, orders="hang")
    assert process.wait() == 1  # of `thread`, by os._exit
    assert "Timeout" in suite.output
    assert len(suite.starts) == 1
    nothing_left(suite)


@needs("pytest_timeout")
def test_a_test_that_is_timed_out_leaves_the_server_to_the_others(suite: Suite) -> None:
    suite.tests(
        """
        import time
        import pytest

        @pytest.mark.timeout(0.2)
        def test_hangs(mlc_server):
            while True:
                time.sleep(0.01)

        def test_next(mlc_server):
            assert mlc_server.is_alive()
        """
    )
    flags = ("-o", "timeout_func_only=true", "--timeout-method=signal")
    process = suite.begin("-p", "pytest_timeout", "-p", "no:randomly", *flags)
    assert process.wait() == 1
    assert "1 failed, 1 passed" in suite.output
    assert len(suite.starts) == 1
    nothing_left(suite)


# --- pytest-cov -----------------------------------------------------------------------------------

APPLICATION = """
    import subprocess, sys

    def ask(url):
        code = "import child; child.line()"
        subprocess.run([sys.executable, "-c", code], check=True)
        return url + "/v1/models"

    def never():
        return 1
    """


@needs("pytest_cov")
@pytest.mark.parametrize("patch", ["", "patch = subprocess"])
def test_coverage_counts_the_application_and_its_processes(suite: Suite, patch: str) -> None:
    """The server is a process of pytest's as well: coverage's own patch must not break it."""
    child = "def line():\n    return 1\n"
    suite.write(application=APPLICATION, child=child)
    suite.tests(
        """
        import application, requests

        def test_it(mlc_server):
            requests.get(application.ask(mlc_server.base_url), timeout=60).raise_for_status()
        """
    )
    (suite.path / ".coveragerc").write_text(f"[run]\nparallel = true\n{patch}\n")
    flags = ("--cov=application", "--cov=child", "--cov-report=json", "--cov-config=.coveragerc")
    # Without autoload its plugin is named by its entry point.
    process = suite.begin("-p", "pytest_cov.plugin", *flags)
    assert process.wait() == 0, suite.output
    files = json.loads((suite.path / "coverage.json").read_text())["files"]
    assert files["application.py"]["missing_lines"] == [9]
    assert ("child.py" in files and files["child.py"]["missing_lines"] == []) == bool(patch)
    assert "1 passed" in suite.output
    assert "mlc servers" in suite.output
    # A guardian that coverage had found would have left data of its own, after they were combined.
    assert [path.name for path in suite.path.glob(".coverage.*")] == []
    nothing_left(suite)


@needs("pytest_cov")
def test_too_little_coverage_and_too_few_servers_are_both_told(suite: Suite) -> None:
    suite.write(application=APPLICATION)
    suite.tests(
        """
        import application

        def test_it(mlc_server): pass
        """
    )
    flags = ("--cov=application", "--cov-fail-under=100", "--mlc-require=2")
    process = suite.begin("-p", "pytest_cov.plugin", *flags)
    assert process.wait() == 1
    assert "Required test coverage of 100% not reached" in suite.output
    assert "--mlc-require" in suite.output
    nothing_left(suite)


# --- pytest-html and pytest-sugar: what they write is whole ---------------------------------------

OUTCOMES = """
    import pytest

    def test_passes(mlc_server): pass
    def test_fails(mlc_server):
        mlc_server.complete("Hello")
        assert mlc_server is None
    def test_skips(mlc_server): pytest.skip("not now")
    """


@needs("pytest_sugar")
def test_sugar_shows_every_outcome_and_our_sections(suite: Suite) -> None:
    suite.tests(OUTCOMES)
    process = suite.begin("-p", "pytest_sugar", "-p", "no:randomly", "--force-sugar")
    assert process.wait() == 1
    assert "100%" in suite.output
    for count in ("1 passed", "1 failed", "1 skipped"):
        assert count in suite.output
    assert suite.output.count("mlc servers") == 1
    assert "mlc server log" in suite.output  # with the failure
    nothing_left(suite)


@needs("pytest_html")
def test_html_is_written_where_the_server_does_not_start(suite: Suite) -> None:
    suite.tests(OUTCOMES)
    plugins = [word for name in ("metadata", "html", "html_fixtures") for word in ("-p", name)]
    flags = ("-p", "mlc_server", "-p", "no:randomly", "--html=report.html")
    result = suite.pytester.runpytest_inprocess(*plugins, *flags, *suite.settings("exit=3"))
    result.assert_outcomes(errors=3)
    page = Path(suite.path / "report.html").read_text()
    assert page.count("the MLC server did not start") >= 3
    nothing_left(suite)


# --- all of them at once --------------------------------------------------------------------------


@needs("pytest_asyncio")
def test_all_at_once_with_workers(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    suite.write(conftest="import pytest\n\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'")
    suite.tests(
        """
        import pytest

        RUNS = []

        @pytest.mark.parametrize("n", range(6))
        def test_it(mlc_server, n):
            RUNS.append(n)
            assert mlc_server.is_alive()
            assert RUNS.count(3) != 1 or n != 3

        @pytest.mark.asyncio
        async def test_asyncio(mlc_server):
            assert mlc_server.is_alive()

        @pytest.mark.anyio
        async def test_anyio(mlc_server):
            assert mlc_server.is_alive()
        """
    )
    plugins = {"xdist": ["-n2"], "pytest_rerunfailures": ["--reruns=1"], "pytest_cov": ["--cov=."]}
    installed = [name for name in plugins if importlib.util.find_spec(name) is not None]
    flags = [flag for name in installed for flag in plugins[name]]
    names = [flag for flag in ("--html=report.html",) if importlib.util.find_spec("pytest_html")]
    mode = ("-o", "asyncio_default_fixture_loop_scope=function", "--timeout=300")
    process = suite.begin("-W", "default", *mode, *flags, *names)
    assert process.wait() == 0, suite.output
    assert "8 passed" in suite.output
    assert ("1 rerun" in suite.output) == ("pytest_rerunfailures" in installed)
    assert os.path.exists(suite.path / "report.html") == bool(names)
    nothing_left(suite)
