"""What a cell of the page says: values, spreads and ratios, for people."""

from __future__ import annotations

from _results import BYTES, COUNT, MICROSECONDS, SHARE, Cell
from _spread import Summary, apart, ratio, summary

NOTHING = "-"


def show(value: float, unit: str) -> str:
    """Return a value for people."""
    if unit == MICROSECONDS:
        return f"{value * 1e6:.1f} µs"
    if unit == BYTES:
        return f"{value / (1 << 20):.1f} MiB"
    if unit in (COUNT, SHARE):
        return f"{value:g}"
    if abs(value) >= 1:
        return f"{value:.2f} s"
    return f"{value * 1000:.2f} ms" if abs(value) < 0.01 else f"{value * 1000:.0f} ms"


def span(low: float, high: float, unit: str) -> str:
    """Return a range, with the unit said once where it is the same."""
    first, last = show(low, unit), show(high, unit)
    number, _, word = first.partition(" ")
    return f"{number} - {last}" if last.endswith(f" {word}") else f"{first} - {last}"


def measured(cell: Cell, unit: str) -> list[str]:
    """Return what a row says of a candidate: runs, median, spread."""
    if not cell.values:
        return ["0", NOTHING, NOTHING]
    found = summary(cell.values)
    extent = span(found.low, found.high, unit) if found.runs > 1 else NOTHING
    return [str(found.runs), show(found.median, unit), extent]


def factor(cell: Cell, mine: Cell) -> str:
    """Return how many times ours a candidate takes; in brackets where noise may have decided."""
    ours, other = summarised(mine), summarised(cell)
    if cell is mine or ours is None or other is None:
        return ""
    times = ratio(other, ours)
    if times is None:
        return NOTHING
    text = f"{times:.1f}" if times < 100 else f"{times:.0f}"
    return text if apart(ours, other) else f"({text})"


def summarised(cell: Cell) -> Summary | None:
    """Return the summary of a cell that has values."""
    return summary(cell.values) if cell.values else None


def text(cell: Cell, unit: str, mine: Cell) -> str:
    """Return what a cell of a grid says, with the ratio to ours where it is a measure."""
    if not cell.values:
        return cell.note or NOTHING
    if unit == SHARE:
        said = f"{sum(cell.values):g} of {len(cell.values)}"
    elif unit == COUNT:
        low, high = min(cell.values), max(cell.values)
        said = f"{low:g}" if low == high else f"{low:g} - {high:g}"
    else:
        found = summary(cell.values)
        said = show(found.median, unit)
        if found.runs > 1:
            said += f" ({span(found.low, found.high, unit)})"
        times = factor(cell, mine)
        said += f", x {times}" if times not in ("", NOTHING) else ""
    return f"{said}, {cell.note}" if cell.note else said
