from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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
