"""What is said of starting servers where there is no terminal, and to whom."""

from __future__ import annotations

import re
import sys

import pytest

from pytest_mlc_server import waiting
from tests.support_plugin import PLAIN, Suite
from tests.support_progress import CONFTEST, EARLY, ENDED, PLAIN_LINE, Run, outcomes, run

pytestmark = pytest.mark.slow

__all__ = ["outcomes", "run"]


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [([], True), (["-q"], True), (["-qq"], False), (["-p", "no:terminal"], False)],
)
def test_whoever_wants_to_read_nothing_reads_nothing(
    suite: Suite, arguments: list[str], seen: bool, outcomes: list[str]
) -> None:
    suite.tests("def test_it(mlc_server): pass")
    assert suite.run(*arguments).ret == 0
    assert bool(outcomes) == seen


@pytest.mark.parametrize(
    ("arguments", "before", "after"),
    [
        pytest.param([], r"test_it\.py \.{3}", r"\.\. +\[100%\]", id="default"),
        pytest.param(
            ["-v"], "test_it.py::test_served", r"\ntest_it.py::test_served PASSED .*", id="v"
        ),
    ],
)
def test_lines_where_there_is_no_terminal(
    run: Run, arguments: list[str], before: str, after: str
) -> None:
    process = run.suite.spawn(run.command(*arguments))
    run.suite.await_event(lambda: run.suite.output.count("45 %") > 1, "two lines")
    run.gate.touch()
    assert process.wait() == 0
    expected = rf"(?m)^{before} *\n{EARLY}(?:{PLAIN_LINE}\n){{2,}}{ENDED}\n{after}$"
    assert re.search(expected, run.suite.output), run.suite.output


def test_lines_of_the_controller_are_whole(run: Run) -> None:
    process = run.suite.spawn(run.command("-n2", "-p", "xdist"))
    run.suite.await_event(lambda: run.suite.output.count("45 %") > 1, "two lines")
    run.gate.touch()
    assert process.wait() == 0
    lines = run.suite.output.splitlines()
    ours = [line for line in lines if "mlc-server: mlc" in line]
    # Another worker may have begun that server first: until then there is no download.
    downloads = [line for line in ours if re.fullmatch(PLAIN_LINE, line)]
    assert len(downloads) > 1
    assert all(line.startswith("mlc-server: ") for line in ours)
    assert re.fullmatch(ENDED, ours[-1])
    dots = [line.partition(" ")[0] for line in lines if re.fullmatch(r"\.+(?: .*)?", line)]
    assert len("".join(dots)) == 5


def test_a_start_that_fails_ends_its_lines(run: Run) -> None:
    settings = run.suite.settings(f"log={run.suite.path / 'log.txt'} exit=3")
    process = run.suite.spawn([sys.executable, "-m", "pytest", *PLAIN, *settings])
    run.suite.await_event(lambda: "45 %" in run.suite.output, "a line")
    run.gate.touch()
    assert process.wait() == 1
    assert re.search(
        r"(?m)^mlc-server: mlc 'model\d*': did not start, after \d+ s$", run.suite.output
    )


def test_lines_of_a_run_in_the_same_process(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_mlc_server.waiting.PLAIN_EVERY", 0.2)
    monkeypatch.setattr("pytest_mlc_server.waiting.LIVE_AFTER", 0.05)
    run.suite.write(
        conftest="""
        import pytest, threading, time
        from pytest_mlc_server import waiting

        @pytest.fixture(scope="session")
        def noise(pytestconfig):
            said, write = [], waiting.progress.plain

            def plain(*what):
                said.append(write(*what))
                if len(said) == 2:
                    open("gate", "w").close()
                return said[-1]

            waiting.progress.plain = plain
            yield
            waiting.progress.plain = write
        """
    )
    result = run.suite.run(orders=f"log={run.suite.path / 'log.txt'}")
    result.assert_outcomes(passed=5)
    lines = "\n".join(result.outlines)
    expected = rf"(?m)^test_it\.py \.\.\. *\n{EARLY}(?:{PLAIN_LINE}\n)*{ENDED}\n\.\. +\[100%\]$"
    assert re.search(expected, lines), lines


def test_a_restart_is_a_start(suite: Suite, outcomes: list[str]) -> None:
    suite.tests(
        """
        import os, signal

        def test_kill(mlc_server):
            os.kill(mlc_server.pid, signal.SIGKILL)
            assert mlc_server.base_url == ""

        def test_after(mlc_server):
            assert mlc_server.poll() == "ready"
        """
    )
    suite.run("-W", "ignore").assert_outcomes(passed=1, failed=1)
    assert outcomes == [waiting.READY, waiting.READY]


def test_who_waits_for_room_says_so(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    suite.write(conftest=CONFTEST)
    suite.tests(
        """
        import os, time
        import pytest

        both = pytest.mark.parametrize(
            "mlc_server", [{"mode": "local"}, {"mode": "server"}], indirect=True
        )

        @both
        def test_it(mlc_server):
            while not os.path.exists("gate"):
                time.sleep(0.01)
        """
    )
    flags = ["-n2", "-p", "xdist", "--mlc-scope=run", "--mlc-max-servers=1"]
    process = suite.spawn([sys.executable, "-m", "pytest", *PLAIN, *suite.settings(), *flags])
    text = "waiting for another server of this run to be idle"
    line = rf"(?m)^mlc-server: mlc 'model\d*': {text}, \d+ s$"
    suite.await_event(lambda: re.search(line, suite.output), "the line")
    (suite.path / "gate").touch()
    assert process.wait() == 0
