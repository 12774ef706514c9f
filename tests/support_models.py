"""Inner runs with several models: their directories, and who used which server."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_model
from tests.support_plugin import Suite

#: For test modules: `used` notes which test had which server.
USED = """
import os
import pytest

@pytest.fixture
def used(request):
    def note(server):
        line = f"{request.node.name} {os.path.basename(server.model)} {server.pid}\\n"
        with open("used.txt", "a") as file:
            file.write(line)
    return note

"""

#: A module of two tests that use the server, one directly and one through a fixture, and of one
#: that does not.
TESTS = """
@pytest.fixture
def through(mlc_server):
    return mlc_server

def test_direct(mlc_server, used): used(mlc_server)
def test_without(): pass
def test_through(through, used): used(through)
"""


@dataclass(frozen=True)
class Use:
    """One test and its server."""

    test: str
    model: str
    pid: int


class Models:
    """A suite whose models are called a, b, c ...

    Parameters
    ----------
    suite
        The suite.
    """

    def __init__(self, suite: Suite) -> None:
        self.suite = suite

    def make(self, *names: str) -> None:
        """Make the directories of models."""
        for name in names:
            path = self.suite.path / name
            if not path.exists():
                path.mkdir(parents=True)
                write_model(path)

    def tests(self, source: str = TESTS) -> None:
        """Write the only test module; it can note which test `used` which server."""
        self.suite.write(test_it=USED + textwrap.dedent(source))

    def flags(self, *names: str, orders: str = "") -> list[str]:
        """Return the flags for the stand-in and these models."""
        self.make(*names)
        environment = [f"--mlc-env={variable}" for variable in self.suite.variables(orders)]
        return [*(f"--mlc-model={name}" for name in names), *environment]

    def run(self, *args: str, models: str = "ab", orders: str = "") -> pytest.RunResult:
        """Run pytest with models that have names of one letter, in the order of the files."""
        return self.suite.run_bare(*self.flags(*models, orders=orders), *args)

    @property
    def uses(self) -> list[Use]:
        """Return what was noted, in the order of time."""
        return list(_uses(self.suite.path / "used.txt"))

    @property
    def loads(self) -> int:
        """How many servers were started."""
        return len(self.suite.starts)


def _uses(path: Path) -> Iterator[Use]:
    if path.exists():
        for line in path.read_text().splitlines():
            test, model, pid = line.rsplit(" ", 2)
            yield Use(test, model, int(pid))


def by_model(uses: list[Use]) -> dict[str, set[int]]:
    """Return the servers that each model had."""
    found: dict[str, set[int]] = {}
    for use in uses:
        found.setdefault(use.model, set()).add(use.pid)
    return found


@pytest.fixture
def models(suite: Any) -> Models:
    """A suite with several models, in every module that imports this."""
    return Models(suite)
