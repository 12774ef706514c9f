from pytest_mlc_server import PopenServer


def test_greets_in_french(mlc_server: PopenServer) -> None:
    answer = mlc_server.chat("Say hello in French.", max_tokens=16)
    assert "Bonjour" in answer
