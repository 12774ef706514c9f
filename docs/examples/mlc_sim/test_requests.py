import weather

from pytest_mlc_server import MLCSim


def test_what_the_model_is_asked(mlc_sim: MLCSim) -> None:
    rule = mlc_sim.when("Oslo").reply("Rain.")
    weather.forecast("Oslo")
    weather.as_data("Cairo")

    rule.assert_called(times=1)
    mlc_sim.assert_called("Cairo", endpoint="chat", times=1)
    mlc_sim.assert_not_called(tools=["get_weather"])
    first, second = mlc_sim.requests
    assert first.messages == [{"role": "user", "content": "How is the weather in Oslo?"}]
    assert second.json["response_format"] == {"type": "json_object"}
    assert (first.stream, first.status, first.reply) == (False, 200, "Rain.")


def test_nothing_else_is_asked(mlc_sim: MLCSim) -> None:
    mlc_sim.default("fail")
    mlc_sim.when("Oslo", times=1).reply("Rain.")
    assert weather.forecast("Oslo") == "Rain."
