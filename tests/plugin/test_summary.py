"""The servers of a run as data, and the lines that it ends with."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_mlc_server.reporting.servers import Servers, merged
from pytest_mlc_server.reporting.summary import (
    Summary,
    incident_line,
    server_line,
    size,
)
from tests.plugin.test_health_runs import TOOLS, summary
from tests.support_plugin import Suite

# Before any inner run: what it loads is forgotten after it, and then half of it is there twice.
pytest.importorskip("requests")


def described(**changes: Any) -> dict[str, Any]:
    """Return what `describe` says of some server."""
    server: dict[str, Any] = {
        "id": "a",
        "ids": [changes.get("id", "a")],
        "worker": "",
        "engine": "mlc",
        "model": "m",
        "device": "cpu",
        "scope": "worker",
        "base_url": "http://127.0.0.1:1",
        "urls": [changes.get("base_url", "http://127.0.0.1:1")],
        "launched_at": 100.0,
        "ready_at": 110.0,
        "ended_at": 200.0,
        "startup_seconds": 10.0,
        "phases": {},
        "starts": [{"at": 100.0, "seconds": 10.0, "phases": {}}],
        "restarts": 0,
        "incidents": [],
        "peak_memory": None,
        "memory": [],
        "requests": None,
        "prompt_tokens": None,
        "completion_tokens": None,
        "log": None,
        "log_tail": "",
        "reused": False,
        "reused_from": None,
        "shared": False,
    }
    assert changes.keys() <= server.keys()
    return {**server, **changes}


FIRST = {"at": 100.0, "seconds": 10.0, "phases": {}}
SECOND = {"at": 150.0, "seconds": 5.0, "phases": {}}


@pytest.mark.parametrize("order", [1, -1])
def test_a_worker_that_ended_before_a_restart_adds_no_server(order: int) -> None:
    early = described(worker="gw0", shared=True, ended_at=140.0, peak_memory=5, memory=[[101, 5]])
    late = described(
        worker="gw1",
        shared=True,
        ids=["a", "b"],
        base_url="http://127.0.0.1:2",
        urls=["http://127.0.0.1:2"],
        restarts=1,
        starts=[FIRST, SECOND],
        startup_seconds=5.0,
        peak_memory=4,
        memory=[[101, 3], [160, 4]],
        log="log",
    )
    of_the_second = described(id="b", ids=["b"], worker="gw2", shared=True, launched_at=150.0)
    said = Summary(cast("Any", SimpleNamespace(pool=None)))
    for one in [early, late, of_the_second][::order]:
        said.pytest_testnodedown(SimpleNamespace(workeroutput={"mlc_servers": [one]}))
    said.pytest_testnodedown(SimpleNamespace())  # one that crashed hands nothing over
    (server,) = said.servers()
    assert server["restarts"] == 1
    assert server["base_url"] == "http://127.0.0.1:2"
    assert server["starts"] == [FIRST, SECOND]
    assert server["startup_seconds"] == 5.0
    assert (server["launched_at"], server["ready_at"], server["ended_at"]) == (100, 110, 200)
    assert server["peak_memory"] == 5
    assert server["memory"] == [[101, 3], [160, 4]]
    assert server["log"] == "log"
    assert server["worker"] == ""


def test_what_one_process_says_later_replaces_what_it_said() -> None:
    servers = Servers()
    servers.take([described(worker="gw0", ended_at=None)])
    servers.take([described(worker="gw0", ended_at=150.0, restarts=1)])
    servers.take([described(id="other", worker="gw1")])
    first, second = servers.all()
    assert (first["ended_at"], first["restarts"]) == (150.0, 1)
    assert second["worker"] == "gw1"


def test_incidents_of_all_processes_are_kept_once() -> None:
    told = {"test": "t", "text": "died", "outcome": "o", "at": 1.0, "worker": "gw0"}
    other = {**told, "worker": "gw1"}
    one = described(worker="gw0", incidents=[told])
    (server,) = merged([one, described(worker="gw1", incidents=[told, other])])
    assert server["incidents"] == [told, other]


def test_costs_add_up_at_the_server_that_had_the_port_at_that_time() -> None:
    servers = Servers()
    servers.take([described(), described(id="b", launched_at=300.0)])
    url = "http://127.0.0.1:1"
    known = {"server": url, "requests": 2, "prompt_tokens": 10, "completion_tokens": None}
    for at, shared in ((120.0, ""), (130.0, ""), (140.0, "others use it"), (310.0, "")):
        servers.add_cost(at, {"servers": [{**known, "shared": shared}]})
    servers.add_cost(120.0, {"servers": [{**known, "server": "elsewhere", "shared": ""}]})
    first, second = servers.all()
    assert (first["requests"], first["prompt_tokens"], first["completion_tokens"]) == (4, 20, None)
    assert second["requests"] == 2
    assert servers.all()[0]["requests"] == 4  # asked again, it is not counted again


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "mlc 'm', device cpu, http://127.0.0.1:1, scope worker, ready after 10.00 s"),
        ({"worker": "gw3"}, "gw3: mlc 'm', *"),
        ({"worker": "gw3", "shared": True, "scope": "run"}, "mlc 'm', *, scope run, *"),
        (
            {"phases": {"launching": 5.25, "detecting devices": 4.7, "binding": 0.05}},
            "*, ready after 10.00 s (launching 5.25 s, detecting devices 4.70 s)",
        ),
        ({"phases": {"launching": 9.9, "loading": 0.02}}, "*, ready after 10.00 s"),
        (
            {"phases": {"waiting for another server": 3.0}},
            "*10.00 s, waited 3.00 s for another one that compiled or downloaded the model",
        ),
        ({"phases": {"waiting": 3.0}}, "*10.00 s, waited 3.00 s until another one was idle"),
        ({"startup_seconds": None, "phases": {}}, "*:1, scope worker"),
        ({"restarts": 2}, "*, restarts: 2"),
        ({"peak_memory": 300 << 20}, "*, peak memory 300 MiB"),
        ({"requests": 1}, "*, 1 request"),
        ({"requests": 0, "prompt_tokens": 7}, "*, 0 requests, 7 prompt + ? completion tokens"),
        (
            {"prompt_tokens": 7, "completion_tokens": 0, "log": "x"},
            "*s, 7 prompt + 0 completion tokens, log x",
        ),
    ],
)
def test_the_line_of_a_server(changes: dict[str, Any], line: str) -> None:
    shown = server_line(described(**changes))
    parts = [re.escape(part) for part in line.split("*")]
    assert re.fullmatch(".*".join(parts), shown), shown


def test_sizes_are_for_people() -> None:
    assert size(420 << 20) == "420 MiB"
    assert size((12 << 30) + (1 << 29)) == "12.5 GiB"


def test_the_line_of_an_incident() -> None:
    told = {"test": "t.py::t", "text": "died\nevidence", "outcome": "gone", "worker": "gw1"}
    assert incident_line(told) == "gw1: t.py::t: died; gone"


# --- runs -----------------------------------------------------------------------------------------

SHOWS = """
    def pytest_terminal_summary(config):
        servers = config.pluginmanager.get_plugin("mlc-server-summary").servers()
        import json
        print("DATA", json.dumps(servers))
    """


def data(result: pytest.RunResult) -> list[dict[str, Any]]:
    """Return what the controller knows of the servers."""
    import json

    (line,) = [line for line in result.outlines if line.startswith("DATA ")]
    found: list[dict[str, Any]] = json.loads(line[5:])
    return found


def test_what_a_run_knows_of_its_servers(suite: Suite) -> None:
    suite.write(conftest=f"{TOOLS}\n{SHOWS}")
    suite.tests(
        """
        def test_kills(mlc_server, kill):
            kill()

        def test_asks(mlc_server, mlc_server_factory, ask):
            ask("hello")
            mlc_server_factory(mode="server")
        """
    )
    result = suite.run("-s")
    result.assert_outcomes(passed=2, warnings=1)
    first, second = data(result)
    assert first["id"] != second["id"]
    assert len(first["starts"]) == 2 == 1 + first["restarts"]
    assert second["restarts"] == 0
    for one in (first, second):
        assert one["engine"] == "mlc"
        assert one["model"] == suite.model
        assert one["launched_at"] < one["ready_at"] < one["ended_at"]
        assert one["startup_seconds"] == one["starts"][-1]["seconds"]
        assert one["base_url"] in one["urls"]
        assert one["peak_memory"] > 1 << 20
        assert max(memory for _, memory in one["memory"]) == one["peak_memory"]
        assert not one["shared"]
    (incident,) = first["incidents"]
    assert incident["test"] == "test_it.py::test_kills"
    assert incident["outcome"].startswith("started again")
    assert first["launched_at"] < incident["at"] < first["ended_at"]
    assert f"restarts: 1, peak memory {size(first['peak_memory'])}" in summary(result)[0]


def test_a_worker_that_crashes_has_told_of_its_servers(suite: Suite) -> None:
    pytest.importorskip("xdist")
    suite.write(conftest=SHOWS)
    suite.tests(
        """
        import os

        def test_uses(mlc_server): pass

        def test_crashes(mlc_server):
            os._exit(1)

        def test_goes_on(mlc_server): pass
        """
    )
    result = suite.run("-p", "xdist", "-n1", "-s")
    result.assert_outcomes(passed=2, failed=1)
    first, second = data(result)
    assert (first["worker"], second["worker"]) == ("gw0", "gw1")
    assert first["startup_seconds"] is not None
    lines = summary(result)[:2]
    assert [line.partition(": ")[0] for line in lines] == ["gw0", "gw1"]


def test_what_workers_share_is_counted_once(suite: Suite) -> None:
    pytest.importorskip("xdist")
    suite.write(conftest=SHOWS)
    suite.tests(
        """
        import pytest
        import requests

        @pytest.mark.parametrize("n", range(6))
        def test_asks(mlc_server, n):
            body = {"prompt": "one two", "max_tokens": 3}
            requests.post(f"{mlc_server.openai_v1_base_url}/completions", json=body, timeout=60)
        """
    )
    result = suite.run_bare("--mlc-engine=sim", "--mlc-scope=run", "-p", "xdist", "-n2", "-s")
    result.assert_outcomes(passed=6)
    (server,) = data(result)
    assert server["shared"]
    assert server["requests"] == 6
    (alone,) = data(suite.run_bare("--mlc-engine=sim", "-s"))
    assert not alone["shared"]
    for name in ("requests", "prompt_tokens", "completion_tokens"):
        assert alone[name] == server[name] > 0
