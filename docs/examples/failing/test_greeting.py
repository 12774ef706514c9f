from pytest_mlc_server import PopenServer


def test_greets(mlc_server: PopenServer) -> None:
    assert mlc_server.chat("Say hello.")


def test_greets_in_french(mlc_server: PopenServer) -> None:
    mlc_server.chat("Say hello.")
    answer = mlc_server.chat("Say it in French.")
    assert answer.startswith("Bonjour"), "that is no French"
