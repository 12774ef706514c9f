import pytest
import requests

from pytest_mlc_server import PopenServer


def ask(server: PopenServer, prompt: str) -> str:
    url = f"{server.openai_v1_base_url}/completions"
    body = {"model": server.model, "prompt": prompt, "max_tokens": 4}
    return str(requests.post(url, json=body, timeout=60).json()["choices"][0]["text"])


def test_it_answers(mlc_server: PopenServer) -> None:
    assert ask(mlc_server, "Hello")


SMALL = {"model": "dist/Qwen2.5-0.5B-Instruct-q4f16_1-MLC", "overrides": "max_num_sequence=1"}
LARGE = {"model": "dist/Llama-3-70B-Instruct-q4f16_1-MLC", "mode": "server"}


@pytest.mark.parametrize("mlc_server", [SMALL, pytest.param(LARGE, id="large")], indirect=True)
class TestOfTheirOwn:
    def test_it_answers(self, mlc_server: PopenServer) -> None:
        assert ask(mlc_server, "Hello")

    def test_it_has_its_name(self, mlc_server: PopenServer) -> None:
        assert mlc_server.model in (SMALL["model"], LARGE["model"])
