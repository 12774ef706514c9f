import openai
import pytest

from pytest_mlc_server import PopenServer


def test_a_short_answer(mlc_server: PopenServer) -> None:
    assert mlc_server.chat("Is water wet? Say yes or no.", max_tokens=3)


@pytest.mark.timeout(660)
def test_a_long_story(mlc_server: PopenServer) -> None:
    assert mlc_server.chat("Tell me a long story.", max_tokens=4096, timeout=600)


def test_the_story_begins_soon(mlc_client: openai.OpenAI, mlc_server: PopenServer) -> None:
    with mlc_client.with_options(timeout=10).chat.completions.create(
        model=mlc_server.model,
        messages=[{"role": "user", "content": "Tell me a long story."}],
        stream=True,
    ) as stream:
        assert next(iter(stream)).choices  # the limit is that of each piece of the stream
