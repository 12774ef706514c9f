"""A server that is already there: attached to, and left alone."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_mlc_server import ConfigError, PopenServer, StartError, external
from tests.conftest import standin_env
from tests.support_server import ask

KEY = "sk-s3cret"


@pytest.fixture(scope="module")
def target(model_dir: str) -> Iterator[PopenServer]:
    """A server of somebody else's."""
    with PopenServer(model_dir, port="auto", api_key=KEY, env=standin_env()) as server:
        yield server


@contextmanager
def running(*words: str) -> Iterator[str]:
    """Run the stand-in by itself, and tell its URL."""
    command = [sys.executable, "-m", "mlc_llm", "serve", "dist/M-MLC", "--port", "0"]
    environment = {**os.environ, **standin_env(*words)}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    ) as popen:
        try:
            assert popen.stderr is not None
            found = None
            while not found:
                line = popen.stderr.readline()
                assert line, "the stand-in ended"
                found = re.search(r"running on (http://\S+)", line)
            yield found.group(1)
        finally:
            popen.kill()


def test_a_url_attaches_to_what_is_there(target: PopenServer) -> None:
    server = PopenServer(None, url=target.base_url, api_key=KEY)
    assert server.engine == "external"
    assert not server.is_alive()
    server.start()
    assert server.is_alive()
    assert server.model == target.model
    assert server.base_url == target.base_url
    assert server.openai_v1_base_url == target.openai_v1_base_url
    assert server.port == target.port
    assert (server.pid, server.log_path, server.startup_seconds) == (None, None, None)
    assert f"engine='external', model={target.model!r}" in repr(server)
    assert f"attached to {target.base_url}" in repr(server)
    assert ask(server)["choices"]
    assert server.env()["OPENAI_BASE_URL"] == target.openai_v1_base_url


def test_terminate_only_detaches(target: PopenServer) -> None:
    server = PopenServer(target.model, url=target.base_url, api_key=KEY)
    server.terminate()
    with server:
        assert server.is_alive()
    server.terminate()
    assert not server.is_alive()
    assert target.is_alive()
    assert ask(target)["choices"]
    server.start()
    assert server.is_alive()


def test_attaching_twice_is_an_error(target: PopenServer) -> None:
    server = PopenServer(None, url=target.base_url, api_key=KEY)
    server.start()
    with pytest.raises(StartError, match="started already"):
        server.start()


def test_a_url_with_v1_is_the_same_server(target: PopenServer) -> None:
    server = PopenServer(None, url=f"{target.base_url}/v1/", api_key=KEY)
    server.start()
    assert server.base_url == target.base_url


@pytest.mark.parametrize("key", [None, "sk-wr0ng"])
def test_a_wrong_key_says_how_to_set_the_key(target: PopenServer, key: str | None) -> None:
    server = PopenServer(None, url=target.base_url, api_key=key)
    with pytest.raises(StartError, match="answers 401: set its key with --mlc-api-key") as caught:
        server.start()
    assert target.base_url in str(caught.value)
    assert "sk-wr0ng" not in str(caught.value)
    assert not server.is_alive()


def test_another_model_than_the_configured_one_names_both(target: PopenServer) -> None:
    server = PopenServer("dist/other", url=target.base_url, api_key=KEY)
    with pytest.raises(ConfigError) as caught:
        server.start()
    assert "dist/other" in str(caught.value)
    assert target.model in str(caught.value)


def test_no_server_at_the_url_names_the_url() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # kept from others, and not listening
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(StartError, match=f"url = '{url}'.*\nIs the server running"):
            PopenServer(None, url=url).start()


def test_a_server_that_never_answers_is_given_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        server = PopenServer(None, url=url, startup_timeout=0.2)
        with pytest.raises(StartError, match=r"was not answered within 0\.2 s"):
            server.start()


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ("models-status=500", r"GET /v1/models answers 500"),
        ("not-json", r"GET /v1/models answers no JSON: <html>"),
        ("no-models", r"GET /v1/models lists no models"),
        ("generate-status=500", r"POST /v1/completions answers 500"),
    ],
)
def test_something_that_is_no_working_server_is_an_error(order: str, text: str) -> None:
    with running(order) as url, pytest.raises(StartError, match=text) as caught:
        PopenServer(None, url=url).start()
    assert url in str(caught.value)


def test_ready_http_asks_for_no_token() -> None:
    with running("generate-status=500") as url:
        server = PopenServer(None, url=url, ready="http")
        server.start()
        assert server.is_alive()


def test_a_url_and_an_engine_are_a_contradiction() -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        PopenServer(None, url="http://127.0.0.1:1", engine="sim")


def test_a_proxy_that_leads_nowhere_does_not_matter(
    target: PopenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{black_hole.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        server = PopenServer(None, url=target.base_url, api_key=KEY)
        server.start()
        assert server.is_alive()


def test_a_netrc_does_not_take_the_keys_place(
    target: PopenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1\nlogin a\npassword b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    # As for a server elsewhere, which the environment's proxies and logins are for.
    monkeypatch.setattr(external, "is_local", lambda _: False)
    with PopenServer(None, url=target.base_url, api_key=KEY) as server:
        assert server.is_alive()
