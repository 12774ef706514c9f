from pytest_mlc_server import MLCSim, PopenServer


def test_any_model_answers(mlc_server: PopenServer) -> None:
    assert mlc_server.chat("Say hello.", max_tokens=32)


def test_what_the_simulator_says(mlc_server: PopenServer, mlc_sim: MLCSim) -> None:
    mlc_sim.when("hello").reply("Hello!")
    assert mlc_server.chat("Say hello.") == "Hello!"
