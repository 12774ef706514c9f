"""Who may import what: the rules of docs/explanation/architecture.md, and that each can fail."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

import pytest_mlc_server
from tests import support_architecture as architecture
from tests.support_architecture import Package

DIRECTORY = Path(pytest_mlc_server.__file__).parent
PACKAGE = Package.read(DIRECTORY)
PAGES = DIRECTORY.parent / "docs" / "explanation"
PAGE = (PAGES / "architecture.md").read_text(encoding="utf-8")

#: Rooms that may import pytest.
OF_PYTEST = [
    "plugin", "wiring", "matrix", "early", "lending", "factories", "reporting",
    "doctor.asking_pytest",  # reads a project's settings, in a process of its own
]  # fmt: skip

#: Rooms that are themselves loaded only where what they import is needed: requests for two of them,
#: the simulator's own packages, psutil for a command of its own.
LATE = ["external", "http_session", "sim", "doctor"]

#: Where a module's name may be computed: public names, other people's packages, launching.
DYNAMIC = ["", "nvml", "launcher"]

#: The way that data takes, as the page draws it.
WAY = [
    "options", "values", "engine_config", "config", "preflight", "engines", "leases", "handle",
    "launching", "server", "pool", "session", "reporting", "wiring", "plugin",
]  # fmt: skip

Rule = Callable[[Package], list[str]]

RULES: dict[str, Rule] = {
    "only the rooms of pytest import pytest": lambda package: architecture.importers_of(
        package, {"pytest", "_pytest", "pluggy", "xdist"}, OF_PYTEST
    ),
    "the plugin imports pytest and the table of settings": lambda package: [
        *architecture.imports_outside(package, "plugin", ["options"], at_import=True),
        *architecture.foreign_imports(package, "plugin", ["pytest"], at_import=True),
    ],
    "the guardian knows processes and logs": lambda package: architecture.imports_outside(
        package, "guardian", ["process", "logs"]
    ),
    "the guardian starts on the standard library": lambda package: [
        breach
        for room in ("guardian", "process", "logs")
        for breach in architecture.foreign_imports(package, room, at_import=True)
    ],
    "the guardian loads psutil alone, later": lambda package: architecture.foreign_imports(
        package, "guardian", ["psutil"]
    ),
    "the launcher knows nobody": lambda package: architecture.imports_outside(
        package, "launcher", []
    ),
    "the launcher runs on the standard library": lambda package: architecture.foreign_imports(
        package, "launcher"
    ),
    "the simulator knows nothing of the rest": lambda package: architecture.imports_outside(
        package, "sim", ["values", "overrides"]
    ),
    "its client knows nothing of the simulator": lambda package: architecture.imports_outside(
        package, "simulator", ["errors"]
    ),
    "heavy modules are imported where they are used": lambda package: [
        breach
        for room in _tops(package)
        if room not in LATE
        for breach in architecture.foreign_imports(
            package, room, ["pytest", "_pytest", "pluggy"], at_import=True
        )
    ],
    "imports are absolute": architecture.relative_imports,
    "imports are there to be read": lambda package: architecture.dynamic_imports(package, DYNAMIC),
    "no circles": architecture.cycles,
}


def _tops(package: Package) -> set[str]:
    return {name.partition(".")[0] for name in package.sources if name}


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule: str) -> None:
    assert not RULES[rule](PACKAGE)


#: For each rule, small packages that break it, and the room that the breach is found in.
BROKEN: list[tuple[str, dict[str, str], str]] = [
    ("only the rooms of pytest import pytest", {"pool": "import pytest"}, "pool"),
    (
        "only the rooms of pytest import pytest",
        {"health": "def f():\n    from _pytest.scope import Scope"},
        "health",
    ),
    ("only the rooms of pytest import pytest", {"sim.app": "import pluggy"}, "sim.app"),
    (
        "the plugin imports pytest and the table of settings",
        {"plugin": "from pytest_mlc_server import config", "config": ""},
        "plugin",
    ),
    ("the plugin imports pytest and the table of settings", {"plugin": "import tomli"}, "plugin"),
    (
        "the guardian knows processes and logs",
        {"guardian.loop": "def f():\n    from pytest_mlc_server.errors import X", "errors": ""},
        "guardian.loop",
    ),
    ("the guardian starts on the standard library", {"guardian.stop": "import psutil"}, "guardian"),
    ("the guardian starts on the standard library", {"process": "import psutil"}, "process"),
    (
        "the guardian loads psutil alone, later",
        {"guardian.stop": "def f():\n    import requests"},
        "guardian.stop",
    ),
    (
        "the launcher knows nobody",
        {"launcher.entry": "from pytest_mlc_server import values", "values": ""},
        "launcher.entry",
    ),
    (
        "the launcher runs on the standard library",
        {"launcher.entry": "def f():\n    import psutil"},
        "launcher.entry",
    ),
    (
        "the simulator knows nothing of the rest",
        {"sim.app": "from pytest_mlc_server import errors", "errors": ""},
        "sim.app",
    ),
    (
        "its client knows nothing of the simulator",
        {"simulator.rules": "from pytest_mlc_server.sim import rules", "sim.rules": "", "sim": ""},
        "simulator.rules",
    ),
    ("heavy modules are imported where they are used", {"server": "import requests"}, "server"),
    (
        "heavy modules are imported where they are used",
        {"reporting.others": "from allure import attach"},
        "reporting.others",
    ),
    ("imports are absolute", {"pool": "from . import errors", "errors": ""}, "pool"),
    ("imports are there to be read", {"pool": "import_module('pytest_mlc_server.x')"}, "pool"),
    ("imports are there to be read", {"pool": "x = __import__('pytest')"}, "pool"),
    (
        "no circles",
        {
            "a": "from pytest_mlc_server import b",
            "b": "from pytest_mlc_server.c import x",
            "c": "def f():\n    import pytest_mlc_server.a",
            "d": "from pytest_mlc_server import a",
        },
        "a",
    ),
]


@pytest.mark.parametrize(("rule", "sources", "room"), BROKEN)
def test_a_breach_of_the_rule_is_found(rule: str, sources: dict[str, str], room: str) -> None:
    breaches = RULES[rule](Package({"": "", **sources}))
    assert breaches
    assert breaches[0].startswith(room)


def test_each_rule_is_known_to_fail() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(RULES)


@pytest.mark.parametrize(
    "source",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pytest",
        "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from pytest_mlc_server.plugin import x",
        "import json, socket\nfrom collections.abc import Iterator",
        "'import pytest'",
    ],
)
def test_what_no_rule_forbids_is_no_breach(source: str) -> None:
    package = Package({"": "", "plugin": "import pytest", "pool": source})
    assert not [breach for rule in RULES.values() for breach in rule(package)]


def test_only_what_takes_part_in_a_circle_is_told() -> None:
    sources = {
        "a": "from pytest_mlc_server import b, e",
        "b": "from pytest_mlc_server import a",
        "d": "from pytest_mlc_server import a",
        "e": "",
    }
    found = architecture.cycles(Package({"": "", **sources}))
    assert found == ["a and b are in a circle", "b and a are in a circle"]


def test_the_launcher_needs_no_more_than_python_3_9() -> None:
    with pytest.raises(SyntaxError):
        ast.parse("match x:\n    case 1: pass", feature_version=(3, 9))
    for name, source in PACKAGE.sources.items():
        if architecture.is_in(name, "launcher"):
            ast.parse(source, filename=name, feature_version=(3, 9))


# --- the page's tables ----------------------------------------------------------------------------

ROOMS = architecture.rooms(PAGE, "The rooms")


def test_every_room_stands_in_the_table_once() -> None:
    assert not architecture.table_breaches(PACKAGE, ROOMS)


@pytest.mark.parametrize(
    ("folder", "page", "heading"),
    [
        ("sim", "architecture.md", "Inside the simulator"),
        ("guardian", "guardian.md", "Its rooms"),
    ],
)
def test_every_room_of_a_folder_stands_in_its_table_once(
    folder: str, page: str, heading: str
) -> None:
    named = architecture.rooms((PAGES / page).read_text(encoding="utf-8"), heading)
    assert not architecture.table_breaches(PACKAGE, named, folder)


def test_a_room_imports_only_what_stands_before_it() -> None:
    assert not architecture.order_breaches(PACKAGE, ROOMS)


def test_the_table_has_the_order_of_the_way() -> None:
    assert sorted(WAY, key=ROOMS.index) == WAY


TABLE = """
## The rooms

| what for | where |
|---|---|
| values | `errors`, `values` |
| the simulator | `sim/` |
| the rest ([a page](page.md)) | `pool`, `reporting/watch` |

## Next

| what for | where |
|---|---|
| another | `other` |
"""

MADE_UP = {
    "": "",
    "errors": "",
    "values": "from pytest_mlc_server.errors import X",
    "sim": "",
    "sim.app": "from pytest_mlc_server import values",
    "pool": "from pytest_mlc_server import sim",
    "reporting": "",
    "reporting.watch": "import pytest_mlc_server.pool",
}


def test_a_table_is_read() -> None:
    named = architecture.rooms(TABLE, "The rooms")
    assert named == ["errors", "values", "sim", "pool", "reporting.watch"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("`errors`, ", ""), "errors does not stand in the table"),
        (("`pool`", "`pool`, `sim/`"), "sim stands twice"),
        (("`pool`", "`pool`, `gone`"), "gone is no module"),
    ],
)
def test_a_wrong_table_is_found(change: tuple[str, str], told: str) -> None:
    sources = {name: text for name, text in MADE_UP.items() if name != "reporting"}
    named = architecture.rooms(TABLE, "The rooms")
    assert not architecture.table_breaches(Package(sources), named)
    wrong = architecture.rooms(TABLE.replace(*change), "The rooms")
    [breach] = architecture.table_breaches(Package(sources), wrong)
    assert breach.startswith(told)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("errors", "from pytest_mlc_server import values"),
        ("values", "def f():\n    from pytest_mlc_server.sim.app import x"),
        ("sim.app", "from pytest_mlc_server.reporting.watch import x"),
    ],
)
def test_an_import_against_the_order_is_found(room: str, source: str) -> None:
    named = architecture.rooms(TABLE, "The rooms")
    assert not architecture.order_breaches(Package(MADE_UP), named)
    [breach] = architecture.order_breaches(Package({**MADE_UP, room: source}), named)
    assert breach.startswith(f"{room}, line")
    assert "stands after it in the table" in breach
