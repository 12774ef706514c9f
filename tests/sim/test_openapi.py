"""The description of the interface is the real server's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.sim.simulator import SimulatorPool

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "data" / "openapi-debug.json").read_text("utf-8")
)
KEY = ("--api-key", "sk-test")


def without_debug(schema: dict[str, Any]) -> dict[str, Any]:
    paths = {path: how for path, how in schema["paths"].items() if not path.startswith("/debug")}
    return {**schema, "paths": paths}


@pytest.mark.parametrize("flags", [(), ("--enable-debug",), KEY])
def test_description_is_the_real_servers(simulators: SimulatorPool, flags: tuple[str, ...]) -> None:
    expected = RECORDED if "--enable-debug" in flags else without_debug(RECORDED)
    response = simulators.get(*flags).get("/openapi.json")
    # As text, because the order of fields counts for who generates code from it.
    assert json.dumps(response.json()) == json.dumps(expected)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect"])
def test_pages_need_no_key(simulators: SimulatorPool, path: str) -> None:
    response = simulators.get(*KEY).get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
