import pytest
from openai import OpenAI

from pytest_mlc_server import PopenServer


@pytest.mark.usefixtures("mlc_environ")
@pytest.mark.parametrize("city", ["Oslo", "Cairo", "Lima", "Hanoi"])
def test_it_answers(mlc_server: PopenServer, city: str) -> None:
    client = OpenAI()  # OPENAI_BASE_URL and OPENAI_API_KEY are those of the server
    answer = client.completions.create(
        model=mlc_server.model, prompt=f"The weather in {city} is", max_tokens=4
    )
    assert answer.choices[0].text
