import openai
import pytest
import requests

from pytest_mlc_server import PopenServer


def test_openai(mlc_client: openai.OpenAI, mlc_server: PopenServer) -> None:
    answer = mlc_client.chat.completions.create(
        model=mlc_server.model,
        messages=[{"role": "user", "content": "How is the weather in Oslo?"}],
    )
    assert answer.choices[0].message.content


@pytest.mark.asyncio
async def test_openai_async(mlc_async_client: openai.AsyncOpenAI, mlc_server: PopenServer) -> None:
    async with await mlc_async_client.chat.completions.create(
        model=mlc_server.model,
        messages=[{"role": "user", "content": "How is the weather in Oslo?"}],
        stream=True,
    ) as stream:
        async for chunk in stream:
            assert chunk.choices


def test_requests(mlc_session: requests.Session, mlc_server: PopenServer) -> None:
    response = mlc_session.get("/v1/models")
    assert response.json()["data"][0]["id"] == mlc_server.model
