from pytest_mlc_server import PopenServer


def test_the_server_answers(mlc_server: PopenServer) -> None:
    assert mlc_server.chat("Say hello.")
