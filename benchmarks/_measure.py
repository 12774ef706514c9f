"""Rounds, statistics and tables that the benchmarks share."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

Results = dict[str, list[float]]


def runs_argument(description: str | None, default: int) -> int:
    """Read ``--runs N`` from the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=default, help=f"rounds (default {default})")
    runs: int = parser.parse_args().runs
    if runs < 1:
        parser.error("--runs must be at least 1")
    return runs


def interleave(
    candidates: Mapping[str, Callable[[], float | None]],
    runs: int,
    at_most: Mapping[str, int] | None = None,
) -> Results:
    """Measure every candidate once a round, so that the machine's drift hits all alike.

    Parameters
    ----------
    candidates
        Each returns seconds, or None where there is nothing to measure.
    runs
        Number of rounds. Each begins with another candidate.
    at_most
        Fewer rounds for some candidates, by name.
    """
    names = list(candidates)
    results: Results = {name: [] for name in names}
    for number in range(runs):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if number < (at_most or {}).get(name, runs):
                value = candidates[name]()
                if value is not None:
                    results[name].append(value)
    return results


def read_note(path: str) -> float | None:
    """Return the clock reading that a child left in a file."""
    try:
        with open(path, encoding="ascii") as file:
            return float(file.read())
    except FileNotFoundError:
        return None


def environment() -> str:
    """Return one line that says where the figures come from."""
    parts = [f"Python {platform.python_version()}", f"{os.cpu_count()} cores", platform.system()]
    for name in ("pytest", "pytest-xprocess", "mirakuru", "pytest-xdist"):
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            parts.append(f"{name} not installed")
    return ", ".join(parts)


def ms(seconds: float) -> str:
    """Return a duration for people."""
    if abs(seconds) >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.2f} ms" if abs(seconds) < 0.01 else f"{seconds * 1000:.1f} ms"


def table(
    title: str,
    results: Results,
    *,
    ours: str,
    show: Callable[[float], str] = ms,
    ratio: bool = True,
) -> None:
    """Print a table: every candidate's median, minimum and maximum, and its ratio to ours."""
    reference = statistics.median(results[ours])
    rows = [(title, "runs", "median", "min - max", "x ours" if ratio else "")]
    for name, values in results.items():
        if not values:
            rows.append((name, "0", "-", "", ""))
            continue
        middle = statistics.median(values)
        factor = f"{middle / reference:.1f}" if ratio and reference > 0 else ""
        extent = f"{show(min(values))} - {show(max(values))}"
        rows.append((name, str(len(values)), show(middle), extent, factor))
    _print_rows(rows)


def _print_rows(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print()
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())
        if number == 0:
            print("-" * (sum(widths) + 2 * (len(widths) - 1)))


def verdict(goal: str, value: float, limit: float, show: Callable[[float], str] = ms) -> None:
    """Print whether a goal is met."""
    word = "met" if value <= limit else "MISSED"
    print(f"goal: {goal} <= {show(limit)}: {word} ({show(value)})")


@contextmanager
def report(what: str) -> Iterator[None]:
    """Print the head of a benchmark's output, and at its end how long it took."""
    # As on a user's machine: nothing is compiled anew in each process.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.monotonic()
    print(f"{what}\n{environment()}")
    yield
    print(f"\n(took {time.monotonic() - began:.0f} s)")
