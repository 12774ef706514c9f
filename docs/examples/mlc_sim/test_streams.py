from collections.abc import Callable

import pytest
import weather

from pytest_mlc_server import MLCSim, Rule, When

LONG = "It rains in the north, and in the south it will rain."


@pytest.mark.parametrize(
    "damage",
    [
        lambda when: when.disconnect(after=4, reply=LONG),
        lambda when: when.reset(after=4, reply=LONG),
        lambda when: when.malformed(after=4, reply=LONG),
        lambda when: when.stall(after=4, reply=LONG),
    ],
    ids=["disconnect", "reset", "malformed", "stall"],
)
def test_a_stream_breaks(
    mlc_sim: MLCSim, damage: Callable[[When], Rule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEATHER_TIME_LIMIT", "2")
    damage(mlc_sim.when("report"))
    text = "".join(weather.report("Norway"))
    assert text.startswith("It")
    assert text.endswith(" [cut off]")
