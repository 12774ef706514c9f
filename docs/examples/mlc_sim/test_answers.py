import weather

from pytest_mlc_server import MLCSim


def test_forecast(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("Rain.")
    mlc_sim.when(regex="Cairo|Luxor").reply("Sunny.")
    assert weather.forecast("Oslo") == "Rain."
    assert weather.forecast("Luxor") == "Sunny."


def test_one_answer_after_the_other(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("Rain.", "Still rain.")
    answers = [weather.forecast("Oslo") for _ in range(3)]
    assert answers == ["Rain.", "Still rain.", "Still rain."]


def test_stream(mlc_sim: MLCSim) -> None:
    mlc_sim.when("report").reply(chunks=["It ", "rains ", "on."])
    assert [piece for piece in weather.report("Oslo") if piece] == ["It ", "rains ", "on."]


def test_data(mlc_sim: MLCSim) -> None:
    mlc_sim.when("as JSON").reply_json({"city": "Oslo", "rain": True})
    assert weather.as_data("Oslo")["rain"] is True


def test_tool(mlc_sim: MLCSim) -> None:
    mlc_sim.when("warm", tools=["get_weather"]).call_tool("get_weather", city="Cairo")
    assert weather.temperature("Is it warm?") == 31
