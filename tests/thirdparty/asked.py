"""What the clients are asked, and what several of them have in common."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EMBEDDER = "embedder"
DIMENSIONS = 1024
TEXTS = ["The weather in Oslo is fine.", "The weather in Oslo is not fine.", "Buy eggs."]

#: How long nothing may happen before a client gives up; nothing ever would.
SOON = 0.3

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells how the weather is.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


class City(BaseModel):
    """What an answer is to be."""

    name: str
    degrees: int


OSLO = City(name="Oslo", degrees=7)

#: The form of `City`, as MLC LLM takes it: the schema is a text, and the type ``json_object``.
CITY_FORMAT: dict[str, Any] = {
    "type": "json_object",
    "schema": json.dumps(City.model_json_schema()),
}


def user(text: str) -> Any:
    """Return a conversation of one message."""
    return [{"role": "user", "content": text}]


def http_library() -> Any:
    """Return the HTTP library of the installed client: httpx2 since its version 3, else httpx."""
    client = importlib.import_module("openai").DefaultHttpxClient
    names = {base.__module__.partition(".")[0] for base in client.__mro__}
    return importlib.import_module("httpx2" if "httpx2" in names else "httpx")


@contextlib.contextmanager
def refused(error: Any, words: str) -> Iterator[None]:
    """Expect an error of the client, with these words in the server's answer."""
    with pytest.raises(error) as caught:
        yield
    # Not each version of the client has them in its message.
    assert words in caught.value.response.text


def similarity(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors of length one."""
    for vector in (one, other):
        assert math.isclose(math.hypot(*vector), 1, rel_tol=1e-4)
    return sum(a * b for a, b in zip(one, other, strict=True))


def check_embeddings(vectors: Sequence[Sequence[float]], dimensions: int = DIMENSIONS) -> None:
    """Check vectors of `TEXTS`."""
    assert [len(vector) for vector in vectors] == [dimensions] * 3
    fine, not_fine, eggs = vectors
    assert similarity(fine, not_fine) > similarity(fine, eggs)
