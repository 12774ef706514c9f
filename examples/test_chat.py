"""A chat test with nothing but `requests`."""

import requests

from pytest_mlc_server import PopenServer


def test_chat(mlc_server: PopenServer) -> None:
    response = requests.post(
        f"{mlc_server.openai_v1_base_url}/chat/completions",
        json={
            "model": mlc_server.model,
            "messages": [{"role": "user", "content": "Say hello."}],
            "max_tokens": 64,
        },
        timeout=60,
    )
    response.raise_for_status()
    answer = response.json()
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] > 0
