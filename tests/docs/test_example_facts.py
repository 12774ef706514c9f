"""What the pages say of their examples, and a run's output does not show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.runs import RUNS
from tests.support_examples import Run

pytestmark = pytest.mark.slow


def row(example: str, command: str) -> Run:
    (found,) = (run for run in RUNS if (run.example, run.command) == (example, command))
    return found


def test_the_trace_of_a_failing_test_is_the_engines(tmp_path: Path) -> None:
    """It has what the simulator's engine did in that test, and nothing of the one before."""
    run = row("failing", "red.sh")
    status, printed = run(tmp_path)
    assert status == run.status, printed
    (trace,) = (tmp_path / "project" / "mlc-output").iterdir()
    text = trace.read_text(encoding="utf-8")
    assert text.count('"prefill (0)","ph":"B"') == 2
    assert '"decode (1)"' in text


@pytest.mark.parametrize("start", ["collected", "eager", "lazy"])
def test_workers_share_one_server(start: str, tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    run = Run("share_one_server", f"pytest -n 2 --mlc-start={start} --mlc-log-dir=logs")
    status, printed = run(tmp_path)
    assert status == 0, printed
    assert "4 passed" in printed
    logs = tmp_path / "project" / "logs"
    assert len(list(logs.glob("sim-*[0-9].log"))) == 1


def test_reports_are_where_they_were_asked_for(tmp_path: Path) -> None:
    run = row("report", "both.sh")
    if missing := run.missing():
        pytest.skip(f"needs the package {missing}")
    assert run(tmp_path)[0] == 0
    out = tmp_path / "project" / "out"
    assert {path.name for path in out.iterdir()} == {"report.html", "report.json"}


def test_each_worker_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    run = row("multi_gpu", "one-each.sh")
    printed = run(tmp_path)[1]
    assert all(printed.count(f"gw{worker}: mlc ") == 1 for worker in range(4)), printed
