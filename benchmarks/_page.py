"""Results as a page of Markdown. Everything on it is computed from the results."""

from __future__ import annotations

from collections.abc import Iterator

import _budgets
from _candidates import OURS
from _cells import NOTHING, factor, measured, show, summarised, text
from _results import (
    BYTES,
    COUNT,
    MICROSECONDS,
    MORE,
    NEVER,
    SECONDS,
    TAKEN_FOR_READY,
    Cell,
    Figures,
    Grid,
    Results,
    Section,
    Table,
)
from _spread import apart

#: From this part of the machine's processors on, other programs may have decided.
NOISY = 0.1


def section(one: Section) -> list[str]:
    """Return the lines of what a script measured."""
    lines: list[str] = []
    if one.failed:
        lines += [f"Not measured: {one.failed}", ""]
    noisy = one.others is not None and one.others > NOISY
    for table in one.tables:
        lines += [f"### {table.title}", "", " ".join(table.what.split()), ""]
        if noisy:
            share = f"{one.others:.0%}"
            lines += [f"**Noisy:** other programs took {share} of the processors meanwhile.", ""]
        lines += [*rows(table), ""]
    return lines


def rows(table: Table) -> list[str]:
    """Return the lines of a table."""
    return _figures(table) if isinstance(table, Figures) else _grid(table)


def _figures(table: Figures) -> list[str]:
    remarks = any(cell.note for cell in table.cells.values())
    heads = ["", "runs", "median", "spread"]
    heads += ["x ours"] if table.compare else []
    heads += ["remark"] if remarks else []
    lines = [_row(heads), _row(["---", *["---:"] * (len(heads) - 1 - remarks), *["---"] * remarks])]
    for name, cell in table.cells.items():
        words = [f"**{name}**" if name == table.ours else name, *measured(cell, table.unit)]
        words += [factor(cell, table.cells[table.ours])] if table.compare else []
        words += [cell.note] if remarks else []
        lines.append(_row(words))
    return lines


def _grid(table: Grid) -> list[str]:
    columns = list(dict.fromkeys(name for row in table.rows.values() for name in row))
    heads = [table.corner, *(_ours(name, table) for name in columns)]
    lines = [_row(heads), _row(["---", *["---:"] * len(columns)])]
    for name, row in table.rows.items():
        words = [_ours(name, table)]
        for column in columns:
            cell, mine = row.get(column, Cell()), _mine(table, name, column)
            words.append(text(cell, table.units.get(column, COUNT), mine))
        lines.append(_row(words))
    return lines


def _ours(name: str, table: Grid) -> str:
    return f"**{name}**" if name == table.ours else name


def _mine(table: Grid, row: str, column: str) -> Cell:
    """Return our cell of a row or a column, whichever the candidates are not."""
    if table.ours in table.rows:
        return table.rows[table.ours].get(column, Cell())
    return table.rows[row].get(table.ours, Cell())


def _row(words: list[str]) -> str:
    return f"| {' | '.join(word.replace('|', chr(92) + '|') for word in words)} |"


def ours_is_worse(table: Table) -> Iterator[str]:
    """Yield a line for each figure of another that is better than ours, and not by noise."""
    if isinstance(table, Figures):
        yield from _slower(table)
        return
    for row, cells in table.rows.items():
        for column, cell in cells.items():
            ours = _mine(table, row, column)
            unit = table.units.get(column, COUNT)
            name = row if table.ours in table.rows else column
            if name.startswith(OURS):
                continue
            if _better(cell, ours, unit, table.better.get(column, "")):
                what = f"{column}, {row}" if table.ours in table.rows else f"{row}, {column}"
                figures = f"{text(cell, unit, cell)}, ours {text(ours, unit, ours)}"
                yield f"{table.title}: {what} {figures}"


def _slower(table: Figures) -> Iterator[str]:
    ours = summarised(table.cells[table.ours])
    if not table.compare or ours is None:
        return
    for name, cell in table.cells.items():
        other = summarised(cell)
        if name.startswith(OURS) or name == table.reference:
            continue
        if other is None or other.median >= ours.median:
            continue
        if apart(ours, other):
            figures = f"{show(other.median, table.unit)}, ours {show(ours.median, table.unit)}"
            yield f"{table.title}: {name} {figures}"


def not_measured(results: Results) -> Iterator[str]:
    """Yield a line for each reason for which something has no figures."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for one in results.sections:
        if one.failed:
            yield f"`{one.key}.py`: {one.failed}"
        for table in one.tables:
            for name, cell in _named(table):
                if cell.note and not cell.values and cell.note not in (NEVER, TAKEN_FOR_READY):
                    reasons.setdefault(cell.note, {}).setdefault(name, []).append(table.title)
    for why, those in reasons.items():
        for name, titles in those.items():
            yield f"{name}: {why} ({'; '.join(dict.fromkeys(titles))})"


def _named(table: Table) -> Iterator[tuple[str, Cell]]:
    if isinstance(table, Figures):
        yield from table.cells.items()
        return
    for row, cells in table.rows.items():
        for column, cell in cells.items():
            yield (row if table.ours in table.rows else column), cell


def _better(cell: Cell, ours: Cell, unit: str, better: str) -> bool:
    one, mine = summarised(cell), summarised(ours)
    if one is None or mine is None or cell is ours:
        return False
    if unit in (SECONDS, MICROSECONDS, BYTES):
        return one.median < mine.median and apart(one, mine)
    theirs = sum(cell.values) / len(cell.values)
    ourselves = sum(ours.values) / len(ours.values)
    return theirs > ourselves if better == MORE else theirs < ourselves


# --- the page -------------------------------------------------------------------------------------

HEAD = """
# Side by side

<!-- Written by benchmarks/side_by_side.py from benchmarks/results.json: edit neither by hand. -->

What it costs to have a server in a pytest suite, and what becomes of it, with this package and with
what else there is: a loop around `Popen`, upstream's `PopenServer`, pytest-xprocess, mirakuru,
testcontainers and pytest-docker-tools. All own the same server, a small program that notes when it
does what, so that only the owners differ. Each has the fixture that its documentation shows.
"""

HOW = """
How to read the tables:

- Candidates take turns in every round, so that the machine's drift hits all alike. One that fails
  takes no further part, and says why.
- The median of all runs; the spread is that of the middle half, of fewer than four runs from the
  least to the most.
- "x ours" is the candidate's median in units of ours. It stands in brackets where the two spreads
  overlap: noise may have decided. In the tables of cases it follows the median and its spread,
  as "x 1.5". Counts have no ratio, and neither have differences of two runs: noise can make them
  zero.
- A section says so if other programs took more than a tenth of the processors meanwhile.
"""

NOWHERE = "In no figure that noise did not decide."

REPRODUCE = """
`pip install -r benchmarks/requirements.txt`, then `python benchmarks/side_by_side.py`: about ten
minutes on two idle cores, on Linux. `--quick` measures a part of it in less than a minute, and
`--render` writes this page again from the figures. Each section is a script of its own as well,
`benchmarks/ways_to_die.py` for example. A candidate that is not installed is named above. The
containers need a Docker daemon and no registry: their image is made of the interpreter that runs
the benchmarks. testcontainers has Ryuk remove what a killed run leaves; Ryuk's image must be there.
"""

OTHERS = """
Ours alone, and therefore not here: how a server is launched (`cold_start.py`), more ways and
moments to die (`kill_matrix.py`, `kill_forked.py`), an early start (`early_start.py`), several
models (`matrix.py`), one server for many workers ([at scale](scale.md)), the simulator
(`sim_start.py`, `sim_throughput.py`, `sim_memory.py`), the report's page (`report.py`).
"""


def page(results: Results) -> str:
    """Return the whole page."""
    lines = [*HEAD.strip().splitlines(), ""]
    lines += [*_measured_where(results), *HOW.strip().splitlines(), ""]
    tables = [table for one in results.sections for table in one.tables]
    worse = _list([line for table in tables for line in ours_is_worse(table)], NOWHERE)
    lines += ["## Where we lose", "", *worse, ""]
    lines += ["## Our budgets", "", *_table_of_budgets(results), ""]
    lines += ["## Figures", ""]
    for one in results.sections:
        lines += section(one)
    missing = _list(list(not_measured(results)), "Everything was.")
    lines += ["## Not measured", "", *missing, ""]
    lines += ["## Measure it yourself", "", *REPRODUCE.strip().splitlines(), ""]
    return "\n".join([*lines, *OTHERS.strip().splitlines()]) + "\n"


def _measured_where(results: Results) -> list[str]:
    lines = ["## Measured", ""]
    if results.quick:
        lines += ["**Not for comparison:** a quick run on a part of everything.", ""]
    lines += [f"**{remark}**\n" for remark in results.remarks]
    lines += [_row(["", ""]), _row(["---", "---"])]
    took = f"{results.seconds / 60:.1f} minutes"
    facts = {"when": results.date, "command": f"`{results.command}`", "took": took}
    for name, value in {**facts, **results.machine, **results.versions}.items():
        lines.append(_row([name, value]))
    return [*lines, ""]


def _list(found: list[str], otherwise: str) -> list[str]:
    return [f"- {line}" for line in found] or [otherwise]


def _table_of_budgets(results: Results) -> list[str]:
    heads = ["what", "budget", "measured", "", "the best of others when the budget was made"]
    lines = [_row(heads), _row(["---", "---:", "---:", "---", "---"])]
    for budget in _budgets.BUDGETS:
        value = budget.value(results)
        measured = NOTHING if value is None else budget.show(value)
        verdict = "not measured" if value is None else "met" if budget.met(value) else "**missed**"
        if value is not None and budget.drowned(results):
            verdict += ", within the noise"
        lines.append(_row([budget.what, budget.limit_text, measured, verdict, budget.others]))
    return lines
