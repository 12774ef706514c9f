"""Starts that tests hold at a download, and what is shown of them on a terminal and without one."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_mlc_server import waiting
from pytest_mlc_server.progress import Snapshot
from tests.support_plugin import PLAIN, Suite
from tests.support_terminal import Emulator, Terminal

STAMP = "[2026-01-01 00:00:00] INFO download_cache.py:99: "

DOWNLOADING = f"{STAMP}Downloading model from HuggingFace: HF://a/b\n"


def snapshot(**more: Any) -> Snapshot:
    values: dict[str, Any] = {
        "key": "log",
        "what": "mlc 'model'",
        "phase": "loading",
        "percent": None,
        "last": "a line",
        "began": 100.0,
    }
    return Snapshot(**{**values, **more})


CONFTEST = """
    import logging, os, subprocess, sys, threading, time
    import pytest
    from pytest_mlc_server import relay, waiting

    waiting.LIVE_AFTER = 0.05
    waiting.PLAIN_EVERY = 0.2

    def until_released(number=0):
        while not os.path.exists("gate"):
            logging.getLogger("app").warning("logged %d", number)
            print(f"printed {number}", flush=True)
            print(f"to stderr {number}", file=sys.stderr, flush=True)
            number += 1
            time.sleep(0.01)

    CHILD = (
        "import os, time\\n"
        "while not os.path.exists('gate'): print('of a child', flush=True); time.sleep(0.01)"
    )

    @pytest.fixture(scope="session")
    def noise():
        # What else goes on while a server starts: a thread, and a process that has our descriptors.
        thread = threading.Thread(target=until_released)
        thread.start()
        child = subprocess.Popen([sys.executable, "-c", CHILD])
        yield
        open("gate", "w").close()
        thread.join()
        child.wait()
    """

TESTS = """
    import pytest

    @pytest.mark.parametrize("n", range(3))
    def test_before(n):
        pass

    def test_served(noise, mlc_server):
        print("printed by the test")

    def test_after():
        pass
    """

#: What the screen says while the server starts, the spinner in front.
LIVE = (
    r"{spinner} mlc-server: mlc 'model\d*': downloading, 45 %, \d+ s: "
    r"Downloading model from HuggingFace: HF://a/b"
)

#: What draws, reserves and gives back the last row; all that is ours in the stream of bytes.
OURS = re.compile(
    rb"\x1bD\x1b\[A|\x1b7\x1b\[1;\d+r\x1b8|\x1b7\x1b\[r\x1b8\x1b\[J|"
    rb"\x1b7\x1b\[\d+;1H\x1b\[0m[^\x1b]*\x1b\[K\x1b8|\x1b7\x1b\[r\x1b\[999;1H\x1b\[2K\x1b8"
)


class Run:
    """A run whose server downloads until the test lets it go on."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        suite.write(conftest=CONFTEST)
        suite.tests(TESTS)
        self.gate = suite.path / "gate"
        log = suite.path / "log.txt"
        bar = "\r 45%|####      | 9/20 [00:03<00:10,  1.1it/s]"
        log.write_text(f"{DOWNLOADING}{bar}\n@await {self.gate}\n")
        self._terminals: list[Terminal] = []
        self._log = log

    def command(self, *arguments: str) -> list[str]:
        settings = self.suite.settings(f"log={self._log}")
        return [sys.executable, "-m", "pytest", *PLAIN, *settings, *arguments]

    def on_terminal(self, *arguments: str, rows: int = 12, **env: str) -> Terminal:
        terminal = Terminal(self.command(*arguments), self.suite.path, env, columns=90, rows=rows)
        self._terminals.append(terminal)
        return terminal

    def close(self) -> None:
        self.gate.touch()
        for terminal in self._terminals:
            terminal.close()


@pytest.fixture
def run(suite: Suite) -> Iterator[Run]:
    one = Run(suite)
    yield one
    one.close()


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How the waits ended that were shown, of runs in this process."""
    made: list[str] = []

    class Display(waiting.Display):
        def end(self, outcome: str) -> None:
            made.append(outcome)
            super().end(outcome)

    monkeypatch.setattr(waiting, "Display", Display)
    return made


def live(terminal: Terminal, spinner: str = r"\S") -> bool:
    """Tell whether the last row of the screen is the live line."""
    beginning = LIVE.format(spinner=spinner).partition("Down")[0]
    return bool(re.match(beginning, terminal.emulator.rows[-1]))


def await_live(terminal: Terminal) -> None:
    """Wait until the live line has been drawn, and drawn again."""
    terminal.until(lambda: live(terminal), "the live line")
    before = terminal.emulator.rows[-1]
    terminal.until(lambda: live(terminal) and terminal.emulator.rows[-1] != before, "the next one")


def without_ours(raw: bytes, columns: int, rows: int) -> str:
    """Return what the terminal would show if only pytest had written to it."""
    emulator = Emulator(columns, rows)
    emulator.feed(OURS.sub(b"", raw))
    return emulator.text


PLAIN_LINE = LIVE.format(spinner="").lstrip()

#: A line of before the log said anything: this machine may be slow.
EARLY = r"(?:mlc-server: mlc 'model\d*': launching, \d+ s(?:: .*)?\n)*"

ENDED = r"mlc-server: mlc 'model\d*': ready, after \d+ s"
