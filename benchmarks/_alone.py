"""The command line of a script that measures one thing, and how it is timed."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable

import _page
from _results import Section, Table
from _rounds import Effort, Meter, reason

Measure = Callable[[Effort], list[Table]]


def timed(key: str, measure: Measure, effort: Effort) -> Section:
    """Measure something; what fails is said in the section."""
    meter = Meter()
    section = Section(key)
    try:
        section.tables = measure(effort)
    except Exception as error:  # the other sections are measured nevertheless
        section.failed = reason(error)
    section.seconds, section.others = meter.seconds, meter.others()
    return section


def interruptible() -> None:
    """Have Ctrl-C and a polite end undo what is done, whoever started this process."""
    # A job of a shell that was started with "&" ignores SIGINT, and hands that down.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is a module's text as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def alone(description: str | None, measure: Measure, runs: int) -> None:
    """Measure one thing, and print it."""
    parser = arguments(description)
    parser.add_argument("--runs", type=int, default=runs, help=f"rounds (default {runs})")
    parser.add_argument("--quick", action="store_true", help="a part of it")
    given = parser.parse_args()
    if given.runs < 1:
        parser.error("--runs must be at least 1")
    interruptible()
    section = timed("", measure, Effort(given.runs, given.quick))
    print("\n".join(_page.section(section)))
    print(f"\n(took {section.seconds:.0f} s)")
    if section.failed:
        sys.exit(section.failed)
