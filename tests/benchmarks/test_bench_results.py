"""Figures go into JSON and come out of it."""

from __future__ import annotations

import json

import pytest
from _results import BYTES, MORE, SHARE, Cell, Figures, Grid, Results, Section, dumps, loads


def results() -> Results:
    return Results(
        date="2026-01-02 03:04 UTC",
        command="python benchmarks/side_by_side.py",
        seconds=1.5,
        quick=False,
        machine={"system": "Linux"},
        versions={"mirakuru": "not installed"},
        remarks=["The machine was not idle."],
        sections=[
            Section(
                "life",
                2.5,
                0.25,
                [
                    Figures("ready", "Ready", "What.", {"we": Cell([0.5, 1.25], "µ")}, "we"),
                    Grid(
                        "mistakes",
                        "Mistakes",
                        "What.",
                        "who",
                        {"we": {"named": Cell([1.0]), "size": Cell([], "failed: why")}},
                        "we",
                        {"named": SHARE, "size": BYTES},
                        {"named": MORE},
                    ),
                ],
            ),
            Section("memory", failed="failed: RuntimeError: no memory"),
        ],
    )


def test_what_is_written_is_read() -> None:
    assert loads(dumps(results())) == results()


def test_what_is_read_is_written_again_alike() -> None:
    written = dumps(results())

    assert dumps(loads(written)) == written


def test_a_figure_has_six_digits() -> None:
    found = results()
    found.seconds = 1.23456789e-7

    assert loads(dumps(found)).seconds == 1.23457e-7


def test_the_figures_of_other_benchmarks_are_refused() -> None:
    data = json.loads(dumps(results()))

    for other in ({**data, "format": 0}, {k: v for k, v in data.items() if k != "format"}):
        with pytest.raises(ValueError, match="measure again"):
            loads(json.dumps(other))


def test_a_table_is_found_by_its_name() -> None:
    found = results().table("mistakes")

    assert isinstance(found, Grid)
    assert results().table("nothing") is None
