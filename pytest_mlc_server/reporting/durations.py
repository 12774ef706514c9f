"""The tests that cost most at their servers, at the end of a run: ``--mlc-durations``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_mlc_server.reporting import ci
from pytest_mlc_server.usage import duration

if TYPE_CHECKING:
    import pytest

    from pytest_mlc_server.session import Session

COLUMNS = ("tokens", "requests", "engine time", "first token", "tokens/s", "test")


class Durations:
    """Collects what the tests of a run cost, and shows the most expensive ones.

    Parameters
    ----------
    session
        The plugin's session, with `durations` above 0.
    """

    def __init__(self, session: Session) -> None:
        self._count = session.durations
        self._off = not session.usage
        self._costs: list[tuple[tuple[float, float, int], str, dict[str, Any]]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember; with xdist the controller gets the reports of all workers."""
        cost = getattr(report, "mlc_cost", None)
        if cost is not None:
            self._costs.append((_weight(cost), report.nodeid, cost))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the most expensive tests."""
        if terminalreporter.verbosity < -1:
            return
        found = sorted(self._costs, key=lambda one: one[0], reverse=True)
        shown = found[: self._count]
        many = f"{len(shown)} most expensive tests" if len(shown) > 1 else "most expensive test"
        with ci.group(terminalreporter, f"mlc server: {many}"):
            if self._off:
                terminalreporter.line("nothing was recorded: --mlc-no-usage")
            elif not found:
                terminalreporter.line("no test used a server")
            else:
                for line in table([(nodeid, cost) for _, nodeid, cost in shown]):
                    terminalreporter.line(line)
                if len(shown) < len(found):
                    hidden = len(found) - len(shown)
                    terminalreporter.line(f"({hidden} more that used a server cost less)")


def _weight(cost: dict[str, Any]) -> tuple[float, float, int]:
    tokens = (cost["prompt_tokens"] or 0) + (cost["completion_tokens"] or 0)
    return tokens, _at_server(cost) or 0.0, cost["requests"] or 0


def _at_server(cost: dict[str, Any]) -> float | None:
    times = [cost["prefill_s"], cost["decode_s"]]
    return None if None in times else sum(times)


def table(costs: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return the lines of tests and their costs, in the order in which they are given."""
    rows = [COLUMNS, *(_row(nodeid, cost) for nodeid, cost in costs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS) - 1)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]))
    notes = [text for _, cost in costs for text in (cost["shared"], cost["note"]) if text]
    return [*lines, *(f"* {text}" for text in dict.fromkeys(notes))]


def _row(nodeid: str, cost: dict[str, Any]) -> tuple[str, ...]:
    mark = "*" if cost["shared"] or cost["note"] else ""
    known = cost["prompt_tokens"] is not None and cost["completion_tokens"] is not None
    tokens = f"{cost['prompt_tokens'] + cost['completion_tokens']}{mark}" if known else "?"
    least = ">" if cost["ttft_at_least"] else ""
    rate = cost["tokens_per_s"]
    seconds, ttft = _at_server(cost), cost["ttft_s"]
    return (
        tokens,
        "?" if cost["requests"] is None else str(cost["requests"]),
        "?" if seconds is None else duration(seconds),
        "-" if ttft is None else f"{least}{duration(ttft)}",
        "-" if rate is None else f"{rate:.1f}",
        nodeid,
    )
