"""The simulator has one thread: handing a request to another one takes as long as answering it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from tests.sim import scripted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sim.simulator import Simulator

HELLO = {"messages": [{"role": "user", "content": "Hello!"}]}


@pytest.fixture(scope="module")
def single() -> Iterator[Simulator]:
    """A simulator of the module's own: threads of other tests' requests would stay for a while."""
    with scripted.start("--enable-debug", "--api-key", "key") as simulator:
        simulator.http.headers["Authorization"] = "Bearer key"
        yield simulator


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/models", None),
        ("GET", "/metrics", None),
        ("POST", "/v1/completions", {"prompt": "Hello!"}),
        ("POST", "/v1/chat/completions", HELLO),
        ("POST", "/v1/chat/completions", {**HELLO, "stream": True}),
        ("POST", "/debug/dump_engine_metrics", {}),
        ("GET", "/sim/requests", None),
        ("PUT", "/sim/default", {"default": "echo"}),
        ("POST", "/sim/reset", None),
    ],
)
def test_no_request_has_a_thread_of_its_own(
    single: Simulator, method: str, path: str, body: dict[str, object] | None
) -> None:
    headers = {"X-MLC-Sim-Token": scripted.TOKEN}
    answer = single.http.request(method, single.base_url + path, json=body, headers=headers)
    assert answer.ok, answer.text
    assert psutil.Process(single.pid).num_threads() == 1
