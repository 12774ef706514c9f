"""Reading what a server answers: texts, the events of a stream, what went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.errors import RequestError

if TYPE_CHECKING:
    import requests

#: Of a body that is no message, so many characters are shown.
SHOWN = 500


class Answer(str):
    """The text of an answer, and what came with it.

    Parameters
    ----------
    text
        The text.
    body
        The whole answer.
    finish_reason
        Of the first choice.
    """

    def __new__(
        cls, text: str = "", body: Mapping[str, Any] | None = None, finish_reason: str | None = None
    ) -> Answer:
        """Make a text that knows where it comes from."""
        answer = super().__new__(cls, text)
        answer.body = dict(body or {})
        answer.finish_reason = finish_reason
        return answer

    body: dict[str, Any]
    """The whole answer, parsed: further choices, log probabilities, tool calls."""
    finish_reason: str | None
    """Why the answer ends: ``stop``, ``length``, ``tool_calls`` …"""

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens as the server counted them; empty where it did not tell."""
        usage = self.body.get("usage")
        return usage if isinstance(usage, dict) else {}


def parsed(response: requests.Response) -> Any:
    """Return the JSON of an answer.

    Raises
    ------
    RequestError
        If it is none.
    """
    try:
        return response.json()
    except ValueError:
        text = response.text
        raise RequestError(
            f"{response.request.method} {response.request.path_url} answers no JSON: "
            f"{text[:SHOWN]}",
            status=response.status_code,
            body=text,
        ) from None


def events(response: requests.Response) -> Iterator[Any]:
    """Yield the parsed events of a stream as they come.

    Raises
    ------
    RequestError
        If an event tells of an error, as some servers end a stream.
    """
    # In chunks, each is read as it comes; without, byte by byte: anything else waits for more.
    chunk_size = None if getattr(response.raw, "chunked", False) else 1
    for line in response.iter_lines(chunk_size=chunk_size):
        if not line.startswith(b"data:"):
            continue
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "choices" not in event:
            text = data.decode(errors="replace")
            raise RequestError(f"the stream tells of an error: {message(text)}", body=text)
        yield event


def piece(event: Mapping[str, Any]) -> str:
    """Return what an event adds to the text of the first choice."""
    choices = event["choices"] or ()
    for choice in choices:
        if choice.get("index", 0) == 0:
            return (choice.get("delta") or {}).get("content") or ""
    return ""


def message(text: str) -> str:
    """Return what a server says went wrong, from the body of its answer.

    Parameters
    ----------
    text
        The body: JSON, a JSON text that holds JSON again (what the engine finds), or no JSON.
    """
    found: Any = text
    for _ in range(2):
        try:
            found = json.loads(found)
        except (ValueError, TypeError):
            break
    for name in ("error", "message", "detail"):  # OpenAI's has its message in the error
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    words = found if isinstance(found, str) else json.dumps(found)
    return words[:SHOWN] or "nothing more"


def timed_out(error: requests.RequestException) -> bool:
    """Tell whether a body stopped coming: `requests` has no error of its own for that."""
    from urllib3.exceptions import ReadTimeoutError

    return bool(error.args) and isinstance(error.args[0], ReadTimeoutError)


def cause(error: BaseException) -> str:
    """Return the innermost reason: the outer ones repeat it with addresses of objects."""
    seen: BaseException = error
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
    return f"{type(error).__name__}: {type(seen).__name__}: {seen}"
