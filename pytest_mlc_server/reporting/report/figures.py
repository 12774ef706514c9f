"""Figures as people read them."""

from __future__ import annotations

import time

#: What stands where nothing is known.
UNKNOWN = "\u2013"


def seconds(value: float | None) -> str:
    """Return a duration for people."""
    if value is None:
        return UNKNOWN
    if 0 < value < 0.0005:
        return f"{value * 1e6:.3g} \u00b5s"
    if value < 1:
        return f"{value * 1000:.3g} ms" if value < 0.9995 else "1 s"
    if value < 60:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(value: float) -> str:
    """Return a moment of a run: ``0``, ``0.5 s``, ``40 s``, ``3:20``, ``1:00:00``."""
    if value < 60:
        return f"{value:g} s" if value else "0"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(value: float | None) -> str:
    """Return a number of bytes for people."""
    if value is None:
        return UNKNOWN
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1000 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.3g} {unit}"


def count(value: float | None) -> str:
    """Return a number with its thousands apart."""
    return UNKNOWN if value is None else f"{value:,.0f}".replace(",", "\u202f")


def rate(value: float) -> str:
    """Return tokens per second for people."""
    return f"{value:,.0f}".replace(",", "\u202f") if value >= 100 else f"{value:.3g}"


def day(epoch: float) -> str:
    """Return a date with the time and the zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(epoch))
