import pytest

from pytest_mlc_server import PopenServer


@pytest.mark.mlc_budget(tokens=100, seconds=20)
def test_a_short_answer(mlc_server: PopenServer) -> None:
    mlc_server.chat("Tell me a story. " * 20, max_tokens=50)
