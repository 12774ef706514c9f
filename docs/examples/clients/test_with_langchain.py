import json
import os

import httpx  # with version 3 of openai: httpx2
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from pytest_mlc_server import MLCSim, PopenServer


class City(BaseModel):
    name: str
    degrees: int


def get_weather(city: str) -> str:
    """Tell how the weather in a city is."""
    raise NotImplementedError(city)


def test_chat(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("It rains.")
    chat = ChatOpenAI(model=os.environ["OPENAI_MODEL"], extra_body={"max_tokens": 100})
    assert chat.invoke("How is the weather in Oslo?").content == "It rains."


def test_structured_output(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply_json({"name": "Oslo", "degrees": 7})
    chat = ChatOpenAI(model=os.environ["OPENAI_MODEL"])
    city = chat.with_structured_output(City, method="json_mode").invoke("Oslo, as JSON")
    assert city == City(name="Oslo", degrees=7)


class TextArguments(httpx.HTTPTransport):
    """Gives the arguments of tool calls as text, as OpenAI does; MLC LLM gives an object."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        is_json = response.headers.get("content-type") == "application/json"
        if response.status_code != 200 or not is_json:
            return response
        response.read()
        body = response.json()
        for choice in body.get("choices", []):
            for call in choice.get("message", {}).get("tool_calls") or []:
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
        return httpx.Response(200, json=body)


def test_tool(mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").call_tool("get_weather", city="Oslo")
    with httpx.Client(transport=TextArguments()) as http:
        chat = ChatOpenAI(model=os.environ["OPENAI_MODEL"], http_client=http)
        answer = chat.bind_tools([get_weather]).invoke("How is the weather in Oslo?")
    assert [call["args"] for call in answer.tool_calls] == [{"city": "Oslo"}]


def test_embeddings(mlc_server: PopenServer) -> None:
    # Without the environment.
    embedder = OpenAIEmbeddings(
        model="embedder",
        base_url=mlc_server.openai_v1_base_url,
        api_key="none",
        check_embedding_ctx_length=False,
    )
    assert [len(one) for one in embedder.embed_documents(["Oslo", "Cairo"])] == [1024, 1024]
