"""Measure everything side by side, and write docs/explanation/benchmarks.md.

The figures go into benchmarks/results.json, and the page is rendered from them alone. On two idle
cores it takes about ten minutes. One candidate's failure is a cell that says why, one script's a
section; at the end, however it comes, nothing that was started is left.
"""

from __future__ import annotations

import datetime
import os
import platform
import signal
import sys
import tempfile
import time
from pathlib import Path

import _page
import _results
import early_death
import import_cost
import life
import memory
import per_test_cost
import reuse
import sharing
import startup_mistakes
import ways_to_die
from _alone import Measure, arguments, interruptible, timed
from _candidates import versions
from _processes import kill_all
from _results import Results
from _rounds import Effort

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
PAGE = HERE.parent / "docs" / "explanation" / "benchmarks.md"

#: What is measured, in the order of the page, with the rounds of a whole and of a quick run.
PLAN: dict[str, tuple[Measure, int, int]] = {
    "import_cost": (import_cost.measure, 8, 1),
    "life": (life.measure, 6, 1),
    "early_death": (early_death.measure, 6, 1),
    "startup_mistakes": (startup_mistakes.measure, 1, 1),
    "ways_to_die": (ways_to_die.measure, 2, 1),
    "sharing": (sharing.measure, 5, 1),
    "reuse": (reuse.measure, 5, 1),
    "per_test_cost": (per_test_cost.measure, 4, 1),
    "memory": (memory.measure, 5, 1),
}

#: The load of an idle machine, for each of its cores.
IDLE = 0.25


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    found = {
        "processor": f"{os.cpu_count()} cores, {_processor()}",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    found["load before"] = f"{os.getloadavg()[0]:.2f}"
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def measure(names: list[str], *, quick: bool) -> Results:
    """Measure what is named; say on the way what is being measured."""
    began = time.monotonic()
    words = ["python", "benchmarks/side_by_side.py", *(["--quick"] if quick else [])]
    if names != list(PLAN):
        words += ["--only", *names]
    results = Results(
        date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        command=" ".join(words),
        seconds=0.0,
        quick=quick,
        machine=machine(),
        versions=versions(),
    )
    if os.getloadavg()[0] > IDLE * (os.cpu_count() or 1):
        results.remarks.append("The machine was not idle when this began.")
    for name in names:
        one, runs, few = PLAN[name]
        print(f"{name} ...", end=" ", flush=True)
        section = timed(name, one, Effort(few if quick else runs, quick))
        results.sections.append(section)
        print(f"{section.failed or 'done'}, {section.seconds:.0f} s", flush=True)
    results.seconds = time.monotonic() - began
    return results


def cleanly(names: list[str], *, quick: bool) -> Results:
    """Measure with everything in one directory; whatever bears its name is killed at the end."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="side-", ignore_cleanup_errors=True) as path:
        root = os.path.realpath(path)
        os.environ.update(TMPDIR=root, XDG_RUNTIME_DIR=root)
        tempfile.tempdir = root
        try:
            return measure(names, quick=quick)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # what follows is the cleaning up
            left = kill_all(root)
            if left:
                print(f"killed what was left: {len(left)} processes", file=sys.stderr)
            tempfile.tempdir = None
            os.environ.clear()
            os.environ.update(before)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="a part of everything, once")
    parser.add_argument("--only", nargs="+", choices=PLAN, metavar="NAME",
                        help=f"these alone: {', '.join(PLAN)}")  # fmt: skip
    parser.add_argument("--render", action="store_true", help="write the page from the figures")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the figures")
    parser.add_argument("--page", type=Path, default=PAGE, help="file of the page")
    given = parser.parse_args()
    if given.quick and (given.results == RESULTS or given.page == PAGE):
        parser.error("--quick is no measurement: give --results and --page")
    if not given.render:
        interruptible()
        results = cleanly(given.only or list(PLAN), quick=given.quick)
        given.results.write_text(_results.dumps(results), encoding="utf-8")
    results = _results.loads(given.results.read_text(encoding="utf-8"))
    given.page.write_text(_page.page(results), encoding="utf-8")
    print(f"{given.results}\n{given.page}")
    return 1 if any(section.failed for section in results.sections) else 0


if __name__ == "__main__":
    sys.exit(main())
