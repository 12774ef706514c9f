"""`PopenServer`: what it takes, what it says of itself, and its life from start to stop."""

from __future__ import annotations

import inspect
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from pytest_mlc_server import ConfigError, EngineConfig, PopenServer, StartError
from tests.conftest import await_, await_gone
from tests.support_plugin import free_ports
from tests.support_server import Kin, ask
from tests.support_server import temporary as temporary

Servers = Callable[..., PopenServer]

#: Upstream's constructor: name, kind and default of each parameter, in its order.
UPSTREAM = [
    ("model", "positional or keyword", inspect.Parameter.empty),
    ("device", "positional or keyword", "auto"),
    ("model_lib", "keyword-only", None),
    ("mode", "keyword-only", "local"),
    ("engine_config", "keyword-only", None),
    ("enable_debug", "keyword-only", True),
    ("enable_tracing", "keyword-only", False),
    ("host", "keyword-only", "127.0.0.1"),
    ("port", "keyword-only", 8082),
]

PARAMETERS = list(inspect.signature(PopenServer).parameters.values())


@pytest.fixture
def free_port() -> int:
    return free_ports(1)


# --- the constructor ------------------------------------------------------------------------------


def test_the_constructor_begins_with_upstreams_parameters_and_defaults() -> None:
    described = [(p.name, p.kind.description, p.default) for p in PARAMETERS]
    assert described[: len(UPSTREAM)] == UPSTREAM


@pytest.mark.parametrize("parameter", PARAMETERS[len(UPSTREAM) :], ids=lambda p: str(p.name))
def test_every_further_parameter_is_keyword_only_and_has_a_default(
    parameter: inspect.Parameter,
) -> None:
    assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
    assert parameter.default is not inspect.Parameter.empty


def test_start_has_upstreams_signature() -> None:
    parameters = inspect.signature(PopenServer.start).parameters
    assert list(parameters) == ["self", "extra_env"]
    assert parameters["extra_env"].default is None


def test_every_parameter_can_be_read_back() -> None:
    values: dict[str, Any] = {
        **{parameter.name: parameter.default for parameter in PARAMETERS},
        "model": "dist/M-MLC",
        "device": "cuda:1",
        "model_lib": "dist/M.so",
        "mode": "server",
        "engine_config": EngineConfig(max_num_sequence=4),
        "enable_debug": False,
        "enable_tracing": True,
        "host": "0.0.0.0",
        "port": 4321,
        "engine": "mlc",
        "url": None,
        "overrides": {"prefill_chunk_size": 512},
        "additional_models": ("dist/A-MLC", ("dist/B-MLC", "dist/B.so")),
        "embedding_model": "dist/E-MLC",
        "embedding_model_lib": "dist/E.so",
        "speculative_mode": "eagle",
        "prefix_cache_mode": "disable",
        "prefill_mode": "chunked",
        "api_key": "k3y",
        "args": ("--allow-credentials",),
        "env": {"A": "1"},
        "python": "/opt/conda/bin/python",
        "launch": "warm",
        "cwd": "/srv",
        "ready": "http",
        "startup_timeout": 7.0,
        "stop_timeout": 3.0,
        "log_dir": "/tmp/logs",
        "log_live": True,
    }
    assert set(values) == {p.name for p in PARAMETERS}
    server = PopenServer(**values)
    assert {name: getattr(server, name) for name in values} == values


def test_upstreams_attributes_have_upstreams_values_before_the_start() -> None:
    server = PopenServer("dist/M-MLC")
    upstream = {name: default for name, _, default in UPSTREAM[1:] if name != "engine_config"}
    assert {name: getattr(server, name) for name in upstream} == upstream
    assert server.model == "dist/M-MLC"
    assert server.engine_config == EngineConfig()
    assert (server.base_url, server.openai_v1_base_url) == ("", "")


def test_a_server_that_was_not_started_has_no_process_log_or_time() -> None:
    server = PopenServer("dist/M-MLC")
    assert (server.pid, server.log_path, server.startup_seconds) == (None, None, None)
    assert not server.is_alive()


def test_an_unknown_attribute_is_an_attribute_error_as_usual() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        PopenServer("dist/M-MLC").no_such_thing  # noqa: B018


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"port": 70000}, "port = 70000"),
        ({"mode": "loacl"}, "mode = 'loacl'"),
        ({"stop_timeout": -1}, "stop_timeout = -1"),
        ({"url": "http://127.0.0.1:1", "engine": "mlc"}, "give one of them"),
        ({"engine_config": EngineConfig(mode="server")}, "'server' and mode = 'local' differ"),
    ],
)
def test_a_bad_configuration_is_a_value_error_of_the_constructor(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        PopenServer("dist/M-MLC", **options)
    assert isinstance(caught.value, ValueError)


# --- started --------------------------------------------------------------------------------------


def test_a_started_server_says_where_it_is_and_answers_there(
    standin: Servers, model_dir: str
) -> None:
    server = standin()
    server.start()
    assert isinstance(server.port, int)
    assert server.base_url == f"http://127.0.0.1:{server.port}"
    assert server.openai_v1_base_url == f"{server.base_url}/v1"
    models = requests.get(f"{server.openai_v1_base_url}/models", timeout=60).json()
    assert [model["id"] for model in models["data"]] == [model_dir] == [server.model]
    assert server.pid is not None
    assert "mlc_llm" in psutil.Process(server.pid).cmdline()
    assert server.is_alive()
    assert server.startup_seconds is not None
    assert 0 < server.startup_seconds < 60
    assert server.log_path is not None
    assert "Uvicorn running on" in Path(server.log_path).read_text()


def test_the_repr_says_all_this(standin: Servers, model_dir: str) -> None:
    server = standin(api_key="sk-s3cret")
    assert repr(server) == (
        f"<PopenServer engine='mlc', model={model_dir!r}, device='auto', not started, port='auto'>"
    )
    server.start()
    assert repr(server) == (
        f"<PopenServer engine='mlc', model={model_dir!r}, device='auto', at {server.base_url}, "
        f"pid={server.pid}, ready after {server.startup_seconds:.2f} s, log {server.log_path}>"
    )
    server.terminate()
    assert "not started" in repr(server)


def test_a_given_port_is_the_one_that_is_bound(standin: Servers, free_port: int) -> None:
    server = standin(port=free_port)
    server.start()
    assert server.port == free_port
    assert ask(server)["choices"]
    server.terminate()
    server.start()  # at once on the same port: nothing of the first server is in the way
    assert server.base_url == f"http://127.0.0.1:{free_port}"


def test_an_occupied_port_is_an_error_before_anything_starts(
    standin: Servers, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        port = occupant.getsockname()[1]
        server = standin(f"started={started}", port=port)
        with pytest.raises(ConfigError, match=rf"port {port} is occupied by process {os.getpid()}"):
            server.start()
    assert not started.exists()
    assert (server.pid, server.log_path) == (None, None)


@pytest.mark.parametrize("host", ["::1", "localhost", "0.0.0.0"])
def test_a_server_on_another_address_is_reached(standin: Servers, host: str) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.bind(address)
    except OSError:
        pytest.skip(f"no address {host} here")
    # With a key: a server for everybody without one may be worth a warning.
    server = standin(host=host, api_key="sk-s3cret")
    server.start()
    assert ask(server)["choices"]
    if host == "::1":
        assert server.base_url == f"http://[::1]:{server.port}"
    assert "0.0.0.0" not in server.base_url


def test_a_proxy_that_leads_nowhere_does_not_matter(
    standin: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        proxy = f"http://127.0.0.1:{black_hole.getsockname()[1]}"
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        server = standin()
        server.start()
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        # An application that honours proxies reaches the server with the environment it is given.
        assert requests.get(f"{server.openai_v1_base_url}/models", timeout=60).ok


def test_an_application_gets_what_it_needs_in_its_environment(standin: Servers) -> None:
    server = standin(api_key="sk-s3cret")
    with pytest.raises(RuntimeError, match="not started"):
        server.env()
    server.start()
    environment = server.env()
    assert (
        environment.items()
        >= {
            "OPENAI_BASE_URL": server.openai_v1_base_url,
            "OPENAI_API_KEY": "sk-s3cret",
        }.items()
    )
    assert server.model in environment.values()


def test_a_key_is_given_to_the_server_and_asked_for(standin: Servers) -> None:
    server = standin(api_key="sk-s3cret")
    server.start()
    assert requests.get(f"{server.openai_v1_base_url}/models", timeout=60).status_code == 401
    assert ask(server)["choices"]


def test_the_official_client_demands_a_key_even_where_the_server_does_not(
    standin: Servers,
) -> None:
    with standin() as server:
        assert server.env()["OPENAI_API_KEY"]


# --- start and stop -------------------------------------------------------------------------------


def test_terminate_before_the_start_does_nothing(standin: Servers) -> None:
    server = standin()
    server.terminate()
    server.terminate()
    server.start()
    assert server.is_alive()


def test_terminate_ends_the_server_and_its_guardian_and_can_be_called_again(
    standin: Servers,
) -> None:
    server = standin()
    server.start()
    kin = Kin.of(server)
    server.terminate()
    assert [pid for pid in (kin.server, kin.keeper, kin.watcher) if psutil.pid_exists(pid)] == []
    assert (server.pid, server.is_alive(), server.returncode) == (None, False, 0)
    server.terminate()
    assert server.returncode == 0


def test_starting_a_started_server_is_an_error_and_leaves_it_alone(standin: Servers) -> None:
    server = standin()
    server.start()
    pid = server.pid
    with pytest.raises(StartError, match="started already") as caught:
        server.start()
    assert isinstance(caught.value, RuntimeError)
    assert f"pid={pid}" in str(caught.value)
    assert server.pid == pid
    assert ask(server)["choices"]


def test_a_server_can_be_started_again_after_terminate(standin: Servers) -> None:
    server = standin()
    server.start()
    first = server.pid
    server.terminate()
    server.start()
    assert server.pid not in (None, first)
    assert ask(server)["choices"]


def test_as_a_context_manager_it_runs_for_the_block(standin: Servers) -> None:
    server = standin()
    with server as entered:
        assert entered is server
        assert server.is_alive()
        pid = server.pid
    assert not server.is_alive()
    assert pid is not None
    assert not psutil.pid_exists(pid)


def test_an_exception_in_the_block_stops_the_server_and_keeps_the_log(standin: Servers) -> None:
    server = standin()
    kin = []

    def body() -> None:
        with server:
            kin.append(Kin.of(server))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert not psutil.pid_exists(kin[0].server)
    assert "Uvicorn running" in Path(server.log_path or "").read_text()


@pytest.mark.parametrize(("prompt", "returncode"), [("crash", -11), ("exit", 0)])
def test_a_server_that_dies_by_itself_is_not_alive_and_says_how_it_ended(
    standin: Servers, prompt: str, returncode: int
) -> None:
    server = standin()
    server.start()
    with pytest.raises(requests.ConnectionError):
        ask(server, prompt)
    await_(lambda: not server.is_alive(), "news of the server's death")
    assert server.returncode == returncode
    expected = "killed by SIGSEGV (signal 11)" if returncode else "exit code 0"
    assert f"ended: {expected}" in repr(server)
    server.terminate()
    assert server.returncode == returncode
    assert Path(server.log_path or "").is_file()  # kept: something failed


def test_the_children_of_a_server_that_died_by_itself_are_gone_after_terminate(
    standin: Servers, tmp_path: Path
) -> None:
    daemon = tmp_path / "daemon"
    server = standin(f"daemon={daemon}", "scrub", log_dir=tmp_path / "logs")
    server.start()
    grandchild = int(daemon.read_text())
    assert psutil.pid_exists(grandchild)
    with pytest.raises(requests.ConnectionError):
        ask(server, "crash")
    server.terminate()
    await_gone(grandchild)
