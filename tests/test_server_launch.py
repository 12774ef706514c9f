"""What the server is started with: command, environment, directory, interpreter."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pytest_mlc_server import PopenServer
from tests.support_server import ask
from tests.support_server import temporary as temporary

Servers = Callable[..., PopenServer]


def test_the_servers_environment_is_os_environ_then_env_then_extra_env(
    standin: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ONE", "TWO", "THREE"):
        monkeypatch.setenv(name, "os.environ")
    server = standin(env={"TWO": "env", "THREE": "env", "FOUR": "env"})
    server.start(extra_env={"THREE": "extra_env", "FIVE": "extra_env"})
    environment = ask(server, "environment")["environment"]
    names = ("ONE", "TWO", "THREE", "FOUR", "FIVE", "PYTHONUNBUFFERED")
    assert [environment.get(name) for name in names] == [
        "os.environ",
        "env",
        "extra_env",
        "env",
        "extra_env",
        "1",
    ]
    server.terminate()
    server.start()
    assert ask(server, "environment")["environment"]["THREE"] == "env"


def test_the_server_works_in_the_callers_directory(
    standin: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = standin()
    monkeypatch.chdir(tmp_path)
    server.start()
    assert ask(server, "environment")["cwd"] == str(tmp_path.resolve())


@pytest.mark.parametrize("where", ["caller", "cwd"])
def test_a_relative_model_path_is_passed_on_as_it_is_and_found(
    standin: Servers, model_dir: str, where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(model_dir, tmp_path / "dist" / "tiny")
    options = {"cwd": tmp_path} if where == "cwd" else {}
    if where == "caller":
        monkeypatch.chdir(tmp_path)
    server = standin(model="dist/tiny", **options)
    server.start()
    argv = ask(server, "environment")["argv"]
    assert argv[1:3] == ["serve", "dist/tiny"]
    assert server.model == "dist/tiny"
    assert ask(server, "environment")["cwd"] == str(tmp_path.resolve())


def test_the_server_is_run_as_a_module_of_this_interpreter(standin: Servers) -> None:
    server = standin()
    server.start()
    command = psutil.Process(server.pid).cmdline()
    assert command[:5] == [sys.executable, "-m", "mlc_llm", "serve", server.model]


def test_another_interpreter_without_this_package_serves(standin: Servers, tmp_path: Path) -> None:
    python = tmp_path / "other" / "python"
    python.parent.mkdir()
    # No site-packages: neither this package nor psutil nor requests can be imported there.
    python.write_text(
        f"#!/bin/sh\n"
        f"{sys.executable} -S -c 'import pytest_mlc_server' 2> {tmp_path}/missing\n"
        f'exec {sys.executable} -S "$@"\n'
    )
    python.chmod(0o755)
    server = standin(python=python, cwd=tmp_path)
    server.start()
    assert ask(server)["choices"]
    assert "No module named 'pytest_mlc_server'" in (tmp_path / "missing").read_text()
    assert "-S" in psutil.Process(server.pid).cmdline()
