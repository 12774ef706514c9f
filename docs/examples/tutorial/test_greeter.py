import greeter

from pytest_mlc_server import MLCSim


def test_a_model_greets() -> None:
    assert greeter.greet("Ada")


def test_its_words_are_passed_on(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Greet Ada").reply("What a pleasure, Ada!")
    assert greeter.greet("Ada") == "What a pleasure, Ada!"
    mlc_sim.assert_called(times=1)


def test_somebody_is_greeted_when_the_model_is_down(mlc_sim: MLCSim) -> None:
    mlc_sim.fail(503)
    assert greeter.greet("Ada") == "Hello, Ada."
