"""Function calls: which tools a request puts before the model, and what its reply calls."""

from __future__ import annotations

import ast
import json
import uuid
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.sim.errors import BadRequestError

if TYPE_CHECKING:
    from pytest_mlc_server.sim.protocol import ChatCompletionRequest

# Digits and letters, without those that look alike.
_SHORT_ID_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_SHORT_ID_LENGTH = 22

INVALID_CALL = "Got an invalid function call output from model"


def offered_functions(request: ChatCompletionRequest) -> str | None:
    """Return the functions on offer as the chat template writes them, None without any.

    Raises
    ------
    BadRequestError
        A `tool_choice` that cannot be followed.
    """
    choice = request.tool_choice
    if request.tools is None or choice == "none":
        return None
    if not isinstance(choice, dict):
        return json.dumps([tool.function.model_dump() for tool in request.tools])
    if choice["type"] != "function":
        raise BadRequestError("Only 'function' tool choice is supported")
    if len(choice["function"]) > 1:
        raise BadRequestError("Only one tool is supported when tool_choice is specified")
    name = choice["function"]["name"]
    for tool in request.tools:
        if tool.function.name == name:
            return tool.function.model_dump_json()
    raise BadRequestError(f"The tool_choice function {name} is not found in the tools list")


def parse_calls(text: str) -> list[dict[str, Any]]:
    """Return the ``tool_calls`` that a reply makes: ``name(key=value, …)``, or a list of such.

    Raises
    ------
    ValueError, SyntaxError
        The reply is no Python expression of that kind.
    """
    # An empty reply is an error of the real server's own, which has no first letter to look at.
    is_list = text[0] == "[" and text[-1] == "]"
    calls = ast.literal_eval(text) if is_list else [text]
    return [call for call in map(_parse_call, calls) if call is not None]


def _parse_call(text: str) -> dict[str, Any] | None:
    node = ast.parse(text, mode="eval").body
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return None
    arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
    return {
        "id": f"call_{_short_id()}",
        "type": "function",
        "function": {"name": node.func.id, "arguments": arguments},
    }


def _short_id() -> str:
    """Return a random id as the package shortuuid writes it."""
    number = uuid.uuid4().int
    digits = []
    for _ in range(_SHORT_ID_LENGTH):
        number, digit = divmod(number, len(_SHORT_ID_ALPHABET))
        digits.append(_SHORT_ID_ALPHABET[digit])
    return "".join(digits)
