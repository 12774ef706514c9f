from pytest_mlc_server import PopenServer


def test_it_answers(mlc_server: PopenServer) -> None:
    assert mlc_server.chat("How is the weather in Oslo?", max_tokens=8)
