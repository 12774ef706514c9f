import pytest

from pytest_mlc_server import MLCUsage, PopenServer


def test_a_summary_is_short(mlc_server: PopenServer, mlc_usage: MLCUsage) -> None:
    mlc_server.chat("Summarise: " + "It rained. " * 20, max_tokens=30)
    assert mlc_usage.requests == 1
    assert mlc_usage.completion_tokens <= 30


def test_a_second_question_does_not_send_the_first_again(
    mlc_server: PopenServer, mlc_usage: MLCUsage
) -> None:
    mlc_server.chat("Summarise: " + "It rained. " * 200, max_tokens=1)
    before = mlc_usage.prompt_tokens
    mlc_server.chat("Where?", max_tokens=1)
    assert mlc_usage.prompt_tokens - before < 100


@pytest.mark.mlc_budget(tokens=500, seconds=20, ttft=5)
def test_an_answer_is_cheap(mlc_server: PopenServer) -> None:
    assert mlc_server.chat("Where does it rain?", max_tokens=20)


@pytest.mark.mlc_budget(tokens=100)
class TestGreetings:
    def test_hello(self, mlc_server: PopenServer) -> None:
        assert mlc_server.chat("Hello", max_tokens=5)

    @pytest.mark.mlc_budget(tokens=400)  # the nearest mark counts
    def test_a_long_one(self, mlc_server: PopenServer) -> None:
        assert mlc_server.chat("Hello, " * 50, max_tokens=5)
