"""Whoever of a forked server's kin is killed: nothing that depends on it is left.

All of them at all moments, and two at a time, are in ``benchmarks/kill_forked.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import await_
from tests.support_server import linux
from tests.support_warm_killed import ALONE, Family, family

pytestmark = [linux, pytest.mark.slow]


def await_alive(kin: Family, expected: set[str]) -> None:
    await_(lambda: kin.alive() == expected, f"nobody alive but {expected}")


@pytest.mark.parametrize(
    ("moment", "victims"),
    [
        ("imports", ["parent"]),
        ("imports", ["keeper"]),
        ("start", ["keeper"]),
        ("start", ["reaper"]),
        ("ready", ["parent_watcher", "watcher", "parent"]),
        ("ready", ["keeper"]),
        ("ready", ["reaper"]),
        ("ready", ["parent_keeper"]),
    ],
)
def test_nothing_is_left_of_what_depends_on_it(
    moment: str, victims: list[str], tmp_path: Path
) -> None:
    with family(tmp_path, moment) as kin:
        for victim in victims:
            gone = ALONE[victim]
            if (moment, victim) == ("start", "reaper"):
                gone = gone | {"keeper", "watcher"}  # the start has failed
            expected = kin.alive() - gone
            kin.kill(victim)
            await_alive(kin, expected)
        kin.kill("holder")
        await_(lambda: kin.left() == [], "the end of all")
