"""How often to measure, in which order, and what becomes of a candidate that fails."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from _results import Cell

#: A reason in a cell has no more letters.
LONGEST = 160

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Parameters
    ----------
    runs
        Rounds, or runs of each combination.
    quick
        Measure a part that is enough to see that everything works.
    """

    runs: int
    quick: bool = False


class NotMeasuredError(Exception):
    """A candidate that there is not, with the reason; no failure."""


def reason(error: BaseException) -> str:
    """Return what a cell says of an error."""
    if isinstance(error, NotMeasuredError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[-1] if lines else ''}"
    return f"failed: {text[:LONGEST]}"


def rounds(
    candidates: Mapping[str, Callable[[], float | None]],
    runs: int,
    at_most: Mapping[str, int] | None = None,
) -> dict[str, Cell]:
    """Measure every candidate once a round, so that the machine's drift hits all alike.

    A candidate that fails takes no further part: its cell says why.

    Parameters
    ----------
    candidates
        Each returns a value, or None where there is nothing to measure.
    runs
        Number of rounds. Each begins with another candidate.
    at_most
        Fewer rounds for some candidates, by name.
    """
    names = list(candidates)
    cells = {name: Cell() for name in names}
    for number in range(runs):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if cells[name].note or number >= (at_most or {}).get(name, runs):
                continue
            try:
                value = candidates[name]()
            except Exception as error:  # one candidate's failure is not the others'
                cells[name].note = reason(error)
                continue
            if value is not None:
                cells[name].values.append(value)
    return cells


def together(
    jobs: int, work: Callable[..., Outcome], tasks: Iterable[tuple[Any, ...]]
) -> list[Outcome]:
    """Do several things at a time; what is interrupted begins nothing more."""
    executor = ThreadPoolExecutor(jobs)
    futures = [executor.submit(work, *task) for task in tasks]
    try:
        return [future.result() for future in futures]
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        executor.shutdown()


class Meter:
    """How much of the machine's processors others take while something is measured."""

    def __init__(self) -> None:
        self._busy = _busy()
        self._own = _own()
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def others(self) -> float | None:
        """Return the part that was not ours, from 0 to 1; None where it cannot be known."""
        busy = _busy()
        capacity = self.seconds * (os.cpu_count() or 1)
        if busy is None or self._busy is None or capacity <= 0:
            return None
        taken = busy - self._busy - (_own() - self._own)
        return max(0.0, min(1.0, taken / capacity))


def _own() -> float:
    """Return the CPU time of this process and of all below it that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy() -> float | None:
    """Return the CPU time of all processes of the machine."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            fields = [int(word) for word in file.readline().split()[1:]]
    except OSError:
        return None
    user, nice, system = fields[:3]
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")
