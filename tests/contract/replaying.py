"""What was recorded of the real server, asked again of the simulator.

A recording is one exchange: the server's flags, the request, and the response. Answers are compared
as clients see them; what differs from run to run is replaced by what does not.
"""

from __future__ import annotations

import json
import re
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from tests.sim.simulator import DEADLINE_S, MODEL_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDINGS = Path(__file__).parent / "recordings"

# Of the run, not of the answer. The lengths follow from the seeds and paths within the bodies.
VOLATILE_HEADERS = {"date", "content-length", "connection"}

_PROBE = {"prompt": [72], "max_tokens": 1, "temperature": 0}


@cache
def load(kind: str, name: str) -> dict[str, Any]:
    path = RECORDINGS / kind / f"{name}.json"
    recording: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return recording


def names(kind: str) -> list[str]:
    """Return the names of all recordings of a kind, in the order in which they were made."""
    return sorted(path.stem for path in (RECORDINGS / kind).glob("*.json"))


def lay_out_model(directory: Path, kind: str) -> str:
    """Put the recorded model where it was, seen from `directory`, and return its name."""
    model: str = load(kind, "002-models")["server"]["args"][1]
    (directory / model).parent.mkdir(parents=True)
    (directory / model).symlink_to(MODEL_DIRECTORY)
    return model


def flags_of(recording: dict[str, Any]) -> list[str]:
    """Return the flags of the recorded server, without the model and the port."""
    flags: list[str]
    command, _model, *flags = recording["server"]["args"]
    assert command == "serve"
    at = flags.index("--port")
    flags[at : at + 2] = []
    return flags


def send(base_url: str, request: dict[str, Any], timeout: float = DEADLINE_S) -> requests.Response:
    body = request["body"]
    with requests.Session() as session:
        session.trust_env = False
        return session.request(
            request["method"],
            base_url + request["path"],
            headers={"Content-Type": "application/json", **request["headers"]},
            data=body.encode() if isinstance(body, str) else None,
            json=None if isinstance(body, str) else body,
            allow_redirects=False,
            timeout=timeout,
        )


def probe(base_url: str, recording: dict[str, Any]) -> None:
    """Send what was sent behind a recorded request, to see whether the engine lived."""
    if recording["generation_probe_after"] == "ok":
        headers = recording["request"]["headers"] | {"Authorization": "Bearer sk-test"}
        request = {"method": "POST", "path": "/v1/completions", "headers": headers, "body": _PROBE}
        assert send(base_url, request).status_code == 200


def without_run(value: Any, key: str = "") -> Any:
    """Replace what differs from run to run by what does not: form, sign or type."""
    if isinstance(value, dict):
        return {name: without_run(member, name) for name, member in value.items()}
    if isinstance(value, list):
        return [without_run(member) for member in value]
    if key in ("id", "tid") and isinstance(value, str):
        return re.sub(r"[0-9a-f]{32}", "<uuid>", value)
    if key in ("created", "seed", "ts"):
        return type(value).__name__
    return value


def comparable(text: str) -> str:
    """Return a body without what differs from run to run; the order of keys is kept."""
    try:
        return json.dumps(without_run(json.loads(text)))
    except json.JSONDecodeError:
        return re.sub(r"^seed\t-?\d+$", "seed", text, flags=re.MULTILINE)


def comparable_headers(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(
        (name.lower(), re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", value))
        for name, value in headers
        if name.lower() not in VOLATILE_HEADERS
    )


def sse_lines(text: str) -> list[str]:
    """Split a stream into lines, each without what differs from run to run."""
    lines = []
    for line in text.split("\n"):
        field, colon, value = line.partition(": ")
        lines.append(field + colon + (comparable(value) if colon else value))
    return lines


def head_differences(response: requests.Response, expected: dict[str, Any]) -> Iterator[str]:
    """Yield in what a response differs before its body."""
    # The words are those of the server's Python: 3.13 has others for 422.
    reason = HTTPStatus(expected["status"]).phrase
    if (response.status_code, response.reason) != (expected["status"], reason):
        yield f"status {response.status_code} {response.reason} is not {expected['status']}"
    given = comparable_headers(list(response.headers.items()))
    wanted = comparable_headers(expected["headers"])
    if given != wanted:
        yield f"headers {given} are not {wanted}"
