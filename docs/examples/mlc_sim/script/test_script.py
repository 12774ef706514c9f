import weather

from pytest_mlc_server import MLCSim


def test_the_file_answers() -> None:
    assert weather.forecast("Oslo") == "Rain."
    assert weather.temperature("Is it warm?") == 31
    assert weather.forecast("Atlantis") == "ask again later"


def test_rules_of_a_test_come_first(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("Snow.")
    assert weather.forecast("Oslo") == "Snow."
