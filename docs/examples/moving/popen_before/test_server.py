import pytest
import requests

COMPLETIONS = "http://127.0.0.1:8000/v1/completions"


@pytest.mark.usefixtures("launch_server")
def test_it_completes(served_model: tuple[str, str]) -> None:
    body = {"model": served_model[0], "prompt": "What is the meaning of life?", "max_tokens": 8}
    response = requests.post(COMPLETIONS, json=body, timeout=180)
    assert response.json()["choices"][0]["text"]
