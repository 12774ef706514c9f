"""Asks the simulator as an application does: over HTTP, without any proxy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from pytest_mlc_server import MLCSim, PopenServer
from tests.conftest import WATCHDOG

ECHO = "the prompt again"

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def server() -> Iterator[PopenServer]:
    with PopenServer(None, engine="sim", port="auto") as server:
        yield server


@pytest.fixture
def sim(server: PopenServer) -> Iterator[MLCSim]:
    with MLCSim(server) as sim:
        yield sim


def post(server: PopenServer, path: str, body: Any, **how: Any) -> requests.Response:
    """Send a body to a path below ``/v1``."""
    with requests.Session() as http:
        http.trust_env = False
        url = f"{server.openai_v1_base_url}/{path}"
        return http.post(url, json=body, timeout=WATCHDOG, **how)


def chat(server: PopenServer, text: str, **options: Any) -> requests.Response:
    """Ask one question."""
    body = {"messages": [{"role": "user", "content": text}], **options}
    return post(server, "chat/completions", body)


def answer(server: PopenServer, text: str, **options: Any) -> str:
    """Ask one question and return the text of the answer; `ECHO` for that of no rule."""
    response = chat(server, text, **options)
    assert response.status_code == 200, response.text
    content: str = response.json()["choices"][0]["message"]["content"]
    # An echo is one of the whole prompt, as the model would get it.
    return ECHO if f"user\n{text}<" in content else content


def stream(server: PopenServer, text: str, **options: Any) -> Iterator[str]:
    """Ask one question and yield the data of each event as it comes."""
    body = {"messages": [{"role": "user", "content": text}], "stream": True, **options}
    with requests.Session() as http:
        http.trust_env = False
        url = f"{server.openai_v1_base_url}/chat/completions"
        with http.post(url, json=body, timeout=WATCHDOG, stream=True) as response:
            assert response.status_code == 200, response.text
            for line in response.iter_lines(chunk_size=1):
                if line.startswith(b"data: "):
                    yield line[len(b"data: ") :].decode()
