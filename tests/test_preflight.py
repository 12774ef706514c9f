"""Mistakes that are found before anything is started."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import ConfigError, PopenServer, ServerConfig, engines, preflight
from tests.support_plugin import free_ports

REAL_ENGINES = pytest.mark.parametrize("engine", ["mlc", "mock"])


def config(**fields: Any) -> ServerConfig:
    fields.setdefault("engine", "mock")
    made = ServerConfig(**fields)
    made.check()
    return made


def problem(**fields: Any) -> str:
    """Return the one thing that is wrong with a configuration."""
    with pytest.raises(ConfigError) as caught:
        preflight.check(config(**fields))
    assert len(caught.value.problems) == 1
    return str(caught.value)


def test_a_complete_configuration_has_no_problems(tmp_path: Path) -> None:
    preflight.check(config(log_dir=tmp_path / "logs" / "new", python=sys.executable, cwd=tmp_path))
    assert not list(tmp_path.iterdir())  # looking changes nothing


# --- model and library ----------------------------------------------------------------------------


@REAL_ENGINES
def test_a_missing_model_directory(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "nowhere"
    text = problem(engine=engine, model=path, origins={"model": "mlc_model in pytest.ini"})
    assert f"model = {str(path)!r} (from mlc_model in pytest.ini)" in text


@REAL_ENGINES
def test_a_model_directory_without_configuration(engine: str, tmp_path: Path) -> None:
    text = problem(engine=engine, model=tmp_path)
    assert f"model = {str(tmp_path)!r}" in text
    assert "mlc-chat-config.json" in text


@REAL_ENGINES
def test_a_file_is_no_model_directory(engine: str, tmp_path: Path) -> None:
    file = tmp_path / "mlc-chat-config.json"
    file.write_text("{}")
    assert "this is a file" in problem(engine=engine, model=file)


def test_a_relative_model_is_looked_for_in_the_servers_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "m").symlink_to(engines.mock_model())
    preflight.check(config(model="m", cwd=tmp_path))
    monkeypatch.chdir(tmp_path / "elsewhere")
    preflight.check(config(model="../m"))
    assert str(tmp_path / "elsewhere" / "m") in problem(model="m")


def test_a_remote_model_is_left_to_the_server() -> None:
    preflight.check(config(engine="mlc", model="HF://org/name"))


def test_the_simulator_takes_any_name_for_its_model() -> None:
    preflight.check(config(engine="sim", model="no/such/model"))


def test_a_missing_library(tmp_path: Path, model_dir: str) -> None:
    library = tmp_path / "none.so"
    text = problem(engine="mlc", model="HF://org/name", model_lib=library)
    assert f"model_lib = {str(library)!r}" in text
    relative = problem(engine="mlc", model="HF://org/name", model_lib="none.so", cwd=tmp_path)
    assert str(library) in relative


def test_the_mock_library_is_no_file() -> None:
    preflight.check(config(engine="mlc", model=engines.mock_model(), model_lib="mock://echo"))


# --- interpreter, directories ---------------------------------------------------------------------


@pytest.mark.parametrize("python", ["/no/such/python", "no-such-python-9.99", "./python", "/"])
def test_a_missing_interpreter(python: str, tmp_path: Path) -> None:
    text = problem(python=python, cwd=tmp_path)
    assert f"python = {python!r}" in text


def test_a_file_that_cannot_be_executed_is_no_interpreter(tmp_path: Path) -> None:
    file = tmp_path / "python"
    file.write_text("#!/bin/sh\n")
    assert "python = " in problem(python=file)
    file.chmod(0o755)
    preflight.check(config(python=file))
    preflight.check(config(python="./python", cwd=tmp_path))


def test_the_simulator_does_not_run_in_the_interpreter_of_the_others() -> None:
    preflight.check(config(engine="sim", python="/no/such/python"))


def test_a_missing_working_directory(tmp_path: Path) -> None:
    assert f"cwd = {str(tmp_path / 'none')!r}" in problem(cwd=tmp_path / "none")


def test_a_log_directory_below_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    text = problem(log_dir=file / "logs", origins={"log_dir": "--mlc-log-dir"})
    assert f"log_dir = {str(file / 'logs')!r} (from --mlc-log-dir)" in text
    assert "log_dir = " in problem(log_dir=file)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_a_log_directory_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert "log_dir = " in problem(log_dir=tmp_path / "logs")
    finally:
        tmp_path.chmod(stat.S_IRWXU)


# --- port -----------------------------------------------------------------------------------------


@pytest.fixture(params=["127.0.0.1", "::1"])
def occupied(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A host and a port that this process listens on."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family) as listener:
        try:
            listener.bind((request.param, 0))
        except OSError as error:
            pytest.skip(f"cannot bind {request.param}: {error.strerror}")
        listener.listen()
        yield request.param, listener.getsockname()[1]


def test_an_occupied_port_names_who_holds_it(occupied: tuple[str, int]) -> None:
    host, port = occupied
    text = problem(host=host, port=port, origins={"port": "--mlc-port on the command line"})
    assert f"port = {port} (from --mlc-port on the command line)" in text
    assert "occupied" in text
    assert f"process {os.getpid()}" in text


def test_a_wildcard_host_finds_the_port_occupied(occupied: tuple[str, int]) -> None:
    host, port = occupied
    wildcard = "::" if ":" in host else "0.0.0.0"
    assert f"port {port} is occupied" in problem(host=wildcard, port=port)


def test_who_cannot_be_told_is_left_out(
    occupied: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = occupied
    monkeypatch.setattr("pytest_mlc_server.process.listener", lambda _: None)
    assert f"port {port} is occupied; stop that program" in problem(host=host, port=port)


def test_an_occupied_port_stops_the_start(
    occupied: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = occupied
    monkeypatch.setattr("pytest_mlc_server.launching.Lease", None)  # nothing may be started
    server = PopenServer(engines.mock_model(), host=host, port=port)
    with pytest.raises(ConfigError, match="occupied"):
        server.start()
    server.terminate()


def test_a_port_that_was_just_left_is_free() -> None:
    port = free_ports(1)  # nobody else gets it when this test leaves it
    with (
        socket.create_server(("127.0.0.1", port)) as listener,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        connection, _ = listener.accept()
        connection.close()  # this side closes first, and is left in TIME_WAIT
        assert client.recv(1) == b""
    preflight.check(config(port=port))


def test_a_port_that_this_user_may_not_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(self: socket.socket, address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    assert "may not bind port 80" in problem(port=80)


def test_a_host_that_is_not_of_this_machine() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = problem(host="203.0.113.1", port=port)  # an address reserved for documentation
    assert "host = '203.0.113.1'" in text
    assert "cannot bind" in text


def test_a_host_that_has_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert "host = 'no-such-host'" in problem(host="no-such-host", port=8082)


def test_a_port_that_the_server_chooses_cannot_be_occupied(occupied: tuple[str, int]) -> None:
    preflight.check(config(host=occupied[0], port="auto"))


def test_an_external_server_is_looked_at_by_nothing_here() -> None:
    preflight.check(config(engine=None, url="http://h:1", model="no/such/model"))


# --- overrides that a newer server knows ----------------------------------------------------------

SERVE = """
def override(parser):
    parser.add_argument("--a_newer_key", type=int, default=None)
    parser.add_argument(
        "--another_one",
        type=str,
    )
"""


@pytest.fixture
def newer_mlc_llm(tmp_path: Path) -> Path:
    """A directory with an ``mlc_llm`` whose source must be read, not imported."""
    package = tmp_path / "site" / "mlc_llm"
    (package / "cli").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "cli" / "serve.py").write_text(SERVE)
    return package.parent


def test_an_unknown_override_names_the_nearest_key() -> None:
    text = problem(overrides="max_num_sequense=4", origins={"overrides": "--mlc-overrides"})
    assert "overrides = {'max_num_sequense': '4'} (from --mlc-overrides)" in text
    assert "unknown key 'max_num_sequense'" in text
    assert "did you mean 'max_num_sequence'?" in text


@pytest.mark.parametrize("key", ["a_newer_key", "another_one"])
def test_a_key_that_the_installed_server_knows_is_accepted(
    key: str, newer_mlc_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"unknown key {key!r}" in problem(overrides={key: "4"})
    monkeypatch.syspath_prepend(newer_mlc_llm)
    preflight.check(config(overrides={key: "4"}))
    text = problem(overrides={key: "4", "still_unknown": "5"})
    assert "unknown key 'still_unknown'" in text
    assert "mlc_llm" not in sys.modules


def test_the_interpreter_that_will_serve_is_asked(newer_mlc_llm: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    path = f"PYTHONPATH={newer_mlc_llm} PYTHONDONTWRITEBYTECODE=1"
    python.write_text(f'#!/bin/sh\n{path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    preflight.check(config(python=python, overrides="a_newer_key=4"))
    preflight.check(config(python="./python", cwd=tmp_path, overrides="a_newer_key=4"))
    assert "'still_unknown'" in problem(python=python, overrides="still_unknown=4")


def test_an_interpreter_that_cannot_be_asked_knows_no_key(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    assert "unknown key 'a_newer_key'" in problem(python=python, overrides="a_newer_key=4")


def test_an_override_of_the_installed_server_passes_in_a_run(
    newer_mlc_llm: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        "def test_it(mlc_server_config): assert mlc_server_config.overrides == {'a_newer_key': '4'}"
    )
    refused = pytester.runpytest_inprocess("--mlc-overrides=a_newer_key=4")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    monkeypatch.syspath_prepend(newer_mlc_llm)
    pytester.runpytest_inprocess("--mlc-overrides=a_newer_key=4").assert_outcomes(passed=1)


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        preflight.check(
            config(model=tmp_path, python="/no/python", cwd=tmp_path, log_dir="/dev/null")
        )
    assert len(caught.value.problems) == 3


def test_contradictions_and_missing_files_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        PopenServer(
            str(tmp_path / "absent"), embedding_model=str(tmp_path / "e"), args=["--port=1"]
        )
    text = str(caught.value)
    assert "embedding_model_lib" in text
    assert "--mlc-port" in text
    assert f"there is no directory {tmp_path / 'absent'}" in text
