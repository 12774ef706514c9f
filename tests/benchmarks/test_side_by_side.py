"""The one command, end to end on a part of everything; it leaves nothing, however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import _budgets
import pytest
import side_by_side
from _page import page
from _processes import bearing, kill_all, wait_until
from _results import Cell, Figures, Results, loads

from tests.conftest import WATCHDOG

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = Path(side_by_side.__file__)

#: The whole quick run, in seconds; only a defect takes so long.
LONG = 500.0


class Command:
    """A run of the command with a directory of its own for all that it writes."""

    def __init__(self, path: Path) -> None:
        self.temporary = path / "temporary"
        self.temporary.mkdir()
        self.results, self.page = path / "results.json", path / "page.md"

    @contextmanager
    def running(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Run it; whatever fails, nothing of it is left."""
        files = [f"--results={self.results}", f"--page={self.page}"]
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "--quick", *files, *words],
            env={**os.environ, "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            with process:
                try:
                    yield process
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
        finally:
            kill_all(str(self.temporary))

    def left(self) -> tuple[list[int], list[Path]]:
        """Return the processes and files that are left."""
        return bearing(str(self.temporary)), list(self.temporary.iterdir())


def _figures(found: Results) -> list[Cell]:
    tables = [table for one in found.sections for table in one.tables]
    return [table.cells[table.ours] for table in tables if isinstance(table, Figures)]


def test_everything_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    command = Command(tmp_path)

    with command.running() as process:
        said, _ = process.communicate(timeout=LONG)
        left = command.left()

    assert process.returncode == 0, said
    assert left == ([], [])
    found = loads(command.results.read_text(encoding="utf-8"))
    assert found.quick
    assert [one.key for one in found.sections if not one.failed] == list(side_by_side.PLAN)
    assert not [cell.note for cell in _figures(found) if not cell.values]
    assert command.page.read_text(encoding="utf-8") == page(found)
    # A budget in a table that nobody measures is none; not all rows are part of a quick run.
    unmeasured = [one.what for one in _budgets.BUDGETS if found.table(one.table) is None]
    assert unmeasured == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_is_interrupted_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    command = Command(tmp_path)

    with command.running("--only", "life") as process:
        came = wait_until(lambda: bool([*command.temporary.rglob("began")]), WATCHDOG, 0.02)
        assert came, "no server was started"
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does it
        else:
            process.send_signal(number)
        said, _ = process.communicate(timeout=WATCHDOG)
        left = command.left()

    assert process.returncode != 0, said
    assert left == ([], [])
    assert not command.results.exists()
    assert not command.page.exists()


def test_a_quick_run_does_not_replace_the_figures() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "--quick is no measurement" in done.stderr
