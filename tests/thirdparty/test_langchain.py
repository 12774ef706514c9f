"""langchain-openai against the simulator.

Where a request fails here, the real server answers it in the same way, and the test says why.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from pytest_mlc_server import MLCSim, Reply
from tests.thirdparty.asked import (
    CITY_FORMAT,
    DIMENSIONS,
    EMBEDDER,
    OSLO,
    SOON,
    TEXTS,
    WEATHER,
    City,
    check_embeddings,
    http_library,
    refused,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.thirdparty,
    # The client's own model of a message expects text where MLC LLM has an object.
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
    # langchain leaves the clients that it makes to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _untraced(collected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING", "false")


@pytest.fixture
def langchain() -> Any:
    return pytest.importorskip("langchain_openai", reason="needs the package langchain-openai")


@pytest.fixture
def make_chat(langchain: Any, model: str) -> Callable[..., Any]:
    return functools.partial(langchain.ChatOpenAI, model=model, max_retries=0)


@pytest.fixture
def chat(make_chat: Callable[..., Any]) -> Any:
    return make_chat()


# --- chat -----------------------------------------------------------------------------------------


def test_invoke(chat: Any, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("It rains.")
    answer = chat.invoke([("system", "Be brief."), ("human", "Oslo")])
    assert answer.content == "It rains."
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata["output_tokens"] > 0
    assert [one["role"] for one in mlc_sim.last_request.messages] == ["system", "user"]


def test_several_turns(chat: Any, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("It rains.")
    mlc_sim.when("tomorrow").reply("The sun shines.")
    turns: list[Any] = [("human", "Oslo")]
    turns += [chat.invoke(turns), ("human", "and tomorrow?")]
    assert chat.invoke(turns).content == "The sun shines."
    assert mlc_sim.last_request.messages[1] == {"role": "assistant", "content": "It rains."}


def test_batch_and_chain(chat: Any, mlc_sim: MLCSim) -> None:
    prompts = pytest.importorskip("langchain_core.prompts")
    mlc_sim.when("Oslo").reply("It rains.")
    mlc_sim.when("Cairo").reply("The sun shines.")
    chain = prompts.ChatPromptTemplate.from_template("Weather in {city}?") | chat
    said = chain.batch([{"city": "Oslo"}, {"city": "Cairo"}])
    assert [one.content for one in said] == ["It rains.", "The sun shines."]


def test_stream(chat: Any, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply(chunks=["It ", "rains ", "on."])
    assert [one.content for one in chat.stream("Oslo") if one.content] == ["It ", "rains ", "on."]
    whole = functools.reduce(lambda a, b: a + b, chat.stream("Oslo", stream_usage=True))
    assert whole.content == "It rains on."
    assert whole.usage_metadata["output_tokens"] > 0


def test_async(make_chat: Callable[..., Any], mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply(chunks=["It ", "rains ", "on."])

    async def ask() -> tuple[str, str]:
        # langchain's own one outlives the event loop, whose connections are dead then.
        async with http_library().AsyncClient() as http:
            chat = make_chat(http_async_client=http)
            whole = await chat.ainvoke("Oslo")
            return whole.content, "".join([one.content async for one in chat.astream("Oslo")])

    assert asyncio.run(ask()) == ("It rains on.", "It rains on.")


def test_max_tokens(make_chat: Callable[..., Any], mlc_sim: MLCSim) -> None:
    mlc_sim.when("count").reply("1 2 3 4 5 6 7 8 9")
    # Sent as max_completion_tokens, which MLC LLM does not know and overlooks.
    assert make_chat(max_tokens=2).invoke("count").content == "1 2 3 4 5 6 7 8 9"
    limited = make_chat(extra_body={"max_tokens": 2}).invoke("count")
    assert limited.response_metadata["finish_reason"] == "length"
    assert limited.usage_metadata["output_tokens"] == 2


def test_logprobs(make_chat: Callable[..., Any], mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("It rains.")
    answer = make_chat(logprobs=True, top_logprobs=2).invoke("Oslo")
    entries = answer.response_metadata["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries) == b"It rains.</s>"


# --- tools and structured output ------------------------------------------------------------------


@pytest.mark.parametrize("choice", [None, "get_weather"])
def test_a_call_cannot_be_read(choice: str | None, chat: Any, mlc_sim: MLCSim) -> None:
    # MLC LLM gives the arguments as an object, and langchain takes nothing but their text. The
    # example of the documents, docs/examples/clients, puts that right.
    mlc_sim.when("Oslo", tools=["get_weather"]).call_tool("get_weather", city="Oslo")
    with pytest.raises((ValidationError, TypeError)):
        chat.bind_tools([WEATHER], tool_choice=choice).invoke("Oslo")
    mlc_sim.assert_called(tools=["get_weather"], status=200, times=1)


def test_a_call_is_streamed_as_text(chat: Any, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").call_tool("get_weather", city="Oslo")
    chunks = list(chat.bind_tools([WEATHER]).stream("Oslo"))
    assert "".join(one.content for one in chunks) == "get_weather(city='Oslo')"
    assert not any(one.tool_calls for one in chunks)
    reasons = [one.response_metadata.get("finish_reason") for one in chunks]
    assert "tool_calls" in reasons


def test_tools_that_are_not_called(chat: Any, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("It rains.")
    answer = chat.bind_tools([WEATHER]).invoke("Oslo")
    assert (answer.content, answer.tool_calls) == ("It rains.", [])
    # So the real server says that it is no call.
    assert answer.response_metadata["finish_reason"] == "error"


def test_tools_that_must_be_called_are_not_known(chat: Any, mlc_sim: MLCSim) -> None:
    import openai

    with refused(openai.UnprocessableEntityError, "'none' or 'auto'"):
        chat.bind_tools([WEATHER], tool_choice="any").invoke("Oslo")


def test_structured_output(chat: Any, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply_json(OSLO.model_dump())
    structured = chat.with_structured_output(City, method="json_mode")
    assert structured.invoke("Oslo as JSON") == OSLO
    assert mlc_sim.last_request.json["response_format"] == {"type": "json_object"}


def test_structured_output_with_a_schema(make_chat: Callable[..., Any], mlc_sim: MLCSim) -> None:
    chat = make_chat(extra_body={"response_format": CITY_FORMAT})
    structured = chat.with_structured_output(City, method="json_mode")
    # The simulator's default is the prompt, but where there is a schema it has to be obeyed.
    assert isinstance(structured.invoke("Oslo as JSON"), City)
    assert mlc_sim.last_request.json["response_format"] == CITY_FORMAT


def test_json_schema_is_not_known(chat: Any, mlc_sim: MLCSim) -> None:
    import openai

    with refused(openai.UnprocessableEntityError, "'text' or 'json_object'"):
        chat.with_structured_output(City, method="json_schema").invoke("Oslo")


# --- embeddings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [None, 256])
def test_embeddings(dimensions: int | None, langchain: Any, model: str, mlc_sim: MLCSim) -> None:
    make = functools.partial(
        langchain.OpenAIEmbeddings,
        model=EMBEDDER,
        dimensions=dimensions,
        # Otherwise texts are sent as tokens of OpenAI's model, which this one cannot read.
        check_embedding_ctx_length=False,
    )
    embedder = make()
    vectors = embedder.embed_documents(TEXTS)
    check_embeddings(vectors, dimensions or DIMENSIONS)
    assert embedder.embed_query(TEXTS[0]) == vectors[0]

    async def ask() -> Any:
        async with http_library().AsyncClient() as http:
            return await make(http_async_client=http).aembed_query(TEXTS[0])

    assert asyncio.run(ask()) == vectors[0]
    assert mlc_sim.requests[0].prompt == TEXTS


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
    ],
)
def test_status(status: int, error: str, chat: Any, mlc_sim: MLCSim) -> None:
    import openai

    mlc_sim.fail(status)
    with pytest.raises(getattr(openai, error)):
        chat.invoke("Oslo")
    mlc_sim.assert_called(status=status, times=1)


def test_retries(make_chat: Callable[..., Any], mlc_sim: MLCSim) -> None:
    mlc_sim.faults.sequence(Reply.fail(503, headers={"retry-after-ms": "1"}), None)
    mlc_sim.when("Oslo").reply("It rains.")
    assert make_chat(max_retries=1).invoke("Oslo").content == "It rains."
    assert [request.status for request in mlc_sim.requests] == [503, 200]


def test_fallback(chat: Any, make_chat: Callable[..., Any], mlc_sim: MLCSim) -> None:
    mlc_sim.when(model="other").reply("It rains.")
    mlc_sim.fail(503, times=1)
    assert chat.with_fallbacks([make_chat(model="other")]).invoke("Oslo").content == "It rains."


@pytest.mark.parametrize("how", ["stall", "refuse"])
def test_no_answer(how: str, make_chat: Callable[..., Any], mlc_sim: MLCSim) -> None:
    import openai

    getattr(mlc_sim.faults, how)()
    error = openai.APITimeoutError if how == "stall" else openai.APIConnectionError
    with pytest.raises(error):
        make_chat(timeout=SOON).invoke("Oslo")


def test_a_stream_breaks(chat: Any, mlc_sim: MLCSim) -> None:
    import openai

    long = "It rains in the north, and in the south it will rain."
    mlc_sim.when("Oslo").disconnect(after=4, reply=long)
    text = ""
    with pytest.raises((openai.APIError, http_library().TransportError)):  # noqa: PT012 - it begins well
        for chunk in chat.stream("Oslo"):
            text += chunk.content
    assert text.startswith("It")
    assert text != long
