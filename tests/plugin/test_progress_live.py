"""The live line on a terminal, of real runs of pytest."""

from __future__ import annotations

import signal
import sys

import pytest

from tests.support_plugin import PLAIN
from tests.support_progress import Run, await_live, run, without_ours
from tests.support_terminal import Terminal

pytestmark = pytest.mark.slow

__all__ = ["run"]


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="default"),
        pytest.param(["-s"], id="s"),
        pytest.param(["-q", "--capture=sys"], id="q-sys"),
        pytest.param(["-v", "--capture=tee-sys", "--log-cli-level=INFO"], id="v-tee-log"),
        pytest.param(["-n2", "-p", "xdist"], id="xdist"),
        pytest.param(["-n2", "-v", "-p", "xdist", "-p", "pytest_sugar"], id="xdist-sugar"),
    ],
)
def test_the_live_line_is_there_while_the_server_starts_and_leaves_nothing(
    run: Run, arguments: list[str]
) -> None:
    if "pytest_sugar" in arguments:
        pytest.importorskip("pytest_sugar")
    terminal = run.on_terminal(*arguments)
    await_live(terminal)
    run.gate.touch()
    assert terminal.finish() == 0
    text = terminal.emulator.text
    assert "downloading, 45 %" not in text
    assert text == without_ours(terminal.raw, 90, 12)
    assert terminal.emulator.screen.margins is None  # all rows scroll again
    assert "5 passed" in text


def test_ctrl_c_takes_the_line_away(run: Run) -> None:
    terminal = run.on_terminal()
    await_live(terminal)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 2
    assert "KeyboardInterrupt" in terminal.emulator.text
    assert "downloading, 45 %" not in terminal.emulator.text
    assert terminal.emulator.screen.margins is None


def test_a_killed_run_leaves_a_whole_terminal(run: Run) -> None:
    terminal = run.on_terminal()
    await_live(terminal)
    assert terminal.emulator.screen.margins is not None
    terminal.process.kill()
    terminal.until(lambda: terminal.emulator.screen.margins is None, "the row is given back")
    assert "downloading, 45 %" not in terminal.emulator.text
    run.suite.await_nothing_left()


def test_the_line_follows_the_window(run: Run) -> None:
    terminal = run.on_terminal("-s", rows=12)
    await_live(terminal)
    for columns, rows in ((60, 20), (100, 9)):
        terminal.resize(columns, rows)
        terminal.emulator.screen.margins = None  # as terminals do
        await_live(terminal)
        assert len(terminal.emulator.rows[-1]) < columns
    run.gate.touch()
    assert terminal.finish() == 0
    assert terminal.emulator.screen.margins is None


def test_a_worker_that_dies_leaves_no_line(run: Run) -> None:
    run.suite.write(
        test_it="""
        import os, threading, time

        def die():
            while not os.path.exists("die"):
                time.sleep(0.01)
            os._exit(1)

        def test_served(mlc_server):
            pass

        def test_after():
            pass

        threading.Thread(target=die, daemon=True).start()
        """
    )
    terminal = run.on_terminal("-n1", "-p", "xdist", "--max-worker-restart=0", rows=40)
    await_live(terminal)
    (run.suite.path / "die").touch()
    terminal.finish()
    assert "worker 'gw0' crashed while running 'test_it.py::test_served'" in terminal.emulator.text
    assert terminal.emulator.text == without_ours(terminal.raw, 90, 40)
    assert terminal.emulator.screen.margins is None


# --- without pytest -------------------------------------------------------------------------------


def test_the_command_line_shows_it_on_standard_error(run: Run) -> None:
    script = (
        "import sys; from pytest_mlc_server import __main__, waiting; "
        "waiting.LIVE_AFTER = 0.05; sys.exit(__main__.main())"
    )
    arguments = ["with", *run.command()[len(PLAIN) + 3 :], "--mlc-port=auto", "--"]
    ends = [sys.executable, "-c", "print('the command')"]
    terminal = Terminal([sys.executable, "-c", script, *arguments, *ends], run.suite.path)
    try:
        await_live(terminal)
        run.gate.touch()
        assert terminal.finish() == 0
        assert "the command" in terminal.emulator.text
        assert "downloading" not in terminal.emulator.text
    finally:
        terminal.close()
