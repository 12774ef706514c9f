"""Figures of the page's charts: histograms, and memory over time, in the units of their SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_mlc_server.reporting.report.figures import moment

#: Size of a chart's area for data, and where it begins.
WIDTH, HEIGHT, LEFT, TOP = 372.0, 120.0, 40.0, 26.0

#: Beyond this ratio of the largest to the smallest value, bins are equal on a logarithmic scale.
WIDE = 40.0

BINS = 24

#: Distances between moments, in seconds; beyond the last one, whole hours.
ROUND_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)


@dataclass
class Tick:
    """A mark of an axis."""

    at: float
    text: str


@dataclass
class Bar:
    """A bar of a histogram."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass
class Histogram:
    """How the values of many tests are distributed."""

    bars: list[Bar]
    ticks: list[Tick]
    levels: list[Tick]
    median: Tick
    p95: Tick
    count: int
    logarithmic: bool


@dataclass
class Line:
    """A quantity over time."""

    line: str
    area: str
    ticks: list[Tick]
    levels: list[Tick]
    peak: Tick
    peak_x: float


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values, between neighbours as a straight line."""
    position = (len(values) - 1) * share
    low = math.floor(position)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (position - low)


def histogram(values: Sequence[float], show: Callable[[float], str]) -> Histogram | None:
    """Lay out a histogram; None where there are no values."""
    values = sorted(value for value in values if value > 0)
    if not values:
        return None
    low, high = values[0], values[-1]
    logarithmic = high / low > WIDE
    low, high = (low, high) if logarithmic else (0.0, _ceiling(high))
    if high <= low:
        high = low * 2
    scale = _logarithmic(low, high) if logarithmic else _linear(low, high)
    counted = [0] * BINS
    for value in values:
        counted[min(int(scale(value) * BINS), BINS - 1)] += 1
    top = max(counted)
    width = WIDTH / BINS
    bars = []
    for number, count in enumerate(counted):
        if count:
            height = max(HEIGHT * count / top, 1.5)
            edges = (_inverse(low, high, (number + n) / BINS, logarithmic) for n in (0, 1))
            text = f"{count} between {' and '.join(show(edge) for edge in edges)}"
            x, y = LEFT + number * width, TOP + HEIGHT - height
            bars.append(Bar(_r(x + 0.6), _r(y), _r(width - 1.2), _r(height), text))
    marks = _powers(low, high) if logarithmic else nice(low, high, 5)
    ticks = [Tick(_r(LEFT + WIDTH * scale(mark)), show(mark) if mark else "0") for mark in marks]
    levels = [Tick(_r(TOP + HEIGHT), "0"), Tick(TOP, str(top))]
    median, p95 = quantile(values, 0.5), quantile(values, 0.95)
    at = [Tick(_r(LEFT + WIDTH * scale(value)), show(value)) for value in (median, p95)]
    return Histogram(bars, ticks, levels, at[0], at[1], len(values), logarithmic)


def line(
    samples: Sequence[Sequence[float]],
    start: float,
    end: float,
    show: Callable[[float], str],
) -> Line | None:
    """Lay out memory (epoch, bytes) from `start` to `end`; None where there are no samples."""
    samples = thinned([(at, size) for at, size, *_ in samples if start <= at <= end], 240)
    if not samples:
        return None
    peak_at, peak = max(samples, key=lambda sample: sample[1])
    top = _binary_ceiling(peak)

    def x(at: float) -> float:
        return _r(LEFT + WIDTH * (at - start) / max(end - start, 1e-9))

    def y(size: float) -> float:
        return _r(TOP + HEIGHT * (1 - size / top))

    points = [(x(at), y(size)) for at, size in samples]
    path = "M" + "L".join(f"{px:g} {py:g}" for px, py in points)
    if len(points) == 1:
        path += "h2"
    bottom = TOP + HEIGHT
    area = f"{path}V{bottom:g}H{points[0][0]:g}z"
    marks = moments(end - start, 5)
    ticks = [Tick(x(start + mark), moment(mark)) for mark in marks]
    levels = [Tick(y(size), show(size)) for size in (0, top / 2, top)]
    return Line(path, area, ticks, levels, Tick(y(peak), show(peak)), x(peak_at))


def thinned(samples: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Return fewer samples: the largest of each stretch, so that no peak is lost."""
    if len(samples) <= most:
        return list(samples)
    step = len(samples) / most
    chunks = (samples[int(n * step) : int((n + 1) * step)] for n in range(most))
    return [max(chunk, key=lambda sample: sample[1]) for chunk in chunks if chunk]


def nice(low: float, high: float, most: int) -> list[float]:
    """Return round numbers of one distance between two values, at most so many."""
    rough = (high - low) / most
    if rough <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def moments(seconds: float, most: int) -> list[float]:
    """Return moments of a run, round to somebody who reads minutes and hours."""
    rough = seconds / most
    if rough <= 0.5:
        return nice(0, seconds, most)
    hours = math.ceil(rough / 3600) * 3600
    step = next((step for step in ROUND_SECONDS if step >= rough), hours)
    return [float(n * step) for n in range(math.floor(seconds / step + 1e-9) + 1)]


def _powers(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [10.0**power * n for power in powers for n in (1, 3)]
    found = [value for value in found if low <= value <= high]
    return found if len(found) <= 7 else found[::2]


def _ceiling(value: float) -> float:
    marks = nice(0, value, 5)
    step = marks[1] - marks[0] if len(marks) > 1 else value
    return math.ceil(value / step - 1e-9) * step


def _binary_ceiling(size: float) -> float:
    power = 2.0 ** math.floor(math.log2(max(size, 1)))
    return next(power * n for n in (1, 1.25, 1.5, 2) if power * n >= size)


def _linear(low: float, high: float) -> Callable[[float], float]:
    return lambda value: (value - low) / (high - low)


def _logarithmic(low: float, high: float) -> Callable[[float], float]:
    return lambda value: math.log(value / low) / math.log(high / low)


def _inverse(low: float, high: float, share: float, logarithmic: bool) -> float:
    return low * (high / low) ** share if logarithmic else low + (high - low) * share


def _r(value: float) -> float:
    return round(value, 1)
