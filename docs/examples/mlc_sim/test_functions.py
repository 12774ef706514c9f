import weather

from pytest_mlc_server import MLCSim, Reply, SimRequest


def test_any_city(mlc_sim: MLCSim) -> None:
    def answer(request: SimRequest) -> object:
        city = request.last_message.removeprefix("How is the weather in ").rstrip("?")
        if city not in weather.TEMPERATURES:
            return Reply.fail(503, f"no data on {city}")
        return f"{weather.TEMPERATURES[city]} degrees."

    mlc_sim.when("How is the weather").reply_with(answer)
    assert weather.forecast("Cairo") == "31 degrees."
    assert weather.forecast("Atlantis") == "ask again later"
