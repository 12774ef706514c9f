"""Forked servers of the stand-in whose kin are killed: each, and each two at once, at each moment.

After each run: who depends on the victim is gone, and, when the holder is killed as well, all are,
a daemon with an empty environment included. The time is that from a SIGKILL until that is so.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support_warm_killed import MOMENTS, VICTIMS, Family, family

#: Nothing is waited for longer, in seconds.
WATCHDOG = 60.0

#: Who kills a daemon that bears no mark, when its reaper ends with all above it.
_LAST = {"parent_keeper", "parent_watcher"}


def impossible(victims: tuple[str, ...], moment: str) -> str:
    """Return why there is no such run; empty if there is."""
    if moment == "imports" and {"server", "reaper"} & {*victims}:
        return "nothing is forked yet"
    if {*victims} == _LAST and moment != "imports":
        return "nobody is left who knows a daemon that bears no mark"
    return ""


def perform(victims: tuple[str, ...], moment: str) -> tuple[float, str]:
    """Do one run; return how long it took until all were gone, and what was left."""
    with (
        tempfile.TemporaryDirectory(prefix="kill-forked-") as directory,
        family(Path(directory), moment) as kin,
    ):
        began = time.monotonic()
        for victim in victims:
            kin.kill(victim)
        if "holder" not in victims:
            kin.kill("holder")
        return await_gone(kin, began)


def await_gone(kin: Family, began: float) -> tuple[float, str]:
    """Wait until nothing is left."""
    while left := kin.left():
        if time.monotonic() - began > WATCHDOG:
            return time.monotonic() - began, f"left: {' '.join(left)} of {kin.alive()}"
        time.sleep(0.005)
    return time.monotonic() - began, ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1, help="runs of each combination")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default 2)")
    options = parser.parse_args()
    each = [(one,) for one in VICTIMS]
    groups = [*each, *itertools.combinations(VICTIMS, 2)] * options.runs
    wanted = [(victims, moment) for moment in MOMENTS for victims in groups]
    runs = [run for run in wanted if not impossible(*run)]
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    failed = 0
    with ThreadPoolExecutor(options.jobs) as executor:
        for run, result in zip(runs, executor.map(lambda one: perform(*one), runs), strict=True):
            victims, moment = run
            seconds, problem = result
            times["one" if len(victims) == 1 else "two", moment].append(seconds)
            if problem:
                failed += 1
                print(f"FAILED {' and '.join(victims)} / {moment}: {problem}", flush=True)
    print("killed  moment    runs  median until all was gone   maximum")
    for (many, moment), found in times.items():
        median = statistics.median(found)
        print(f"{many:6}  {moment:8}  {len(found):4}  {median:18.3f} s  {max(found):14.3f} s")
    print(f"{len(runs)} runs, {failed} failures, {len(wanted) - len(runs)} impossible")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
