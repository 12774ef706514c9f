"""How the real server writes what is no result: errors, and bodies that it reads by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse

from pytest_mlc_server.sim.errors import BadRequestError

if TYPE_CHECKING:
    from fastapi import Request, Response


def compact_json(value: Any) -> str:
    """Write `value` as pydantic writes a model: no spaces, no escapes that are not needed."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def error_response(message: str, status: int = 400) -> Response:
    """Return the answer to a request that cannot be met: JSON within a JSON string.

    Parameters
    ----------
    message : str
        What is wrong.
    status : int
        The HTTP status, which the body repeats as ``code``.
    """
    body = compact_json({"object": "error", "message": message, "code": status})
    # The real server encodes its errors twice.
    return JSONResponse(body, status_code=status)


async def bad_request(_request: Request, error: Exception) -> Response:
    """Answer a request that raised `BadRequestError`."""
    return error_response(str(error))


async def json_body(request: Request) -> tuple[Any, str]:
    """Return the body of a debug request, which the real server parses by hand, and its text.

    Raises
    ------
    BadRequestError
        It is not JSON.
    UnicodeDecodeError
        It is not even UTF-8; the real server lets that become a status 500, too.
    """
    text = (await request.body()).decode("utf-8")
    try:
        return json.loads(text), text
    except json.JSONDecodeError:
        raise BadRequestError(f"Invalid request {text}") from None
