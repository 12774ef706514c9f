"""The simulator, asked what the real server was asked, answers the same.

The recordings are of the real server with its mock engine, which is deterministic: apart from ids,
times and seeds the answers are compared whole, texts, headers, the order of keys and all.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.sim.simulator import DEADLINE_S, MODEL_DIRECTORY, SimulatorPool

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDINGS = Path(__file__).parent / "recordings"

# What the simulator is known to answer differently. Each of these is expected to fail.
KNOWN_DIFFERENCES = {
    "013-chat-max-tokens-0": "the real mock engine never answers; the simulator says one token",
    "062-err-max-tokens-negative": "the real mock engine never answers; the simulator does",
    "098-docs": "FastAPI's description of the interface differs with the names of the functions",
    "115-dbg-dump-event-trace": "no events are recorded",
    "116-dbg-dump-event-trace-wrong-model": "no events are recorded",
}

# Of the run, not of the answer. The lengths follow from the seeds and paths within the bodies.
VOLATILE_HEADERS = {"date", "content-length", "connection"}


@cache
def load(name: str) -> dict[str, Any]:
    recording: dict[str, Any] = json.loads((RECORDINGS / f"{name}.json").read_text("utf-8"))
    return recording


def recordings() -> list[Any]:
    return [
        pytest.param(
            path.stem,
            id=path.stem,
            marks=[pytest.mark.xfail(reason=KNOWN_DIFFERENCES[path.stem])]
            if path.stem in KNOWN_DIFFERENCES
            else [],
        )
        for path in sorted(RECORDINGS.glob("*.json"))
    ]


@pytest.fixture(scope="session")
def simulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorPool]:
    """Simulators that serve the recorded model under the path that it had."""
    directory = tmp_path_factory.mktemp("contract")
    model = load("002-models")["server"]["args"][1]
    (directory / model).parent.mkdir(parents=True)
    (directory / model).symlink_to(MODEL_DIRECTORY)
    pool = SimulatorPool(model=model, cwd=directory)
    yield pool
    pool.stop()


def flags_of(recording: dict[str, Any]) -> list[str]:
    """Return the flags of the recorded server, without the model and the port."""
    flags: list[str]
    command, _model, *flags = recording["server"]["args"]
    assert command == "serve"
    at = flags.index("--port")
    flags[at : at + 2] = []
    return flags


def send(base_url: str, request: dict[str, Any]) -> requests.Response:
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
            timeout=DEADLINE_S,
        )


def without_run(value: Any, key: str = "") -> Any:
    """Replace what differs from run to run by what does not: form, sign or type."""
    if isinstance(value, dict):
        return {name: without_run(member, name) for name, member in value.items()}
    if isinstance(value, list):
        return [without_run(member) for member in value]
    if key == "id" and isinstance(value, str):
        return re.sub(r"[0-9a-f]{32}", "<uuid>", value)
    if key in ("created", "seed"):
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


@pytest.mark.parametrize("name", recordings())
def test_answers_as_the_real_server_did(simulators: SimulatorPool, name: str) -> None:
    recording = load(name)
    expected = recording["response"]
    assert "client_error" not in expected, "the real server did not answer"
    simulator = simulators.get(*flags_of(recording))

    response = send(simulator.base_url, recording["request"])
    response.encoding = "utf-8"

    assert response.status_code == expected["status"]
    assert response.reason == expected["reason"]
    assert comparable_headers(list(response.headers.items())) == comparable_headers(
        expected["headers"]
    )
    if expected.get("sse_lines") is not None:
        assert sse_lines(response.text) == sse_lines("".join(expected["sse_lines"]))
    else:
        assert comparable(response.text) == comparable(expected["body"])


def test_known_differences_are_recordings() -> None:
    assert set(KNOWN_DIFFERENCES) <= {path.stem for path in RECORDINGS.glob("*.json")}
