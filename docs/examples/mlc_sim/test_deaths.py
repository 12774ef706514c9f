import weather

from pytest_mlc_server import MLCSim, Reply


def test_nobody_listens(mlc_sim: MLCSim) -> None:
    mlc_sim.faults.refuse()
    assert weather.forecast("Oslo") == "ask again later"
    mlc_sim.faults.clear()
    mlc_sim.when("Oslo").reply("Rain.")
    assert weather.forecast("Oslo") == "Rain."


def test_connections_are_reset(mlc_sim: MLCSim) -> None:
    mlc_sim.faults.sequence(Reply.reset(), Reply.reset(), None)
    mlc_sim.when("Oslo").reply("Rain.")
    assert weather.forecast("Oslo") == "ask again later"
    assert weather.forecast("Oslo") == "Rain."


def test_the_server_crashes(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").crash()
    assert weather.forecast("Oslo") == "ask again later"


def test_the_engine_dies(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").wedge()
    assert weather.forecast("Oslo") == "ask again later"


def test_and_the_next_test_has_a_server(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("Rain.")
    assert weather.forecast("Oslo") == "Rain."
