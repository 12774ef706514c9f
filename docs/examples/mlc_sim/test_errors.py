import pytest
import weather

from pytest_mlc_server import MLCSim, Reply


def test_one_failure_is_retried(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply(Reply.fail(503), "Rain.")
    assert weather.forecast("Oslo") == "Rain."
    mlc_sim.assert_called(times=2)


def test_the_server_is_overloaded(mlc_sim: MLCSim) -> None:
    mlc_sim.fail(429, "too many requests", headers={"Retry-After": "0"})
    assert weather.forecast("Oslo") == "ask again later"
    assert [request.status for request in mlc_sim.requests] == [429, 429]


def test_some_requests_fail(mlc_sim: MLCSim) -> None:
    mlc_sim.fail(500, rate=0.3, seed=7)  # the same ones in each run
    mlc_sim.when("Oslo").reply("Rain.")
    answers = {weather.forecast("Oslo") for _ in range(4)}
    assert answers <= {"Rain.", "ask again later"}
    assert mlc_sim.calls(status=500)


def test_a_slow_model(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").latency(ttft=0.2, itl=0.01).reply("Rain.")
    assert weather.forecast("Oslo") == "Rain."


def test_no_answer_comes(mlc_sim: MLCSim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEATHER_TIME_LIMIT", "0.5")
    mlc_sim.when("Oslo").stall()
    assert weather.forecast("Oslo") == "ask again later"
