"""What was measured: raw figures, as they go into a JSON file and come out of it.

There are two shapes. `Figures` is one figure for each candidate, measured many times. `Grid` is a
table of its own rows and columns, each cell with the values of a few runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = 1

#: Units: how a value is shown, and what a cell with several values says.
SECONDS, MICROSECONDS, BYTES = "s", "us", "bytes"
#: A number of things; 1 or 0 for each of many cases, shown as "k of n".
COUNT, SHARE = "count", "share"

#: Notes of cells without figures that were measured nevertheless: this is what came out.
NEVER, TAKEN_FOR_READY = "never", "taken for ready"

#: A larger value is better: of a share, mostly.
MORE = "more"
LESS = "less"


@dataclass
class Cell:
    """The values of one candidate.

    Parameters
    ----------
    values
        One for each run, in the order of the runs.
    note
        What the reader must know of them; the reason where there are none.
    """

    values: list[float] = field(default_factory=list)
    note: str = ""


@dataclass
class Figures:
    """One figure for each candidate, to be compared.

    Parameters
    ----------
    key, title, what
        Name for references, heading, and what is measured.
    cells
        By candidate.
    ours
        The candidate that the others are compared with.
    unit
        One of the units above.
    compare
        Whether the ratio to ours means anything: differences between two runs have none.
    noise
        The candidate that is a measure of noise, if there is one.
    reference
        The one that is no candidate, and only shows how large the others' figures are.
    """

    key: str
    title: str
    what: str
    cells: dict[str, Cell]
    ours: str
    unit: str = SECONDS
    compare: bool = True
    noise: str = ""
    reference: str = ""
    kind: str = "figures"


@dataclass
class Grid:
    """Cells in rows and columns.

    Parameters
    ----------
    key, title, what, corner
        Name, heading, what is measured, and the heading of the rows.
    rows
        By row and column.
    units, better
        By column, of which all columns that are not named are COUNT and LESS.
    ours
        The row or the column that is ours.
    """

    key: str
    title: str
    what: str
    corner: str
    rows: dict[str, dict[str, Cell]]
    ours: str
    units: dict[str, str] = field(default_factory=dict)
    better: dict[str, str] = field(default_factory=dict)
    kind: str = "grid"


Table = Figures | Grid


@dataclass
class Section:
    """What one script measured.

    Parameters
    ----------
    key
        Name of the script.
    seconds
        How long it took.
    others
        Part of the machine's processors that other programs took meanwhile, where it is known.
    tables
        What it found.
    failed
        Why it found nothing, or not all.
    """

    key: str
    seconds: float = 0.0
    others: float | None = None
    tables: list[Table] = field(default_factory=list)
    failed: str = ""


@dataclass
class Results:
    """One run of the command.

    Parameters
    ----------
    date, command, seconds, quick
        When, with which words, for how long, and whether on a subset.
    machine, versions
        Where, and of what; for what is missing the reason.
    remarks
        What the reader should know of this run.
    sections
        In the order of the page.
    """

    date: str
    command: str
    seconds: float
    quick: bool
    machine: dict[str, str]
    versions: dict[str, str]
    remarks: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    def table(self, key: str) -> Table | None:
        """Return a table by its name."""
        tables = [table for section in self.sections for table in section.tables]
        return next((table for table in tables if table.key == key), None)


def dumps(results: Results) -> str:
    """Return results as JSON, figures with six digits."""
    data = {"format": FORMAT, **asdict(results)}
    return json.dumps(_rounded(data), indent=1, ensure_ascii=False) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return value


def loads(text: str) -> Results:
    """Read results.

    Raises
    ------
    ValueError
        If they are of another version of the benchmarks.
    """
    data = json.loads(text)
    if data.pop("format", None) != FORMAT:
        raise ValueError("these results were written by another version: measure again")
    data["sections"] = [_section(one) for one in data["sections"]]
    return Results(**data)


def _section(data: Mapping[str, Any]) -> Section:
    return Section(**{**data, "tables": [_table(one) for one in data["tables"]]})


def _table(data: dict[str, Any]) -> Table:
    if data["kind"] == "figures":
        return Figures(**{**data, "cells": _cells(data["cells"])})
    return Grid(**{**data, "rows": {name: _cells(row) for name, row in data["rows"].items()}})


def _cells(data: Mapping[str, Any]) -> dict[str, Cell]:
    return {name: Cell(**cell) for name, cell in data.items()}
