import weather

from pytest_mlc_server import MLCSim


def test_the_model_is_asked_once(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("Rain.")
    weather.forecast("Oslo")
    mlc_sim.assert_called("Bergen", times=1)
