"""Every kind of finding is found by some test, and means what the reference says."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_mlc_server import doctor
from pytest_mlc_server.doctor.findings import KINDS, LEVELS, Diagnosis, Finding, Section, Server

PACKAGE = Path(doctor.__file__).parent
ROOT = Path(__file__).parents[2]
TESTS = "".join(
    path.read_text()
    for path in Path(__file__).parent.glob("test_*.py")
    if path.name != Path(__file__).name
)
SOURCE = "".join(p.read_text() for p in PACKAGE.glob("*.py") if p.name != "findings.py")


@pytest.mark.parametrize("code", KINDS)
def test_it_is_used_and_reached(code: str) -> None:
    assert f'"{code}"' in SOURCE
    assert f'"{code}"' in TESTS


def test_the_reference_has_them_all() -> None:
    page = (ROOT / "docs" / "reference" / "doctor.md").read_text()
    table = page.partition("| code | level | found when |")[2]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    wanted = [f"| `{code}` | {level} | {when} |" for code, (level, when) in KINDS.items()]
    assert rows == wanted


def test_what_is_said_twice_counts_once() -> None:
    one, other = Finding("port.auto", "a"), Finding("port.wrong", "b", "c")
    servers = [Server("sim", "m", [Section("port", [one, other])]) for _ in range(2)]
    diagnosis = Diagnosis(servers=servers)
    assert diagnosis.counts() == {"ok": 1, "note": 0, "warning": 0, "problem": 1}
    assert not diagnosis.healthy
    assert {level for level, _ in KINDS.values()} == set(LEVELS)
