"""HTTP errors that are asked for, with the bodies of the real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse, PlainTextResponse, Response

from pytest_mlc_server.sim.responses import error_response

if TYPE_CHECKING:
    from pytest_mlc_server.sim.rule_faults import StatusFault

_MESSAGES = {
    400: "The request cannot be answered.",
    401: "Invalid API Key",
    404: "Not Found",
    405: "Method Not Allowed",
    422: "Value error, the request is not valid",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


def status_response(fault: StatusFault) -> Response:
    """Return the response of an HTTP error, with the body that the real server gives it.

    400 is JSON in a JSON string; 401, 404 and 405 FastAPI's ``detail``; 422 its list of what is
    wrong; 500 plain text. The real server gives no other; those are JSON as its 400 is, but encoded
    once.
    """
    response = _response(fault)
    for name, value in fault.headers.items():
        response.headers[name] = value
    return response


def _response(fault: StatusFault) -> Response:
    status = fault.status
    if fault.body is not None:
        if isinstance(fault.body, str):
            return PlainTextResponse(fault.body, status_code=status)
        return JSONResponse(fault.body, status_code=status)
    message = fault.message or _MESSAGES.get(status, f"Simulated error {status}")
    if status == 400:
        return error_response(message)
    if status in (401, 404, 405):
        return JSONResponse({"detail": message}, status_code=status)
    if status == 422:
        problem = {"type": "value_error", "loc": ["body"], "msg": message, "input": None}
        return JSONResponse({"detail": [problem]}, status)
    if status == 500:
        return PlainTextResponse(message, status_code=status)
    return JSONResponse({"object": "error", "message": message, "code": status}, status)
