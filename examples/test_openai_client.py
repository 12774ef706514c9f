"""Tests through the official `openai` client."""

from collections.abc import Iterator

import openai
import pytest

from pytest_mlc_server import PopenServer


@pytest.fixture
def client(mlc_environ: dict[str, str]) -> Iterator[openai.OpenAI]:
    """A client that finds the server in its environment, as an application does."""
    assert mlc_environ["OPENAI_BASE_URL"]
    with openai.OpenAI(max_retries=0) as client:
        yield client


def test_answer(client: openai.OpenAI, mlc_server: PopenServer) -> None:
    answer = client.chat.completions.create(
        model=mlc_server.model,
        messages=[{"role": "user", "content": "What is MLC LLM?"}],
        max_tokens=64,
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_stream(client: openai.OpenAI, mlc_server: PopenServer) -> None:
    chunks = client.chat.completions.create(
        model=mlc_server.model,
        messages=[{"role": "user", "content": "What is MLC LLM?"}],
        max_tokens=64,
        stream=True,
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_models(client: openai.OpenAI, mlc_server: PopenServer) -> None:
    assert [model.id for model in client.models.list()] == [mlc_server.model]
