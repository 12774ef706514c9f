from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sim import scripted
from tests.sim.simulator import Simulator, SimulatorPool

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def simulators() -> Iterator[SimulatorPool]:
    """Simulators that tests share which do not mind each other."""
    pool = SimulatorPool()
    yield pool
    pool.stop()


@pytest.fixture
def sim(simulators: SimulatorPool) -> Simulator:
    """A simulator with default flags."""
    return simulators.get()


@pytest.fixture(scope="session")
def told() -> Iterator[Simulator]:
    """A simulator that can be told what to do; each test has a door of its own."""
    with scripted.start() as simulator:
        yield simulator


@pytest.fixture
def door(told: Simulator) -> Iterator[scripted.TestDoor]:
    """A door of the shared simulator, for one test."""
    opened = scripted.open_door(told)
    yield opened
    opened.tell("DELETE", f"/doors/{opened.port}")
