import greeter

from pytest_mlc_server import MLCSim


def test_grace_is_greeted(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Greet Grace").reply("Good evening, Grace.")
    assert greeter.greet("Grace") == "Good evening, Grace."
