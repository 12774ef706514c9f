"""The control endpoints' client: doors, the token, and what goes wrong on the way."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import requests

from pytest_mlc_server import MLCSim, PopenServer, ServerConfig, SimulatorError, engines
from pytest_mlc_server.simulator import close_door, open_door
from pytest_mlc_server.simulator.control import Control, mistakes
from tests.conftest import WATCHDOG
from tests.support_sim import ECHO, answer
from tests.support_sim import server as server

# --- the token ------------------------------------------------------------------------------------


def test_the_token_is_in_the_simulators_environment_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = ServerConfig(engine="sim", env={engines.SIM_TOKEN: "of-the-user"})
    made = engines.plan(config, mark="m4rk", sim_token="t0ken")
    assert made.env[engines.SIM_TOKEN] == "t0ken"
    for shown in (repr(made), made.command, *made.argv, repr(made.order(config))):
        assert "t0ken" not in shown
    monkeypatch.setenv(engines.SIM_TOKEN, "from-outside")
    for engine, token in (("mlc", "t0ken"), ("mock", "t0ken"), ("sim", "")):
        other = engines.plan(ServerConfig(engine=engine, model="m"), mark="m4rk", sim_token=token)
        assert engines.SIM_TOKEN not in other.env


def test_nothing_shows_the_token(server: PopenServer) -> None:
    token = server.sim_token
    assert len(token) >= 32
    assert token != PopenServer(None, engine="sim", port="auto").sim_token
    with MLCSim(server) as sim:
        answer(server, "a")
        shown = [repr(server), repr(sim), repr(sim.control), str(server.env()), repr(server.env)]
        shown += [repr(request) for request in sim.requests]
        shown.append(requests.get(f"{server.base_url}/openapi.json", timeout=WATCHDOG).text)
        with pytest.raises(SimulatorError) as caught:
            sim.control.call("GET", "/sim/nothing")
        shown.append(str(caught.value))
    assert server.pid is not None
    assert server.log_path is not None
    shown += psutil.Process(server.pid).cmdline()
    shown.append(Path(server.log_path).read_text())
    assert not [text for text in shown if token in text]
    assert server.hide_secrets(f"<{token}>") == "<***>"
    assert engines.SIM_TOKEN not in os.environ


@pytest.mark.parametrize("engine", ["mlc", "mock", "external"])
def test_other_engines_have_no_token_and_no_script(engine: str) -> None:
    url = "http://127.0.0.1:1" if engine == "external" else None
    server = PopenServer("m", engine=engine, url=url)
    assert server.sim_token == ""
    with pytest.raises(SimulatorError, match="only a running simulator"):
        MLCSim(server)


def test_a_simulator_has_no_script_before_it_runs() -> None:
    with pytest.raises(SimulatorError, match=r"only a running simulator.*not started"):
        MLCSim(PopenServer(None, engine="sim"))


# --- doors ----------------------------------------------------------------------------------------


def at(server: PopenServer, port: int) -> str:
    """Ask a question at a door and return the answer."""
    body = {"messages": [{"role": "user", "content": "weather"}]}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    text: str = requests.post(url, json=body, timeout=WATCHDOG).json()["choices"][0]["message"][
        "content"
    ]
    return text


def test_each_door_has_rules_and_records_of_its_own(server: PopenServer) -> None:
    port = open_door(server.base_url, server.sim_token)
    door = Control(f"http://127.0.0.1:{port}", server.sim_token)
    with MLCSim(server) as sim:
        sim.when("weather").reply("first")
        door.call("POST", "/sim/rules", {"reply": {"text": "second"}})
        assert (answer(server, "weather"), at(server, port)) == ("first", "second")
        assert len(sim.requests) == len(door.call("GET", "/sim/requests")["requests"]) == 1
        sim.clear()
        assert (answer(server, "weather"), at(server, port)) == (ECHO, "second")
    close_door(server.base_url, server.sim_token, port)
    with pytest.raises(requests.ConnectionError):
        at(server, port)
    with pytest.raises(SimulatorError, match="There is no door"):
        close_door(server.base_url, server.sim_token, port)


# --- what goes wrong ------------------------------------------------------------------------------


def test_another_token_opens_nothing(server: PopenServer) -> None:
    with pytest.raises(SimulatorError, match=r"POST /sim/doors: the server at .* another process"):
        open_door(server.base_url, "wr0ng")


def test_nobody_there() -> None:
    with pytest.raises(SimulatorError, match=r"at http://127\.0\.0\.1:1 does not answer"):
        open_door("http://127.0.0.1:1", "t")


def test_the_error_survives_its_way_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(SimulatorError("gone")))
    assert isinstance(error, SimulatorError)
    assert str(error) == "gone"


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        ("text", "text"),
        ([{"loc": ["body", "when", "call"], "msg": "Value error, too low"}], "when.call: too low"),
        ([{"loc": ["body"], "msg": "m"}, {"loc": ["body"], "msg": "m"}, "other"], "m; other"),
    ],
)
def test_mistakes_are_said_in_words(detail: object, said: str) -> None:
    assert mistakes(detail) == said


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("sim.when(regex='(').reply('a')", "when.last_message_regex: .*no regular expression"),
        ("sim.when(endpoint='chats').reply('a')", "when.endpoint: .*chat, completions"),
        ("sim.when('a', call=0).reply('a')", "when.call"),
        ("sim.when('a', times=0).reply('a')", "times"),
        ("sim.when(3).reply('a')", "when.last_message"),
        ("sim.when('a').call_tool('no name')", "'no name' is no Python identifier"),
        ("sim.when('a').reply_json({1, 2})", "cannot be sent to the simulator as JSON.*set"),
        ("sim.when('a').reply(3)", "no answer is 3"),
        ("sim.when('a').reply()", "the answer .or several., or its chunks"),
        ("sim.when('a').reply('b', chunks=['c'])", "the answer .or several., or its chunks"),
        ("sim.when('a').reply_with(len, timeout=0)", "timeout"),
        ("sim.default('eco')", "default: .*'echo'"),
        ("sim.latency(itl=float('inf'))", "JSON"),
    ],
)
def test_a_mistake_is_an_error_in_the_line_that_makes_it(
    wrong: str, said: str, server: PopenServer
) -> None:
    with MLCSim(server) as sim:
        with pytest.raises((ValueError, TypeError), match=said):
            eval(wrong, {"sim": sim})
        assert answer(server, "a") == ECHO


def test_a_key_is_no_hindrance_and_is_not_shown() -> None:
    keyed = PopenServer(None, engine="sim", port="auto", api_key="s3cret-key")
    with keyed as server, MLCSim(server) as sim:
        sim.when("a").reply("b")
        body = {"messages": [{"role": "user", "content": "a"}]}
        url = f"{server.openai_v1_base_url}/chat/completions"
        key = {"Authorization": f"Bearer {server.api_key}"}
        for headers in (key, {}):
            requests.post(url, json=body, headers=headers, timeout=WATCHDOG)
        assert [request.status for request in sim.requests] == [200, 401]
        assert "s3cret" in sim.requests[0].headers["authorization"]
        with pytest.raises(AssertionError) as caught:
            sim.assert_called("c")
        assert "s3cret" not in str(caught.value) + repr(sim.requests)


def test_the_fixture_goes_on_after_a_restart(server: PopenServer) -> None:
    with MLCSim(server) as sim:
        sim.when("a").reply_with(lambda _: "before")
        assert answer(server, "a") == "before"
        server.restart()
        assert sim.requests == []
        sim.when("a").reply_with(lambda _: "after")
        assert answer(server, "a") == "after"


def test_it_works_without_pytest_and_without_the_simulators_packages() -> None:
    code = """
import sys
from pytest_mlc_server import MLCSim, PopenServer

with PopenServer(None, engine="sim", port="auto") as server, MLCSim(server) as sim:
    sim.when("weather").reply("Sunny")
    sim.assert_not_called()
print(*{"pytest", "fastapi", "pydantic", "requests"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WATCHDOG, check=False
    )
    assert (done.stdout, done.returncode) == ("\n", 0), done.stderr
