"""``/microserving/*`` and what kills an engine that is one of one."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.sim.simulator import DEADLINE_S, Simulator, SimulatorPool

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

PROMPT: dict[str, Any] = {"prompt": "What?", "max_tokens": 2}
BODIES: dict[str, dict[str, Any]] = {
    "prep_recv": {**PROMPT, "end": -1},
    "remote_send": {**PROMPT, "begin": 0, "end": 3, "kv_addr_info": "", "recv_rank": 0},
    "start_generate": {**PROMPT, "begin": 0},
}
DEBUG: dict[str, Any] = {"debug_config": {}}


@pytest.fixture
def dying() -> Iterator[Simulator]:
    """A simulator that may be killed."""
    with Simulator("--enable-debug", "--sim-imitate", "wedge") as simulator:
        yield simulator
        # Once its engine is dead and a request waits, it ends by nothing less.
        simulator.stop(signal.SIGKILL)


def ask(simulator: Simulator, name: str, **more: Any) -> requests.Response:
    # Behind a status 500 the connection is closed, and a client that had it kept would find it so.
    alone = {"Connection": "close"}
    return simulator.post(f"/microserving/{name}", {**BODIES[name], **more}, headers=alone)


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("flags", [(), ("--enable-debug",), ("--api-key", "k")])
def test_debug_config_is_needed(
    simulators: SimulatorPool, name: str, flags: tuple[str, ...]
) -> None:
    response = ask(simulators.get(*flags), name)
    assert (response.status_code, response.text) == (500, "Internal Server Error")


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("prep_recv", "end"),
        ("remote_send", "begin"),
        ("remote_send", "end"),
        ("remote_send", "kv_addr_info"),
        ("remote_send", "recv_rank"),
        ("start_generate", "begin"),
        ("start_generate", "prompt"),
    ],
)
def test_missing_field(sim: Simulator, name: str, field: str) -> None:
    body = {key: value for key, value in BODIES[name].items() if key != field}
    response = sim.post(f"/microserving/{name}", body)
    assert response.status_code == 422
    (problem,) = response.json()["detail"]
    assert (problem["type"], problem["loc"]) == ("missing", ["body", field])


def test_without_debug_a_part_is_the_whole(sim: Simulator) -> None:
    """Without --enable-debug the engine never hears of the part that is asked for."""
    assert ask(sim, "prep_recv", **DEBUG).status_code == 500
    assert ask(sim, "remote_send", **DEBUG).json() == {}
    reply = ask(sim, "start_generate", **DEBUG).json()
    assert reply["usage"]["completion_tokens"] == 2
    stream = ask(sim, "start_generate", **DEBUG, stream=True)
    assert stream.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("name", BODIES)
def test_refused_before_anything_dies(simulators: SimulatorPool, name: str) -> None:
    simulator = simulators.get("--enable-debug")
    assert ask(simulator, name, **DEBUG, best_of=2).status_code == 400


@pytest.mark.parametrize("name", BODIES)
def test_debug_requests_fail_and_kill_nothing(simulators: SimulatorPool, name: str) -> None:
    simulator = simulators.get("--enable-debug")
    assert ask(simulator, name, **DEBUG).status_code == 500
    assert simulator.post("/v1/completions", PROMPT).status_code == 200


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ("", "kv_append_metadata parse error: Expecting value: line 1 column 1 (char 0)"),
        ("e30=", "kv_append_metadata is not array of integer."),
        ("WyJhIl0=", "Invalid kv append metadata value in kv_append_metadata array"),
        ("WzFd", "Invalid kv append metadata compression in kv_append_metadata"),
    ],
)
def test_wrong_places(simulators: SimulatorPool, places: str, said: str) -> None:
    with Simulator("--enable-debug") as simulator:
        assert ask(simulator, "remote_send", **DEBUG, kv_addr_info=places).status_code == 500
    assert any(line.rstrip().endswith(f"is false: {said}") for line in simulator.stderr)


def hangs(simulator: Simulator, path: str, body: Any) -> bool:
    """Whether a request waits: one that is answered at once is answered long before that."""
    try:
        simulator.http.post(simulator.base_url + path, json=body, timeout=(DEADLINE_S, 0.5))
    except requests.ReadTimeout:
        return True
    return False


def test_start_generate_kills_the_engine(dying: Simulator) -> None:
    assert hangs(dying, "/microserving/start_generate", {**BODIES["start_generate"], **DEBUG})
    assert hangs(dying, "/v1/completions", PROMPT)
    assert dying.get("/v1/models").status_code == 200
    log = "".join(dying.stderr)
    assert "Exception in thread Thread-1:\n" in log
    assert "Check failed: (it_rstate != estate_->request_states.end()) is false: \n" in log


def test_prep_recv_alone_waits(dying: Simulator) -> None:
    assert hangs(dying, "/microserving/prep_recv", {**BODIES["prep_recv"], **DEBUG})
    assert dying.post("/v1/completions", PROMPT).status_code == 200


@pytest.mark.parametrize("name", ["start", "stop"])
def test_profiler_kills_the_engine(dying: Simulator, name: str) -> None:
    response = dying.post(f"/debug/cuda_profiler_{name}", None)
    assert (response.status_code, response.text) == (200, "null")
    assert hangs(dying, "/v1/completions", PROMPT)
    with pytest.raises(requests.ReadTimeout):
        dying.http.get(dying.base_url + "/metrics", timeout=(DEADLINE_S, 0.5))
    assert "RuntimeError: No module named 'cuda'\n" in dying.stderr


@pytest.mark.parametrize("flags", [(), ("--device", "cuda"), ("--model-lib", "mock://echo")])
@pytest.mark.parametrize("name", ["start", "stop"])
def test_profiler_is_survived(simulators: SimulatorPool, flags: tuple[str, ...], name: str) -> None:
    simulator = simulators.get("--enable-debug", *flags)
    response = simulator.post(f"/debug/cuda_profiler_{name}", None)
    assert (response.status_code, response.text) == (200, "null")
    assert simulator.post("/v1/completions", PROMPT).status_code == 200
