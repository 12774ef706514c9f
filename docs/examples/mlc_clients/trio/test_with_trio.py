import openai
import pytest

from pytest_mlc_server import PopenServer


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.mark.anyio
async def test_a_stream(mlc_async_client: openai.AsyncOpenAI, mlc_server: PopenServer) -> None:
    async with await mlc_async_client.chat.completions.create(
        model=mlc_server.model,
        messages=[{"role": "user", "content": "How is the weather in Oslo?"}],
        stream=True,
    ) as stream:
        async for chunk in stream:
            assert chunk.choices
