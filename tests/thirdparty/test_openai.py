"""The official client of OpenAI against the simulator.

Where a request fails here, the real server answers it in the same way, and the test says why.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.thirdparty.asked import (
    CITY_FORMAT,
    DIMENSIONS,
    EMBEDDER,
    OSLO,
    TEXTS,
    WEATHER,
    City,
    check_embeddings,
    refused,
    user,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import openai

    from pytest_mlc_server import MLCSim, PopenServer

pytestmark = [pytest.mark.thirdparty]


@pytest.fixture(scope="module")
def sdk() -> Any:
    return pytest.importorskip("openai", reason="needs the package openai")


@pytest.fixture
def client(sdk: Any, model: str) -> Iterator[openai.OpenAI]:
    with sdk.OpenAI(max_retries=0, timeout=60) as made:
        yield made


# --- chat -----------------------------------------------------------------------------------------


def test_chat(client: openai.OpenAI, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("It rains.")
    answer = client.chat.completions.create(model=model, messages=user("Weather in Oslo?"))
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "It rains.")
    assert (choice.finish_reason, answer.object, answer.model) == ("stop", "chat.completion", model)
    assert answer.usage is not None
    used = answer.usage
    assert used.total_tokens == used.prompt_tokens + used.completion_tokens > 1


def test_chat_async(sdk: Any, model: str, mlc_sim: MLCSim) -> None:
    for number in range(8):
        mlc_sim.when(f"question {number}.").reply(f"answer {number}")

    async def ask() -> list[Any]:
        async with sdk.AsyncOpenAI(max_retries=0) as client:
            requests = (
                client.chat.completions.create(model=model, messages=user(f"question {number}."))
                for number in range(8)
            )
            return await asyncio.gather(*requests)

    said = [answer.choices[0].message.content for answer in asyncio.run(ask())]
    assert said == [f"answer {number}" for number in range(8)]
    mlc_sim.assert_called(times=8)


def test_parameters(client: openai.OpenAI, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("count").reply("1 2 3 4 5 6 7 8 9")
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "system", "content": "Be brief."}, *user("count")],
        n=2,
        max_tokens=3,
        temperature=0.5,
        top_p=0.9,
        seed=1,
        frequency_penalty=0.1,
        presence_penalty=0.1,
        logit_bias={"5": 1},
        stop=["8"],
        user="me",
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    assert answer.id == "me"  # MLC LLM takes the user as the id
    assert mlc_sim.last_request.json["stop"] == ["8"]


def test_max_completion_tokens_is_not_known(
    client: openai.OpenAI, model: str, mlc_sim: MLCSim
) -> None:
    # MLC LLM knows max_tokens alone, and overlooks what it does not know.
    mlc_sim.when("count").reply("1 2 3 4 5 6 7 8 9")
    answer = client.chat.completions.create(
        model=model, messages=user("count"), max_completion_tokens=2
    )
    assert answer.choices[0].message.content == "1 2 3 4 5 6 7 8 9"


def test_logprobs(client: openai.OpenAI, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("It rains.")
    answer = client.chat.completions.create(
        model=model, messages=user("Oslo"), logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    # As those of MLC LLM, they go on to the token that ends it all.
    said = b"".join(bytes(entry.bytes or []) for entry in logprobs.content)
    assert said == b"It rains.</s>"
    for entry in logprobs.content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 2
        assert entry.top_logprobs[0].token == entry.token


# --- streams --------------------------------------------------------------------------------------


def test_stream(client: openai.OpenAI, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply(chunks=["It ", "rains ", "on."])
    *chunks, last = client.chat.completions.create(
        model=model,
        messages=user("Oslo"),
        stream=True,
        stream_options={"include_usage": True},
    )
    said = [chunk.choices[0].delta.content for chunk in chunks]
    assert [text for text in said if text] == ["It ", "rains ", "on."]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens > 0


def test_stream_async(sdk: Any, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply(chunks=["It ", "rains ", "on."])

    async def ask() -> list[str]:
        async with sdk.AsyncOpenAI(max_retries=0) as client:
            stream = await client.chat.completions.create(
                model=model, messages=user("Oslo"), stream=True
            )
            return [chunk.choices[0].delta.content async for chunk in stream]

    assert [text for text in asyncio.run(ask()) if text] == ["It ", "rains ", "on."]


def test_stream_helper(client: openai.OpenAI, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply(chunks=["It ", "rains ", "on."])
    with client.chat.completions.stream(model=model, messages=user("Oslo")) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == "It rains on."
    assert final.choices[0].message.content == "It rains on."


def test_a_stream_that_is_left_frees_its_place(
    client: openai.OpenAI, model: str, mlc_sim: MLCSim
) -> None:
    # More than the engine runs at a time.
    mlc_sim.when("long").stall(after=2, reply="It rains on and on.")
    for _ in range(6):
        with client.chat.completions.create(
            model=model, messages=user("long"), stream=True
        ) as stream:
            next(iter(stream))
    mlc_sim.when("short").reply("Yes.")
    answer = client.chat.completions.create(model=model, messages=user("short"))
    assert answer.choices[0].message.content == "Yes."


# --- tools ----------------------------------------------------------------------------------------


def ask_for_call(client: openai.OpenAI, model: str, **options: Any) -> Any:
    tools: Any = [WEATHER]
    return client.chat.completions.create(
        model=model, messages=user("Weather in Oslo?"), tools=tools, **options
    ).choices[0]


def test_tool_call(client: openai.OpenAI, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo", tools=["get_weather"]).call_tool("get_weather", city="Oslo", days=2)
    choice = ask_for_call(client, model)
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls
    assert call.id.startswith("call_")
    assert (call.type, call.function.name) == ("function", "get_weather")
    # An object, where OpenAI has the object's text: so MLC LLM defines the field.
    assert call.function.arguments == {"city": "Oslo", "days": 2}


def test_chosen_tool(client: openai.OpenAI, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").call_tool("get_weather", city="Oslo")
    chosen = {"type": "function", "function": {"name": "get_weather"}}
    choice = ask_for_call(client, model, tool_choice=chosen)
    assert choice.message.tool_calls[0].function.name == "get_weather"
    assert ask_for_call(client, model, tool_choice="none").finish_reason == "stop"


def test_a_call_is_streamed_as_text(client: openai.OpenAI, model: str, mlc_sim: MLCSim) -> None:
    # MLC LLM reads calls out of whole answers alone: of a stream, only the reason tells.
    mlc_sim.when("Oslo").call_tool("get_weather", city="Oslo")
    tools: Any = [WEATHER]
    chunks = list(
        client.chat.completions.create(model=model, messages=user("Oslo"), tools=tools, stream=True)
    )
    assert all(chunk.choices[0].delta.tool_calls is None for chunk in chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "get_weather(city='Oslo')"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


# The client's own model of a message expects text where MLC LLM has an object.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
def test_round_trip_of_a_tool(sdk: Any, client: openai.OpenAI, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Weather in Oslo?").call_tool("get_weather", city="Oslo")
    mlc_sim.when("get_weather says").reply("It rains.")
    message = ask_for_call(client, model).message
    (call,) = message.tool_calls
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    said: Any = [*user("Weather in Oslo?"), message.model_dump(exclude_none=True), result]
    with refused(sdk.BadRequestError, "`tool_calls` is not supported yet"):
        client.chat.completions.create(model=model, messages=said)
    # Nor has this template a place for a tool's answer.
    with pytest.raises(sdk.InternalServerError):
        client.chat.completions.create(model=model, messages=[*user("Oslo?"), result])
    # What the real server understands: the user says what came of it.
    told = user("Weather in Oslo?") + user("get_weather says: rain")
    # After a status 500 of its own a server closes the connection, perhaps under this request.
    again = client.with_options(max_retries=2)
    answer = again.chat.completions.create(model=model, messages=told)
    assert answer.choices[0].message.content == "It rains."


def test_required_tools_are_not_known(sdk: Any, client: openai.OpenAI, model: str) -> None:
    with refused(sdk.UnprocessableEntityError, "'none' or 'auto'"):
        ask_for_call(client, model, tool_choice="required")


# --- structured output ----------------------------------------------------------------------------


def test_schema(client: openai.OpenAI, model: str, mlc_sim: MLCSim) -> None:
    form: Any = CITY_FORMAT
    answer = client.chat.completions.create(
        model=model, messages=user("Oslo as JSON"), response_format=form
    )
    City.model_validate_json(answer.choices[0].message.content or "")
    mlc_sim.when("Oslo").reply_json(OSLO.model_dump())
    answer = client.chat.completions.create(
        model=model, messages=user("Oslo as JSON"), response_format={"type": "json_object"}
    )
    assert json.loads(answer.choices[0].message.content or "") == OSLO.model_dump()


def test_json_schema_is_not_known(sdk: Any, client: openai.OpenAI, model: str) -> None:
    named: Any = {"name": "City", "schema": City.model_json_schema()}
    with refused(sdk.UnprocessableEntityError, "'text' or 'json_object'"):
        client.chat.completions.create(
            model=model,
            messages=user("Oslo"),
            response_format={"type": "json_schema", "json_schema": named},
        )
    # It sends the same.
    with refused(sdk.UnprocessableEntityError, "'text' or 'json_object'"):
        client.chat.completions.parse(model=model, messages=user("Oslo"), response_format=City)


def test_parse(client: openai.OpenAI, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply_json(OSLO.model_dump())
    answer = client.chat.completions.parse(
        model=model,
        messages=user("Oslo"),
        response_format=City,
        extra_body={"response_format": CITY_FORMAT},
    )
    assert answer.choices[0].message.parsed == OSLO
    assert mlc_sim.last_request.json["response_format"] == CITY_FORMAT


# --- the other endpoints --------------------------------------------------------------------------


def test_models(client: openai.OpenAI, model: str) -> None:
    assert [one.id for one in client.models.list()] == [model, EMBEDDER]


def test_completion(client: openai.OpenAI, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Once").reply(" upon a time")
    answer = client.completions.create(model=model, prompt="Once", echo=True, logprobs=1)
    (choice,) = answer.choices
    assert (answer.object, choice.text) == ("text_completion", "Once upon a time")
    assert choice.logprobs is not None
    # One token alone loses the space that it begins with, and the last one ends it all.
    assert choice.logprobs.tokens is not None
    assert "".join(choice.logprobs.tokens) == "uponatime</s>"
    stream = client.completions.create(model=model, prompt="Once", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == " upon a time"


@pytest.mark.parametrize("dimensions", [None, 256])
def test_embeddings(client: openai.OpenAI, model: str, dimensions: int | None) -> None:
    # The client asks for base64 unless told otherwise.
    options: Any = {} if dimensions is None else {"dimensions": dimensions}
    packed = client.embeddings.create(model=EMBEDDER, input=TEXTS, **options)
    plain = client.embeddings.create(
        model=EMBEDDER, input=TEXTS, encoding_format="float", **options
    )
    assert [one.embedding for one in plain.data] == [one.embedding for one in packed.data]
    assert packed.model == EMBEDDER
    assert packed.usage.total_tokens == packed.usage.prompt_tokens > 0
    check_embeddings([one.embedding for one in packed.data], dimensions or DIMENSIONS)


def test_embeddings_of_tokens(client: openai.OpenAI, model: str) -> None:
    one = client.embeddings.create(model=EMBEDDER, input=[5, 6, 7]).data
    several = client.embeddings.create(model=EMBEDDER, input=[[5, 6, 7], [8]]).data
    assert several[0].embedding == one[0].embedding != several[1].embedding


def test_what_is_not_there(sdk: Any, client: openai.OpenAI, model: str) -> None:
    with pytest.raises(sdk.NotFoundError):
        client.responses.create(model=model, input="Hello")
    with pytest.raises(sdk.NotFoundError):
        client.models.retrieve(model)


def test_without_the_environment(
    sdk: Any, mlc_server: PopenServer, mlc_sim: MLCSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    mlc_sim.when("Oslo").reply("It rains.")
    url = mlc_server.openai_v1_base_url
    with sdk.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model=str(mlc_server.model), messages=user("Oslo"))
    assert answer.choices[0].message.content == "It rains."
