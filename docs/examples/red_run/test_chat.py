from __future__ import annotations

import contextlib
from typing import Any

import pytest
import requests

from pytest_mlc_server import PopenServer


def chat(server: PopenServer, text: str, **options: object) -> str:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], **options}
    url = f"{server.openai_v1_base_url}/chat/completions"
    response = None
    with contextlib.suppress(requests.ConnectionError):
        response = requests.post(url, json=body, timeout=60)
    if response is None:
        pytest.fail("the server closed the connection", pytrace=False)
    response.raise_for_status()
    answer: str = response.json()["choices"][0]["message"]["content"]
    return answer


def test_answers(mlc_server: PopenServer) -> None:
    assert "Hello" in chat(mlc_server, "Hello")


def test_json_answer(mlc_server: PopenServer) -> None:
    # A slip: the schema is not JSON. It ends the engine of the real server.
    wanted = {"type": "json_object", "schema": "not json"}
    assert chat(mlc_server, "Describe Oslo as JSON.", response_format=wanted)


def test_answers_again(mlc_server: PopenServer) -> None:
    assert "Hello again" in chat(mlc_server, "Hello again")


def test_long_question(mlc_server: PopenServer) -> None:
    assert "word word" in chat(mlc_server, "word " * 100)
