"""Where servers' logs are, how long they stay, and following them live."""

from __future__ import annotations

import stat

import pytest

from tests.support_plugin import Suite

TWO_SERVERS = """
    def test_two(mlc_server, mlc_server_factory):
        assert mlc_server_factory(mode="server") is not mlc_server
    """


def test_after_a_green_run_nothing_is_left(suite: Suite) -> None:
    suite.tests(TWO_SERVERS)
    suite.run().assert_outcomes(passed=1)
    assert len(suite.starts) == 2
    assert suite.left() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_after_a_red_run_they_are_kept_and_named(suite: Suite, workers: int) -> None:
    suite.tests(
        """
        def test_green(mlc_server): pass
        def test_red(mlc_server): assert False
        """
    )
    parallel = ["-p", "xdist", f"-n{workers}", "--dist=each"] if workers else []
    result = suite.run(*parallel)
    assert result.ret == 1
    assert len(suite.left_logs) == max(1, workers)
    for log in suite.left_logs:
        assert "Uvicorn running" in log.read_text()
        assert str(log) in result.stdout.str()
        assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700


def test_log_dir_keeps_them_always(suite: Suite) -> None:
    suite.tests(TWO_SERVERS)
    for _ in range(2):
        suite.run("--mlc-log-dir=made/logs").assert_outcomes(passed=1)
    logs = [log for log in (suite.path / "made/logs").iterdir() if "guardian" not in log.name]
    assert len(logs) == len(suite.starts) == 4
    assert all("Uvicorn running" in log.read_text() for log in logs)
    assert suite.left() == []


@pytest.mark.parametrize("mode", [(), ("-s",), ("-p", "xdist", "-n1")])
def test_log_live_copies_them_to_the_terminal_as_they_come(
    suite: Suite, mode: tuple[str, ...]
) -> None:
    suite.tests(
        """
        import os, time
        from urllib.request import urlopen

        def test_talks(mlc_server):
            urlopen(f"{mlc_server.base_url}/while-the-test-runs").close()
            while not os.path.exists("seen"):
                time.sleep(0.02)
        """
    )
    process = suite.begin("--mlc-log-live", *mode)
    suite.await_event(lambda: "/while-the-test-runs" in suite.output, "the request in the output")
    (suite.path / "seen").touch()
    assert process.wait() == 0
    assert suite.output.count("/while-the-test-runs") == 1


def test_without_log_live_they_stay_out_of_the_output(suite: Suite) -> None:
    suite.tests("def test_green(mlc_server): print('SHOWN')")
    result = suite.run("-s")
    result.stdout.fnmatch_lines(["*SHOWN*"])
    assert "Uvicorn" not in result.stdout.str() + result.stderr.str()
