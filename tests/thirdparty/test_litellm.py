"""litellm against the simulator.

Where a request fails here, the real server answers it in the same way, and the test says why.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlc_server import MLCSim, Reply
from tests.thirdparty.asked import (
    CITY_FORMAT,
    EMBEDDER,
    OSLO,
    SOON,
    TEXTS,
    WEATHER,
    City,
    check_embeddings,
    user,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from pytest_mlc_server import PopenServer

pytestmark = [
    pytest.mark.thirdparty,
    # Its own: on the types that it uses, on clients that it keeps behind the end of their loop.
    pytest.mark.filterwarnings("ignore"),
]

LONG = "It rains in the north, and in the south it will rain."


@pytest.fixture(scope="module")
def litellm(collected: None) -> Iterator[Any]:
    # Otherwise it fetches its table of prices when it is imported.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    module = pytest.importorskip("litellm", reason="needs the package litellm")
    module.suppress_debug_info = True
    yield module
    module.in_memory_llm_clients_cache.flush_cache()


def run(litellm: Any, ask: Callable[[], Awaitable[Any]]) -> Any:
    """Run what is asynchronous, and close the clients that litellm keeps before the loop ends."""

    async def within() -> Any:
        try:
            return await ask()
        finally:
            await litellm.close_litellm_async_clients()
            litellm.in_memory_llm_clients_cache.flush_cache()  # of what is closed now

    return asyncio.run(within())


@pytest.fixture
def name(model: str) -> str:
    """The model as litellm names it: behind the kind of its server."""
    return f"openai/{model}"


# --- chat -----------------------------------------------------------------------------------------


def test_completion(litellm: Any, name: str, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("It rains.")
    answer = litellm.completion(model=name, messages=user("Oslo"), max_tokens=50, stop=["!"])
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("It rains.", "stop")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    asked = mlc_sim.last_request
    assert (asked.model, asked.json["max_tokens"], asked.json["stop"]) == (model, 50, ["!"])


def test_acompletion(litellm: Any, name: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("It rains.")

    async def ask() -> tuple[Any, list[Any]]:
        whole = await litellm.acompletion(model=name, messages=user("Oslo"))
        stream = await litellm.acompletion(model=name, messages=user("Oslo"), stream=True)
        return whole, [chunk async for chunk in stream]

    whole, chunks = run(litellm, ask)
    assert whole.choices[0].message.content == "It rains."
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "It rains."


def test_stream(litellm: Any, name: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply(chunks=["It ", "rains ", "on."])
    chunks = list(
        litellm.completion(
            model=name,
            messages=user("Oslo"),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert [text for text in said if text] == ["It ", "rains ", "on."]
    whole = litellm.stream_chunk_builder(chunks)
    assert whole.choices[0].message.content == "It rains on."
    assert whole.usage.completion_tokens > 0


def test_text_completion(litellm: Any, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Once").reply(" upon a time")
    answer = litellm.text_completion(model=f"text-completion-openai/{model}", prompt="Once")
    assert answer.choices[0].text == " upon a time"


def test_without_the_environment(
    litellm: Any,
    name: str,
    mlc_server: PopenServer,
    mlc_sim: MLCSim,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    mlc_sim.when("Oslo").reply("It rains.")
    url = mlc_server.openai_v1_base_url
    answer = litellm.completion(model=name, messages=user("Oslo"), api_base=url, api_key="none")
    assert answer.choices[0].message.content == "It rains."


# --- tools and structured output ------------------------------------------------------------------


@pytest.fixture
def tools(litellm: Any) -> list[Any]:
    # Some versions of litellm cannot pass tools on without it, and do not depend on it.
    pytest.importorskip("mcp", reason="needs the package mcp: pip install 'litellm[mcp]'")
    return [WEATHER]


def test_tool_call(litellm: Any, name: str, tools: list[Any], mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo", tools=["get_weather"]).call_tool("get_weather", city="Oslo")
    answer = litellm.completion(model=name, messages=user("Oslo"), tools=tools)
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    # litellm writes down as text what MLC LLM gives as an object.
    assert call.function.arguments == '{"city": "Oslo"}'


def test_round_trip_of_a_tool(litellm: Any, name: str, tools: list[Any], mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").call_tool("get_weather", city="Oslo")
    message = litellm.completion(model=name, messages=user("Oslo"), tools=tools).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    # Arguments are an object for MLC LLM, which refuses litellm's text before anything else.
    with pytest.raises(litellm.BadRequestError, match=r"tool_calls.*arguments"):
        litellm.completion(
            model=name, messages=[*user("Oslo"), message.model_dump(), result], tools=tools
        )


def test_schema(litellm: Any, name: str, mlc_sim: MLCSim) -> None:
    answer = litellm.completion(
        model=name, messages=user("Oslo as JSON"), response_format=CITY_FORMAT
    )
    City.model_validate_json(answer.choices[0].message.content)
    mlc_sim.when("Oslo").reply_json(OSLO.model_dump())
    answer = litellm.completion(
        model=name, messages=user("Oslo as JSON"), response_format={"type": "json_object"}
    )
    assert City.model_validate_json(answer.choices[0].message.content) == OSLO


def test_json_schema_is_not_known(litellm: Any, name: str, mlc_sim: MLCSim) -> None:
    with pytest.raises(litellm.BadRequestError, match="'text' or 'json_object'"):
        litellm.completion(model=name, messages=user("Oslo"), response_format=City)
    assert [request.status for request in mlc_sim.requests] == [422]


# --- embeddings -----------------------------------------------------------------------------------


def test_embeddings(litellm: Any, model: str, mlc_sim: MLCSim) -> None:
    answer = litellm.embedding(model=f"openai/{EMBEDDER}", input=TEXTS)
    check_embeddings([one["embedding"] for one in answer.data])
    assert answer.usage.prompt_tokens > 0

    async def ask() -> Any:
        # It knows by name which of OpenAI's models can be cut; others have to be allowed.
        return await litellm.aembedding(
            model=f"openai/{EMBEDDER}",
            input=TEXTS,
            dimensions=256,
            allowed_openai_params=["dimensions"],
        )

    check_embeddings([one["embedding"] for one in run(litellm, ask).data], 256)


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (404, "NotFoundError"),
        (422, "BadRequestError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
        (503, "ServiceUnavailableError"),
    ],
)
def test_status(status: int, error: str, litellm: Any, name: str, mlc_sim: MLCSim) -> None:
    mlc_sim.fail(status)
    with pytest.raises(getattr(litellm, error)):
        litellm.completion(model=name, messages=user("Oslo"), max_retries=0)
    assert [request.status for request in mlc_sim.requests] == [status]


def test_retries(litellm: Any, name: str, mlc_sim: MLCSim) -> None:
    now = {"retry-after-ms": "1"}
    mlc_sim.faults.sequence(Reply.fail(503, headers=now), Reply.fail(429, headers=now), None)
    mlc_sim.when("Oslo").reply("It rains.")
    answer = litellm.completion(model=name, messages=user("Oslo"), max_retries=2)
    assert answer.choices[0].message.content == "It rains."
    assert [request.status for request in mlc_sim.requests] == [503, 429, 200]


def test_fallback(litellm: Any, name: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when(model="other").reply("It rains.")
    mlc_sim.when("Oslo").fail(503)

    async def ask() -> Any:
        return await litellm.acompletion(
            model=name, messages=user("Oslo"), fallbacks=["openai/other"], max_retries=0
        )

    assert run(litellm, ask).choices[0].message.content == "It rains."


@pytest.mark.parametrize(
    "damage",
    [lambda sim: sim.faults.refuse(), lambda sim: sim.when("Oslo").disconnect()],
    ids=["refuse", "disconnect"],
)
def test_connection_error(
    damage: Callable[[MLCSim], object], litellm: Any, name: str, mlc_sim: MLCSim
) -> None:
    damage(mlc_sim)
    # Which of them, has changed from version to version.
    with pytest.raises((litellm.APIConnectionError, litellm.InternalServerError)):
        litellm.completion(model=name, messages=user("Oslo"), max_retries=0)


@pytest.mark.parametrize(
    "slow",
    [lambda sim: sim.latency(ttft=3600), lambda sim: sim.when("Oslo").stall()],
    ids=["first token", "stall"],
)
def test_timeout(
    slow: Callable[[MLCSim], object], litellm: Any, name: str, mlc_sim: MLCSim
) -> None:
    slow(mlc_sim)
    with pytest.raises(litellm.Timeout):
        litellm.completion(model=name, messages=user("Oslo"), max_retries=0, timeout=SOON)


def test_a_stream_breaks(litellm: Any, name: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").disconnect(after=4, reply=LONG)
    text = ""
    # Which of them, has changed from version to version.
    errors = (litellm.APIConnectionError, litellm.ServiceUnavailableError)
    with pytest.raises(errors):  # noqa: PT012 - the stream begins well
        for chunk in litellm.completion(
            model=name, messages=user("Oslo"), stream=True, max_retries=0
        ):
            text += chunk.choices[0].delta.content or ""
    assert text.startswith("It")
    assert LONG.startswith(text)
    assert text != LONG
