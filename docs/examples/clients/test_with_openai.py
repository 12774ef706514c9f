import json
import os
from typing import Any

import openai
from pydantic import BaseModel

from pytest_mlc_server import MLCSim, PopenServer


class City(BaseModel):
    name: str
    degrees: int


def test_chat(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("It rains.")
    with openai.OpenAI() as client:
        answer = client.chat.completions.create(
            model=os.environ["OPENAI_MODEL"],
            messages=[{"role": "user", "content": "How is the weather in Oslo?"}],
        )
    assert answer.choices[0].message.content == "It rains."


def test_parse(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply_json({"name": "Oslo", "degrees": 7})
    schema = json.dumps(City.model_json_schema())
    with openai.OpenAI() as client:
        answer = client.chat.completions.parse(
            model=os.environ["OPENAI_MODEL"],
            messages=[{"role": "user", "content": "Oslo, as JSON"}],
            response_format=City,
            # What MLC LLM understands, in the place of what the client would send.
            extra_body={"response_format": {"type": "json_object", "schema": schema}},
        )
    assert answer.choices[0].message.parsed == City(name="Oslo", degrees=7)


def test_tool(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").call_tool("get_weather", city="Oslo")
    parameters: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
    with openai.OpenAI() as client:
        answer = client.chat.completions.create(
            model=os.environ["OPENAI_MODEL"],
            messages=[{"role": "user", "content": "How is the weather in Oslo?"}],
            tools=[
                {
                    "type": "function",
                    "function": {"name": "get_weather", "parameters": parameters},
                }
            ],
        )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    arguments: Any = call.function.arguments
    if isinstance(arguments, str):  # from OpenAI; MLC LLM gives an object
        arguments = json.loads(arguments)
    assert arguments == {"city": "Oslo"}


def test_embeddings(mlc_server: PopenServer) -> None:
    # Without the environment.
    with openai.OpenAI(base_url=mlc_server.openai_v1_base_url, api_key="none") as client:
        answer = client.embeddings.create(model="embedder", input=["Oslo", "Cairo"])
    assert [len(one.embedding) for one in answer.data] == [1024, 1024]
