"""An application that lets a model talk about the weather."""

import json
import os
from collections.abc import Iterator
from typing import Any

import openai

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
TEMPERATURES = {"Oslo": 7, "Cairo": 31}


def time_limit() -> float:
    return float(os.environ.get("WEATHER_TIME_LIMIT", "30"))


def ask(question: str, **options: Any) -> Any:
    # The client finds OPENAI_BASE_URL and OPENAI_API_KEY in the environment.
    with openai.OpenAI(max_retries=1, timeout=time_limit()) as client:
        return client.chat.completions.create(
            model=os.environ["OPENAI_MODEL"],
            messages=[{"role": "user", "content": question}],
            **options,
        )


def forecast(city: str) -> str:
    try:
        answer = ask(f"How is the weather in {city}?")
    except openai.APIError:
        return "ask again later"
    return str(answer.choices[0].message.content)


def temperature(question: str) -> int:
    answer = ask(question, tools=[TOOL], tool_choice="auto")
    arguments = answer.choices[0].message.tool_calls[0].function.arguments
    # MLC LLM sends an object where OpenAI sends its text.
    arguments = arguments if isinstance(arguments, dict) else json.loads(arguments)
    return TEMPERATURES[arguments["city"]]


def as_data(city: str) -> Any:
    question = f"The weather in {city}, as JSON."
    answer = ask(question, response_format={"type": "json_object"})
    return json.loads(answer.choices[0].message.content)


def report(city: str) -> Iterator[str]:
    with openai.OpenAI(max_retries=0, timeout=time_limit()) as client:
        stream = client.chat.completions.create(
            model=os.environ["OPENAI_MODEL"],
            messages=[{"role": "user", "content": f"A long report on {city}."}],
            stream=True,
        )
        try:
            for event in stream:
                yield event.choices[0].delta.content or ""
        except Exception:  # older clients let errors of their HTTP library through
            yield " [cut off]"
