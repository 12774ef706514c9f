"""The project's own budgets: which figure each is, and whether it is kept."""

from __future__ import annotations

import pytest
from _budgets import BUDGETS, RATIO, Budget
from _page import page
from _results import COUNT, SECONDS, SHARE, Cell, Figures, Grid, Results, Section, Table


def results(*tables: Table) -> Results:
    return Results("", "", 1.0, False, {}, {}, [], [Section("life", tables=list(tables))])


FIGURES = Figures("ready", "Ready", "", {"we": Cell([0.1, 0.2, 0.9]), "unit": Cell([0.1])}, "we")
GRID = Grid(
    "left",
    "Left",
    "",
    "",
    {
        "SIGKILL": {"we": Cell([0.0, 1.0]), "named": Cell([1.0])},
        "SIGTERM": {"we": Cell([2.0]), "named": Cell([1.0, 0.0, 0.0])},
    },
    "we",
)


@pytest.mark.parametrize(
    ("budget", "value"),
    [
        (Budget("x", "ready", "we", 1.0, SECONDS), 0.2),
        (Budget("x", "ready", "we", 1.0, RATIO, per="unit"), 2.0),
        (Budget("x", "ready", "we", 1.0, RATIO, per="nobody"), None),
        (Budget("x", "ready", "nobody", 1.0, SECONDS), None),
        (Budget("x", "nothing", "we", 1.0, SECONDS), None),
        (Budget("x", "left", "", 0, COUNT, column="we"), 3.0),
        (Budget("x", "left", "SIGTERM", 0, COUNT, column="we"), 2.0),
        (Budget("x", "left", "", 1.0, SHARE, column="named"), 0.5),
        (Budget("x", "left", "SIGKILL", 1.0, SECONDS, column="we"), 0.5),
        (Budget("x", "left", "", 0, COUNT, column="nobody"), None),
    ],
)
def test_a_budget_finds_its_figure(budget: Budget, value: float | None) -> None:
    assert budget.value(results(FIGURES, GRID)) == value


@pytest.mark.parametrize(
    ("unit", "limit", "kept", "broken", "said"),
    [
        (SECONDS, 0.01, 0.01, 0.011, "<= 10.00 ms"),
        (COUNT, 0, 0, 1, "0"),
        (SHARE, 1.0, 1.0, 0.99, ">= 100%"),
    ],
)
def test_a_budget_is_kept_or_not(
    unit: str, limit: float, kept: float, broken: float, said: str
) -> None:
    budget = Budget("x", "t", "r", limit, unit)

    assert budget.met(kept)
    assert not budget.met(broken)
    assert budget.limit_text == said


def test_noise_larger_than_a_budget_is_said() -> None:
    cells = {"we": Cell([1e-5]), "noise": Cell([-0.5, 0.1])}
    noisy = Figures("t", "T", "", cells, "we", noise="noise")
    calm = Figures("t", "T", "", {**cells, "noise": Cell([0.0])}, "we", noise="noise")
    budget = Budget("x", "t", "we", 0.3, SECONDS)

    assert budget.drowned(results(noisy))
    assert not budget.drowned(results(calm))
    assert not budget.drowned(results(GRID))


def test_the_page_says_of_each_budget_whether_it_is_kept() -> None:
    budget = BUDGETS[0]
    table = Figures(budget.table, "T", "", {budget.row: Cell([budget.limit * 2])}, budget.row)

    found = page(results(table))

    assert f"| {budget.what} | {budget.limit_text} | 2.00 ms | **missed** |" in found
    assert found.count("| - | not measured |") == len(BUDGETS) - 1
