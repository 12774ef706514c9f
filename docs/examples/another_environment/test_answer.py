from pytest_mlc_server import PopenServer


def test_it_answers(mlc_server: PopenServer) -> None:
    assert mlc_server.complete("The weather in Oslo is", max_tokens=8)
