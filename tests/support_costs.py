"""Inner runs against the simulator, and what their tests' reports say of costs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from tests.support_plugin import Suite

#: Loaded here: an inner run that loads it first has it unloaded at its end, and half of it stays.
LOADED = requests

#: The application, and what the tests' reports say, in a file.
CONFTEST = """
    import json
    from urllib.error import HTTPError
    from urllib.request import ProxyHandler, Request, build_opener
    import pytest

    OPENER = build_opener(ProxyHandler({}))
    COSTS = {}

    def ask(server, tokens=5, path="/v1/completions", **body):
        body = {"prompt": [5] * 100, "max_tokens": tokens, **body}
        headers = {"Content-Type": "application/json"}
        url = server.base_url + path
        try:
            with OPENER.open(Request(url, json.dumps(body).encode(), headers)) as answer:
                return answer.read()
        except HTTPError as error:
            with error:
                return error.code

    def pytest_runtest_logreport(report):
        if hasattr(report, "mlc_cost"):
            assert json.loads(json.dumps(report.mlc_cost)) == report.mlc_cost
            cost = {**report.mlc_cost, "when": report.when, "duration": report.duration}
            cost["properties"] = {
                name: value for name, value in report.user_properties if name != "mlc_server_log"
            }
            names = [name for name, _ in report.user_properties if name != "mlc_server_log"]
            assert len(names) == len(set(names))
            COSTS.setdefault(report.nodeid.partition("::")[2], []).append(cost)

    def pytest_unconfigure(config):
        if not hasattr(config, "workerinput"):
            with open("costs.json", "w") as file:
                json.dump(COSTS, file)
    """


@pytest.fixture
def sim_suite(suite: Suite) -> Suite:
    suite.write(conftest=CONFTEST)
    return suite


def run(suite: Suite, *args: str) -> pytest.RunResult:
    """Run the suite with the simulator, in the order in which its tests stand."""
    return suite.run_bare("--mlc-engine=sim", "-p", "no:randomly", *args)


def costs(suite: Suite) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads((suite.path / "costs.json").read_text())
    return found


def tokens(cost: dict[str, Any]) -> tuple[Any, ...]:
    return cost["requests"], cost["errors"], cost["prompt_tokens"], cost["completion_tokens"]
