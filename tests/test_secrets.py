"""The API key, and what else looks secret, is seen by the server and by nobody else."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import requests

from pytest_mlc_server import ConfigError, PopenServer, ServerConfig, engines, preflight
from tests.conftest import STANDIN, WATCHDOG, await_
from tests.support_plugin import Suite
from tests.support_plugin import suite as suite
from tests.support_server import Kin, ask, linux
from tests.support_server import temporary as temporary

Servers = Callable[..., PopenServer]

KEY = "sk-t0p-s3cret"
TOKEN = "hf-t0ken-of-mine"


def family(server: PopenServer) -> list[psutil.Process]:
    """Return the server, its guardian, and whatever is below them."""
    watcher = psutil.Process(Kin.of(server).watcher)
    return [watcher, *watcher.children(recursive=True)]


# --- on the way to the server ---------------------------------------------------------------------


@linux
@pytest.mark.parametrize("key", [KEY, "--api-key=odd key"], ids=["word", "odd"])
def test_the_key_reaches_the_server_and_stands_on_no_command_line(
    standin: Servers, tmp_path: Path, key: str
) -> None:
    daemon = tmp_path / "daemon"
    key += uuid.uuid4().hex  # another test gives the plain one on a command line
    server = standin(f"daemon={daemon}", api_key=key)
    server.start()
    processes = family(server)
    assert len(processes) >= 4  # two of the guardian, the server, its daemon
    for process in psutil.process_iter():
        try:
            assert key not in " ".join(process.cmdline())
        except psutil.Error:
            continue
    for process in processes:
        assert key not in process.environ().values()
    with pytest.raises(requests.HTTPError, match="401"):
        requests.get(f"{server.openai_v1_base_url}/models", timeout=WATCHDOG).raise_for_status()
    assert ask(server)["choices"]


@pytest.mark.parametrize("key", ["key of Kyïv", "line\nX-Header: 1", "s3cret\t"])
def test_a_key_that_no_header_can_hold_is_a_mistake(key: str) -> None:
    with pytest.raises(ConfigError, match="header") as caught:
        PopenServer("m", api_key=key)
    assert key.strip() not in str(caught.value)


def test_without_a_key_the_server_is_started_as_anybody_would(standin: Servers) -> None:
    server = standin()
    server.start()
    argv = psutil.Process(server.pid).cmdline()
    assert argv[1:4] == ["-m", "mlc_llm", "serve"]
    assert server.env()["OPENAI_API_KEY"] == "none"


def test_the_interpreter_that_serves_need_not_have_this_package(
    standin: Servers, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    look = [str(python), "-c", "import pytest_mlc_server"]
    assert subprocess.run(look, cwd="/", capture_output=True, check=False).returncode != 0
    server = standin(api_key=KEY, python=python)
    server.start()
    assert ask(server)["choices"]


def test_the_servers_directory_is_its_import_path_as_with_m(standin: Servers) -> None:
    server = standin(api_key=KEY, cwd=STANDIN, env={"PYTHONPATH": ""})
    server.start()
    assert ask(server, "environment")["cwd"] == str(STANDIN)


REPORT = """
import json, os, sys
from . import helper
from .helper import VALUE
if __name__ == "__main__":
    print(json.dumps([sys.argv, sys.path, __package__, __spec__.name, __file__, VALUE,
                      sys.modules["__main__"].__dict__ is globals()]))
"""


@pytest.mark.parametrize("flags", [[], ["-I"], ["-P"]] if sys.version_info >= (3, 11) else [[]])
def test_a_module_cannot_tell_how_it_was_run(tmp_path: Path, flags: list[str]) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("VALUE = 3\n")
    (package / "__main__.py").write_text(REPORT)
    (tmp_path / "key").write_text(KEY)
    told = []
    for how, more in ((["-m"], [f"--api-key={KEY}"]), ([engines.ENTRY, "plain+key"], [])):
        command = [sys.executable, *flags, *how, "package", "serve", "--port", "0", *more]
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" 3<key', "sh", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=WATCHDOG,
            check=False,
        )
        told.append(json.loads(done.stdout) if done.returncode == 0 else "not found")
    assert told[0] == told[1]
    assert (told[0] == "not found") == bool(flags)  # they keep the directory off the path


# --- a random one ---------------------------------------------------------------------------------


def test_auto_makes_a_random_key_that_clients_use(standin: Servers) -> None:
    first, second = standin(api_key="auto"), standin(api_key="auto")
    assert first.api_key != second.api_key
    for server in (first, second):
        assert isinstance(server.api_key, str)
        assert len(server.api_key) >= 20
    first.start()
    assert first.env()["OPENAI_API_KEY"] == first.api_key
    assert ask(first)["choices"]
    key = first.api_key
    first.restart()
    assert first.api_key == key
    assert ask(first)["choices"]


# --- what is shown --------------------------------------------------------------------------------

SHOW = """
    import os, urllib.request

    with open("token.txt") as file:
        ENV = {"PYTHONPATH": STANDIN_PATH, "HF_TOKEN": file.read().strip()}

    def test_fails(mlc_server, mlc_server_config, mlc_server_factory, mlc_environ):
        environment = mlc_server.env()
        variables = mlc_server.env
        with open("key.txt", "w") as file:
            file.write(os.environ["OPENAI_API_KEY"])
        request = urllib.request.Request(
            f"{mlc_server.openai_v1_base_url}/completions",
            b'{"prompt": "exit"}',
            {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
        )
        print(mlc_server, mlc_server_config, environment, variables)
        del request.headers["Authorization"]
        assert mlc_server.poll() == "wedged"

    def test_does_not_start(mlc_server_factory):
        mlc_server_factory(env={**ENV, "STANDIN": "exit=3 log=token.txt"})

    def test_wrong(mlc_server_factory):
        mlc_server_factory(model="/no/such/model", env={**ENV, "STANDIN": "exit=3"})
    """


@pytest.mark.parametrize("given", [KEY, "auto"])
def test_no_report_shows_a_secret(
    suite: Suite, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_MLC_API_KEY", given)
    suite.write(test_it=SHOW.replace("STANDIN_PATH", repr(str(STANDIN))))
    (suite.path / "token.txt").write_text(f"{TOKEN}\n")
    result = suite.run(
        "-l", "-vv", "--tb=long", "-rA", "--junitxml=report.xml", "--mlc-log-live",
        f"--mlc-env=HF_TOKEN={TOKEN}", "--mlc-log-dir=logs", orders="log=token.txt",
    )  # fmt: skip
    result.assert_outcomes(failed=3)
    key = (suite.path / "key.txt").read_text()
    assert (key == KEY) == (given != "auto")
    # The servers say the token themselves: it stands in their own logs, and nowhere else.
    ours = [log for log in (suite.path / "logs").iterdir() if "guardian" in log.name]
    shown = {file.name: file.read_text() for file in (*ours, suite.path / "report.xml")}
    shown["terminal"] = result.stdout.str() + result.stderr.str()
    for secret in (key, TOKEN):
        told = [(name, line) for name in shown for line in shown[name].splitlines()]
        assert [line for line in told if secret in line[1]] == []
    assert "***" in shown["terminal"]
    assert "***" in shown["report.xml"]


def test_the_live_copy_of_the_log_shows_none_either(standin: Servers, tmp_path: Path) -> None:
    (tmp_path / "words").write_text(f"my key is {KEY}, my token {TOKEN}\n")
    variables = {"HF_TOKEN": TOKEN}
    server = standin(f"log={tmp_path / 'words'}", api_key=KEY, env=variables, log_live=True)
    terminal = tmp_path / "terminal"
    with terminal.open("wb") as output:
        server.live_output = output.fileno()
        server.start()
        server.terminate()
    assert "my key is ***, my token ***" in terminal.read_text()


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "MY_AUTH"])
def test_values_of_variables_that_look_secret_are_hidden(name: str) -> None:
    server = PopenServer("m", env={name: TOKEN, "PLAIN": "shown"}, api_key=KEY)
    for text in (repr(server.config), repr(server), server.hide_secrets(f"{KEY} {TOKEN} shown")):
        assert KEY not in text
        assert TOKEN not in text
    assert "shown" in server.hide_secrets("shown")


# --- whoever reaches the machine ------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "203.0.113.1"])
def test_a_host_that_others_reach_without_a_key_is_a_warning(host: str) -> None:
    config = ServerConfig(engine="sim", host=host)
    with pytest.warns(UserWarning, match=r"whoever reaches this machine.*--mlc-api-key auto"):
        preflight.check(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preflight.check(config.replace(api_key=KEY))
        preflight.check(config.replace(api_key="auto"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_host_of_this_machine_is_none(host: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preflight.check(ServerConfig(engine="sim", host=host))


def test_logs_are_private(standin: Servers) -> None:
    server = standin()
    server.start()
    log = Path(str(server.log_path))
    assert log.stat().st_mode & 0o077 == 0
    assert log.parent.stat().st_mode & 0o077 == 0
    await_(lambda: log.read_text(), "the first line")
