"""What counts as ready, and for whom."""

from __future__ import annotations

import _ctypes
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pytest_mlc_server import PopenServer, StartError
from tests.conftest import await_text
from tests.support_plugin import free_ports
from tests.support_server import ask
from tests.support_server import temporary as temporary

Servers = Callable[..., PopenServer]


def requests_logged(server: PopenServer) -> list[str]:
    lines = Path(server.log_path or "").read_text().splitlines()
    return [line.split('"')[1].rpartition(" ")[0] for line in lines if " HTTP/1.1" in line]


def test_ready_means_that_one_generated_token_came_back(standin: Servers) -> None:
    server = standin()
    server.start()
    assert requests_logged(server) == ["GET /v1/models", "POST /v1/completions"]
    assert server.probe_usage["completion_tokens"] == 1


def test_ready_http_asks_for_the_list_of_models_alone(standin: Servers) -> None:
    server = standin("generate-status=500", ready="http")
    server.start()
    assert requests_logged(server) == ["GET /v1/models"]
    assert server.probe_usage == {}


@pytest.mark.parametrize("relative", [False, True])
def test_a_server_that_only_embeds_need_not_generate(
    standin: Servers, model_dir: str, tmp_path: Path, relative: bool
) -> None:
    model = tmp_path / "embedder"
    shutil.copytree(model_dir, model)
    config = model / "mlc-chat-config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_task": "embedding"}))
    if relative:
        server = standin("generate-status=500", model="embedder", cwd=tmp_path)
    else:
        server = standin("generate-status=500", model=str(model))
    server.start()
    assert requests_logged(server) == ["GET /v1/models"]


def test_a_chat_model_beside_an_embedding_model_still_generates(
    standin: Servers, model_dir: str, tmp_path: Path
) -> None:
    library = tmp_path / "embedder.so"
    # All that can be seen of a library without loading it is how it begins.
    library.write_bytes(Path(_ctypes.__file__).read_bytes())
    server = standin(embedding_model=model_dir, embedding_model_lib=str(library))
    server.start()
    assert requests_logged(server) == ["GET /v1/models", "POST /v1/completions"]


def test_a_server_that_listens_late_is_waited_for(standin: Servers) -> None:
    server = standin("delay=0.5")
    server.start()
    assert server.startup_seconds is not None
    assert server.startup_seconds > 0.5


class _Answers(BaseHTTPRequestHandler):
    """A program that looks like the server that somebody waits for."""

    def do_GET(self) -> None:
        model = self.server.model  # type: ignore[attr-defined]
        data = json.dumps({"object": "list", "data": [{"id": model}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def impostor(model: str, address: tuple[str, int]) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(address, _Answers) as server:
        server.model = model  # type: ignore[attr-defined]
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_another_program_that_takes_the_port_meanwhile_is_not_taken_for_the_server(
    standin: Servers, tmp_path: Path, model_dir: str
) -> None:
    port = free_ports(1)
    started = tmp_path / "started"
    taken = tmp_path / "taken"
    orders = (f"started={started}", f"wait={taken}")
    server = standin(*orders, port=port, log_dir=tmp_path, ready="http")
    errors: list[BaseException] = []

    def start() -> None:
        try:
            server.start()
        except StartError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    await_text(started)
    with impostor(model_dir, ("127.0.0.1", port)):
        taken.touch()
        thread.join()
    (error,) = errors
    assert "its process ended (exit code 3)" in str(error)
    assert "use --mlc-port auto" in str(error)
    assert not server.is_alive()


def test_a_server_that_its_program_starts_as_a_child_is_found(
    standin: Servers, tmp_path: Path
) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_text(
        "#!/bin/sh\n"
        "python3=$(dirname $0)/python\n"
        f'"$python3" "$@" &\necho $! > {tmp_path}/child\nwait\n'
    )
    launcher.chmod(0o755)
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    server = standin(python=launcher, stop_timeout=1.0)
    server.start()
    child = int((tmp_path / "child").read_text())
    assert server.pid != child
    assert ask(server)["choices"]
    server.terminate()
    with pytest.raises(ProcessLookupError):
        os.kill(child, signal.SIGTERM)
