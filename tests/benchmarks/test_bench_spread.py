"""Medians, ranges, ratios, and rounds in which a candidate fails."""

from __future__ import annotations

import pytest
from _results import Cell
from _rounds import LONGEST, NotMeasuredError, reason, rounds, together
from _spread import apart, ratio, summary


def test_of_few_runs_the_range_is_that_of_the_extremes() -> None:
    found = summary([3.0, 1.0, 2.0])

    assert (found.runs, found.median, found.low, found.high) == (3, 2.0, 1.0, 3.0)


def test_of_many_runs_it_is_that_of_the_middle_half() -> None:
    found = summary([1.0, 2.0, 3.0, 4.0, 1000.0])

    assert (found.median, found.low, found.high, found.spread) == (3.0, 2.0, 4.0, 2.0)


def test_one_run_has_no_range() -> None:
    assert summary([5.0]).spread == 0.0


@pytest.mark.parametrize(
    ("one", "other", "different"),
    [
        ([1.0, 2.0], [3.0, 4.0], True),
        ([3.0, 4.0], [1.0, 2.0], True),
        ([1.0, 3.0], [3.0, 4.0], False),
        ([1.0, 4.0], [2.0, 3.0], False),
        ([1.0], [3.0, 4.0], False),
        ([1.0, 2.0], [9.0], False),
    ],
)
def test_what_overlaps_is_not_apart(one: list[float], other: list[float], different: bool) -> None:
    assert apart(summary(one), summary(other)) is different


def test_a_ratio_is_that_of_the_medians() -> None:
    assert ratio(summary([6.0, 9.0, 7.0]), summary([2.0, 1.0, 90.0])) == 3.5


@pytest.mark.parametrize(("other", "ours"), [(1.0, 0.0), (1.0, -1.0), (-1.0, 1.0)])
def test_nothing_and_less_than_nothing_have_no_ratio(other: float, ours: float) -> None:
    assert ratio(summary([other]), summary([ours])) is None


def test_each_round_begins_with_another_candidate() -> None:
    order: list[str] = []

    def candidate(name: str) -> float:
        order.append(name)
        return float(len(order))

    cells = rounds({"a": lambda: candidate("a"), "b": lambda: candidate("b")}, 3, {"b": 2})

    assert order == ["a", "b", "b", "a", "a"]
    assert cells == {"a": Cell([1.0, 4.0, 5.0]), "b": Cell([2.0, 3.0])}


def test_who_fails_says_why_and_takes_no_further_part() -> None:
    tries: list[int] = []

    def fails() -> float:
        tries.append(1)
        if len(tries) == 2:
            raise RuntimeError("first line\nno server came")
        return 1.0

    cells = rounds({"bad": fails, "good": lambda: 2.0, "nothing": lambda: None}, 3)

    assert cells["bad"] == Cell([1.0], "failed: RuntimeError: no server came")
    assert cells["good"] == Cell([2.0, 2.0, 2.0])
    assert cells["nothing"] == Cell()
    assert len(tries) == 2


def test_who_is_not_there_has_not_failed() -> None:
    def absent() -> float:
        raise NotMeasuredError("not installed")

    assert rounds({"absent": absent}, 2) == {"absent": Cell([], "not installed")}


def test_a_reason_fits_into_a_cell() -> None:
    assert len(reason(ValueError("x" * 1000))) == len("failed: ") + LONGEST
    assert reason(ValueError()) == "failed: ValueError: "


def test_what_is_done_together_comes_back_in_order() -> None:
    assert together(2, lambda a, b: a + b, [(1, 2), (3, 4), (5, 6)]) == [3, 7, 11]


def test_what_fails_together_begins_nothing_more() -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        raise RuntimeError(f"number {number}")

    with pytest.raises(RuntimeError, match="number 0"):
        together(1, work, [(number,) for number in range(1)])

    assert begun == [0]
