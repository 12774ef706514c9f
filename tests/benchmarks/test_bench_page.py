"""The page says what the figures say, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from _candidates import OURS
from _cells import factor, show, span, text
from _page import page, rows, section
from _results import (
    BYTES,
    COUNT,
    MICROSECONDS,
    MORE,
    NEVER,
    SECONDS,
    SHARE,
    TAKEN_FOR_READY,
    Cell,
    Figures,
    Grid,
    Results,
    Section,
    Table,
    loads,
)

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "explanation" / "benchmarks.md"

FAST, SLOW = Cell([0.01, 0.011, 0.012]), Cell([0.02, 0.021, 0.022])
WIDE = Cell([0.001, 0.02, 0.5])


def figures(cells: dict[str, Cell], *, compare: bool = True, reference: str = "") -> Figures:
    text = "A text\n of lines."
    return Figures("ready", "Ready", text, cells, OURS, compare=compare, reference=reference)


def grid(
    rows: dict[str, dict[str, Cell]],
    units: dict[str, str] | None = None,
    better: dict[str, str] | None = None,
) -> Grid:
    return Grid("left", "Left", "What.", "who", rows, OURS, units or {}, better or {})


def results(*tables: Table, **others: object) -> Results:
    found = Results("today", "python x.py", 90.0, False, {"system": "Linux"}, {"pytest": "9.9"})
    found.sections = [Section("life", 1.0, 0.0, list(tables))]
    for name, value in others.items():
        setattr(found, name, value)
    return found


def part(text: str, heading: str) -> str:
    """Return a section of a page."""
    return text.partition(f"## {heading}\n\n")[2].partition("\n## ")[0].strip()


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (1.5, SECONDS, "1.50 s"),
        (0.0123, SECONDS, "12 ms"),
        (0.00123, SECONDS, "1.23 ms"),
        (-0.00123, SECONDS, "-1.23 ms"),
        (1.23e-5, MICROSECONDS, "12.3 µs"),
        (1 << 20, BYTES, "1.0 MiB"),
        (2.0, COUNT, "2"),
        (1.0, SHARE, "1"),
    ],
)
def test_a_value_is_shown_for_people(value: float, unit: str, shown: str) -> None:
    assert show(value, unit) == shown


def test_a_range_names_a_unit_once_unless_there_are_two() -> None:
    assert span(0.1, 0.2, SECONDS) == "100 - 200 ms"
    assert span(0.1, 2.0, SECONDS) == "100 ms - 2.00 s"
    assert span(1, 3, COUNT) == "1 - 3"


def test_a_row_has_runs_median_spread_and_ratio() -> None:
    assert rows(figures({OURS: FAST, "other": SLOW})) == [
        "|  | runs | median | spread | x ours |",
        "| --- | ---: | ---: | ---: | ---: |",
        f"| **{OURS}** | 3 | 11 ms | 10 - 12 ms |  |",
        "| other | 3 | 21 ms | 20 - 22 ms | 1.9 |",
    ]


def test_a_ratio_that_noise_may_have_decided_is_in_brackets() -> None:
    assert factor(SLOW, FAST) == "1.9"
    assert factor(WIDE, FAST) == "(1.8)"
    assert factor(Cell([5.0]), FAST) == "(455)"
    assert factor(FAST, Cell([0.0, 0.0])) == "-"
    assert factor(FAST, FAST) == factor(Cell(), FAST) == factor(FAST, Cell()) == ""


@pytest.mark.parametrize("why", ["failed: RuntimeError: no server", "not installed"])
def test_who_has_no_figures_says_why(why: str) -> None:
    table = figures({OURS: FAST, "other": Cell(note=why)})

    assert rows(table)[-1] == f"| other | 0 | - | - |  | {why} |"
    assert part(page(results(table)), "Not measured") == f"- other: {why} (Ready)"


def test_a_bar_in_a_reason_does_not_end_its_cell() -> None:
    assert rows(figures({OURS: Cell(note="a | b")}))[-1].endswith(r"| a \| b |")


def test_differences_have_no_ratio() -> None:
    table = rows(figures({OURS: FAST, "other": SLOW}, compare=False))

    assert table[0] == "|  | runs | median | spread |"
    assert table[-1] == "| other | 3 | 21 ms | 20 - 22 ms |"


@pytest.mark.parametrize(
    ("cell", "unit", "said"),
    [
        (Cell([1.0, 0.0, 1.0]), SHARE, "2 of 3"),
        (Cell([1.0, 1.0]), COUNT, "1"),
        (Cell([2.0, 1.0]), COUNT, "1 - 2"),
        (SLOW, SECONDS, "21 ms (20 - 22 ms), x 1.9"),
        (Cell([0.02]), SECONDS, "20 ms, x (1.8)"),
        (FAST, SECONDS, "11 ms (10 - 12 ms)"),
        (Cell(note="never"), SECONDS, "never"),
        (Cell([1.0], "the first run alone"), COUNT, "1, the first run alone"),
        (Cell(), COUNT, "-"),
    ],
)
def test_a_cell_of_a_grid(cell: Cell, unit: str, said: str) -> None:
    assert text(cell, unit, FAST) == said


def test_a_grid_compares_with_our_row_or_our_column() -> None:
    ours = {"time": FAST}
    down = grid({OURS: ours, "other": {"time": SLOW}}, units={"time": SECONDS})
    across = grid({"case": {OURS: FAST, "other": SLOW}}, units={OURS: SECONDS, "other": SECONDS})

    assert rows(down)[2:] == [
        f"| **{OURS}** | 11 ms (10 - 12 ms) |",
        "| other | 21 ms (20 - 22 ms), x 1.9 |",
    ]
    assert rows(across) == [
        f"| who | **{OURS}** | other |",
        "| --- | ---: | ---: |",
        "| case | 11 ms (10 - 12 ms) | 21 ms (20 - 22 ms), x 1.9 |",
    ]


def test_a_section_that_failed_says_so_and_so_does_a_noisy_one() -> None:
    failed = Section("life", failed="failed: RuntimeError: why")
    noisy = Section("life", 1.0, 0.25, [figures({OURS: FAST})])

    assert section(failed) == ["Not measured: failed: RuntimeError: why", ""]
    assert "- `life.py`: failed: RuntimeError: why" in page(results(sections=[failed]))
    assert section(noisy)[:6] == [
        "### Ready",
        "",
        "A text of lines.",
        "",
        "**Noisy:** other programs took 25% of the processors meanwhile.",
        "",
    ]
    assert not any("Noisy" in line for line in section(Section("x", 1.0, 0.1, noisy.tables)))


def test_the_page_says_where_another_is_better() -> None:
    lines = part(page(results(figures({OURS: SLOW, "other": FAST}))), "Where we lose")

    assert lines == "- Ready: other 11 ms, ours 21 ms"


@pytest.mark.parametrize(
    "table",
    [
        figures({OURS: FAST, "other": SLOW}),
        figures({OURS: WIDE, "other": FAST}),
        figures({OURS: SLOW, f"{OURS}, otherwise": FAST}),
        figures({OURS: SLOW, "other": FAST}, compare=False),
        figures({OURS: Cell(), "other": FAST}),
        figures({OURS: SLOW, "`python -c pass`": FAST}, reference="`python -c pass`"),
        grid({OURS: {"left": Cell([0.0])}, "other": {"left": Cell([1.0])}}),
    ],
)
def test_it_does_not_where_noise_may_have_decided_or_we_are_better(table: Table) -> None:
    lines = part(page(results(table)), "Where we lose")

    assert lines == "In no figure that noise did not decide."


def test_in_a_grid_less_is_better_unless_it_is_said() -> None:
    shares = {"other": {"named": Cell([1.0, 1.0])}, OURS: {"named": Cell([1.0, 0.0])}}
    left = {"SIGKILL": {"other": Cell([0.0]), OURS: Cell([1.0])}}
    more = grid(shares, units={"named": SHARE}, better={"named": MORE})

    lines = part(page(results(more, grid(left))), "Where we lose")

    assert lines.splitlines() == [
        "- Left: named, other 2 of 2, ours 1 of 2",
        "- Left: SIGKILL, other 0, ours 1",
    ]


def test_what_came_out_was_measured() -> None:
    ends = {"mistake": {"real": Cell(note=NEVER), "a": Cell(note=TAKEN_FOR_READY), "b": Cell()}}
    absent = {"mistake": {"c": Cell(note="not installed")}}

    lines = part(page(results(grid(ends), grid(absent))), "Not measured")

    assert lines == "- c: not installed (Left)"


def test_a_quick_run_and_remarks_are_said_first() -> None:
    found = page(results(quick=True, remarks=["The machine was not idle when this began."]))

    measured = part(found, "Measured")
    assert measured.startswith("**Not for comparison:**")
    assert "**The machine was not idle when this began.**" in measured
    assert "| took | 1.5 minutes |" in measured
    assert "| pytest | 9.9 |" in measured


@pytest.mark.skipif(not RESULTS.exists(), reason="nothing was measured yet")
def test_the_page_is_what_the_figures_give() -> None:
    found = loads(RESULTS.read_text(encoding="utf-8"))

    assert PAGE.read_text(encoding="utf-8") == page(found)


@pytest.mark.skipif(not RESULTS.exists(), reason="nothing was measured yet")
def test_the_figures_are_those_of_a_whole_run() -> None:
    import side_by_side

    found = loads(RESULTS.read_text(encoding="utf-8"))

    assert not found.quick
    assert [one.key for one in found.sections if not one.failed] == list(side_by_side.PLAN)
