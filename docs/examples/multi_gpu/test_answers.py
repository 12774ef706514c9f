import pytest
import requests

from pytest_mlc_server import PopenServer


@pytest.mark.parametrize("city", ["Oslo", "Cairo", "Lima", "Hanoi"])
def test_it_answers(mlc_server: PopenServer, city: str) -> None:
    body = {"model": mlc_server.model, "prompt": f"The weather in {city} is", "max_tokens": 4}
    response = requests.post(f"{mlc_server.openai_v1_base_url}/completions", json=body, timeout=60)
    assert response.json()["choices"][0]["text"]
