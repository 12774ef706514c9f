import requests

from pytest_mlc_server import PopenServer


def test_it_completes(mlc_server: PopenServer) -> None:
    body = {"model": mlc_server.model, "prompt": "What is the meaning of life?", "max_tokens": 8}
    url = f"{mlc_server.openai_v1_base_url}/completions"
    response = requests.post(url, json=body, timeout=180)
    assert response.json()["choices"][0]["text"]
