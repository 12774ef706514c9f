"""The project's own budgets, and the figures that it set out to beat."""

from __future__ import annotations

from dataclasses import dataclass

from _results import BYTES, COUNT, MICROSECONDS, SECONDS, SHARE, Cell, Figures, Grid, Results
from _spread import summary

RATIO = "ratio"

OURS = "pytest-mlc-server"


@dataclass(frozen=True)
class Budget:
    """What a figure of ours may be at most.

    Parameters
    ----------
    what
        The figure in words.
    table, row, column
        Where it is. Of a grid with candidates as columns, `row` may be empty: all rows.
    limit, unit
        How much is allowed. Of a SHARE the limit is the least part of the cases.
    per
        The candidate in units of whose median it is counted.
    others
        The best of the others when the budget was made.
    """

    what: str
    table: str
    row: str
    limit: float
    unit: str
    others: str = ""
    column: str = ""
    per: str = ""

    def value(self, results: Results) -> float | None:
        """Return what was measured."""
        table = results.table(self.table)
        if isinstance(table, Figures):
            found = _median(table.cells.get(self.row))
            unit = _median(table.cells.get(self.per)) if self.per else 1.0
            return found / unit if found is not None and unit else None
        return None if table is None else self._of_grid(table)

    def _of_grid(self, table: Grid) -> float | None:
        rows = [table.rows.get(self.row, {})] if self.row else list(table.rows.values())
        cells = [row[self.column] for row in rows if self.column in row]
        values = [value for cell in cells for value in cell.values]
        if not values:
            return None
        if self.unit == COUNT:
            return sum(values)
        return sum(values) / len(values) if self.unit == SHARE else summary(values).median

    def met(self, value: float) -> bool:
        """Tell whether it is kept."""
        return value >= self.limit if self.unit == SHARE else value <= self.limit

    def drowned(self, results: Results) -> bool:
        """Tell whether the noise that was measured beside it is larger than the budget."""
        table = results.table(self.table)
        if not isinstance(table, Figures) or not table.cells.get(table.noise, Cell()).values:
            return False
        noise = summary(table.cells[table.noise].values)
        return max(abs(noise.low), abs(noise.high)) > self.limit

    def show(self, value: float) -> str:
        """Return a value for people."""
        if self.unit == SECONDS:
            return f"{value * 1000:.2f} ms"
        if self.unit == MICROSECONDS:
            return f"{value * 1e6:.0f} µs"
        if self.unit == BYTES:
            return f"{value / (1 << 20):.1f} MiB"
        return f"{value:.0%}" if self.unit == SHARE else f"{value:.3g}"

    @property
    def limit_text(self) -> str:
        """The limit for people."""
        sign = ">=" if self.unit == SHARE else "<="
        return self.show(self.limit) if self.limit == 0 else f"{sign} {self.show(self.limit)}"


def _median(cell: Cell | None) -> float | None:
    return summary(cell.values).median if cell is not None and cell.values else None


_USES = f"{OURS}, tests that use the server"
_UNUSED = f"{OURS}, tests that do not use it"
_NO_USAGE = f"{OURS}, --mlc-no-usage"

BUDGETS = (
    Budget("import of the plugin", "import", OURS, 0.001, SECONDS, "xdist 0.8 ms, xprocess 17 ms"),
    Budget("ready to fixture", "ready", OURS, 0.010, SECONDS, "xprocess 33 ms, upstream 38 ms"),
    Budget("stop, beyond the server's own end", "beyond", OURS, 0.020, SECONDS),
    Budget("stop, in all", "stop", OURS, 0.006, SECONDS, "upstream 6 ms, xprocess 6 ms"),
    Budget("early death", "death-1", OURS, 0.050, SECONDS, "mirakuru 130 ms, xprocess its timeout"),
    Budget("early death, exit code 0", "death-0", OURS, 0.050, SECONDS, "all their timeouts"),
    Budget(
        "asking to the server's first instruction, in interpreter starts",
        "launch",
        OURS,
        2.0,
        RATIO,
        per="`python -c pass`, start to end",
    ),
    Budget(
        "mistakes whose error names the cause",
        "mistakes",
        OURS,
        1.0,
        SHARE,
        column="the error names the cause",
    ),
    Budget(
        "servers left alive, all ways", "left", "", 0, COUNT, "1 or 2 where pytest is killed", OURS
    ),
    Budget(
        "shared by all workers: runs that failed",
        "sharing",
        f"{OURS}, --mlc-scope run",
        0,
        COUNT,
        "file lock: 2 of 6",
        "runs that failed",
    ),
    Budget("attaching to a server that waits", "reuse", f"{OURS}, --mlc-reuse", 0.060, SECONDS),
    Budget("each test that uses the server", "per-test", _USES, 0.002, MICROSECONDS),
    Budget("the same, --mlc-no-usage", "per-test", _NO_USAGE, 0.0003, MICROSECONDS),
    Budget("each test that does not", "per-test", _UNUSED, 0.00003, MICROSECONDS),
    Budget(
        "memory of the guardian (RSS)",
        "memory",
        f"{OURS}: the guardian",
        30 << 20,
        BYTES,
        column="RSS",
    ),
)
