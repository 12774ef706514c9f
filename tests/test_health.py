"""Alive is not working: what a handle finds out about its server, and how it gets a new one."""

from __future__ import annotations

import queue
import re
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from pytest_mlc_server import PopenServer, StartError
from pytest_mlc_server.guardian import probe
from pytest_mlc_server.guardian.check import Check
from tests.conftest import WATCHDOG, await_, await_gone, await_text
from tests.support_plugin import free_ports
from tests.support_server import Kin, ask, linux
from tests.support_server import temporary as temporary

Servers = Callable[..., PopenServer]

#: Signals that a real server ignores while it is wedged with a request pending.
DEAF = ("stubborn",)


class Asker:
    """A client that waits for an answer in a thread of its own."""

    def __init__(self, server: PopenServer, prompt: str) -> None:
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._ask, args=(server, prompt), daemon=True)
        self._thread.start()

    def _ask(self, server: PopenServer, prompt: str) -> None:
        try:
            ask(server, prompt)
        except Exception as error:
            self.error = error

    def await_closed(self) -> None:
        """Wait for the end: a closed connection, neither an answer nor a time-out."""
        self._thread.join(WATCHDOG)
        assert isinstance(self.error, requests.ConnectionError), self.error


def start(server: PopenServer) -> PopenServer:
    server.start()
    assert server.poll() == "ready"
    assert server.trouble == ""
    return server


def await_state(server: PopenServer, state: str) -> None:
    await_(lambda: server.poll() != "ready", "another state")
    assert server.poll() == state


def hurt(server: PopenServer, prompt: str, seen: Path) -> Asker:
    """Send a prompt that gets no answer, and wait until the server has it."""

    def requests_seen() -> int:
        return seen.read_text().count("python-requests")

    before = requests_seen()
    asker = Asker(server, prompt)
    await_(lambda: requests_seen() > before, "the request")
    return asker


# --- found ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "ending", "returncode"),
    [("crash", "killed by SIGSEGV (signal 11)", -11), ("exit", "exit code 0", 0)],
)
def test_a_process_that_ends_is_found_without_asking(
    standin: Servers, prompt: str, ending: str, returncode: int
) -> None:
    server = start(standin())
    ask(server)
    with pytest.raises(requests.ConnectionError):
        ask(server, prompt)
    await_state(server, "exited")
    assert server.check() == "exited"
    assert (server.returncode, server.is_alive(), server.died) == (returncode, False, True)
    assert server.trouble == (
        f"the server's process ended ({ending})\n"
        'last request that it logged: "POST /v1/completions HTTP/1.1"'
    )


def test_a_dead_engine_is_found_in_the_log_and_its_process_killed_at_once(
    standin: Servers, tmp_path: Path
) -> None:
    seen = tmp_path / "requests"
    server = start(standin(*DEAF, f"requests={seen}", stop_timeout=20.0))
    pid = server.pid
    assert pid is not None
    asker = Asker(server, "wedge")
    await_state(server, "wedged")
    assert server.trouble.splitlines() == [
        "the server is wedged: its process lives, and generates nothing any more",
        "RuntimeError: Cannot open params_shard_0.bin",
        "1. first advice",
        "2. second advice",
        'last request that it logged: "POST /v1/completions HTTP/1.1"',
    ]
    await_gone(pid)
    asker.await_closed()
    # The evidence was there: nobody asked the server anything.
    assert seen.read_text().count("probe") == 2  # those of the start


@pytest.mark.parametrize("prompt", ["wedge-silently", "wedge-with-metrics"])
def test_a_silent_one_is_found_by_a_probe(standin: Servers, prompt: str, tmp_path: Path) -> None:
    seen = tmp_path / "requests"
    server = start(standin(*DEAF, f"requests={seen}", stop_timeout=20.0))
    pid = server.pid
    assert pid is not None
    ask(server)
    asker = hurt(server, prompt, seen)
    assert server.poll() == "ready"
    assert server.check(deadline=0.2) == server.poll() == "wedged"
    assert "neither its log nor its metrics moved" in server.trouble
    assert server.trouble.endswith('last request that it logged: "POST /v1/completions HTTP/1.1"')
    await_gone(pid)
    asker.await_closed()
    server.terminate()  # at once as well: the stop timeout is longer than the watchdog


@pytest.mark.parametrize("prompt", ["busy", "busy-by-log"])
def test_a_slow_server_that_makes_progress_is_not_wedged(
    standin: Servers, prompt: str, tmp_path: Path
) -> None:
    seen = tmp_path / "requests"
    server = start(standin(f"requests={seen}", stop_timeout=0))
    pid = server.pid
    asker = hurt(server, prompt, seen)
    # A line of the log must come within each time limit; the metrics tell when they are asked.
    assert server.check(deadline=0.1 if prompt == "busy" else 0.4) == "busy"
    assert (server.poll(), server.pid, server.trouble) == ("ready", pid, "")
    assert server.is_alive()
    assert asker.error is None
    server.terminate()
    asker.await_closed()


def test_a_server_that_works_says_so(standin: Servers, tmp_path: Path) -> None:
    seen = tmp_path / "requests"
    server = standin(f"requests={seen}")
    assert server.check() == server.poll() == "stopped"
    start(server)
    before = seen.read_text().count("completions")
    assert server.poll() == "ready"
    assert seen.read_text().count("completions") == before
    assert server.check() == "ready"
    assert seen.read_text().count("completions") == before + 1
    server.terminate()
    assert server.check() == "stopped"


def test_an_answer_that_is_no_token_is_an_answer(standin: Servers, tmp_path: Path) -> None:
    gate = tmp_path / "requests"
    server = start(standin("generate-status=500", f"requests={gate}", ready="http"))
    assert server.check() == "ready"  # /v1/models is all that it was asked for
    assert server.poll() == "ready"


def test_of_one_that_refuses_connections_the_end_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_mlc_server.guardian.check.END_WITHIN", WATCHDOG)
    looked, ended, verdicts = threading.Event(), threading.Event(), queue.SimpleQueue[str]()

    def look() -> bool:
        looked.set()
        return ended.is_set()

    expected: probe.Expected = {"model": "m", "api_key": None, "generate": True}
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        log = str(tmp_path / "log")
        Check(
            bound.getsockname(), expected, log, WATCHDOG, look, lambda *told: verdicts.put(told[1])
        )
        assert looked.wait(WATCHDOG)
        assert verdicts.empty()
        ended.set()
        assert verdicts.get(timeout=WATCHDOG) == "ready"


# --- started again --------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", "exit", "wedge"])
def test_a_restart_keeps_the_handle_the_port_and_the_log(
    standin: Servers, prompt: str, tmp_path: Path
) -> None:
    server = start(standin(log_dir=tmp_path / "logs"))
    before = (server.port, server.base_url, server.openai_v1_base_url, server.log_path)
    pid = server.pid
    assert pid is not None
    if prompt:
        with pytest.raises(requests.ConnectionError):
            ask(server, prompt)
        await_(lambda: server.poll() != "ready", "the news")
    server.restart()
    assert (server.port, server.base_url, server.openai_v1_base_url, server.log_path) == before
    assert server.pid not in (None, pid)
    assert (server.poll(), server.trouble, server.returncode) == ("ready", "", None)
    assert server.restarts == 1
    assert server.startup_seconds
    assert ask(server)["choices"]
    await_gone(pid)
    (log,) = (log for log in (tmp_path / "logs").iterdir() if "guardian" not in log.name)
    old, separator, new = re.split(r"^--- (.*) ---$", log.read_text(), flags=re.MULTILINE)
    reasons = {"": "restart was asked for", "exit": "exit code 0", "wedge": "wedged"}
    assert separator == f"{reasons[prompt]}; started again"
    assert old.count("Uvicorn running") == new.count("Uvicorn running") == 1


def test_a_working_server_is_stopped_in_order_before_it_is_started_again(
    standin: Servers, tmp_path: Path
) -> None:
    clean = tmp_path / "clean"
    server = start(standin(f"clean={clean}"))
    server.restart()
    assert await_text(clean) == "closed in order"


def test_a_server_may_be_restarted_many_times(standin: Servers) -> None:
    server = start(standin())
    url, pids = server.base_url, {server.pid}
    for _ in range(3):
        server.restart()
        pids.add(server.pid)
    assert len(pids) == 4
    assert (server.base_url, server.restarts) == (url, 3)
    kin = Kin.of(server)
    server.terminate()
    kin.await_gone()


def test_the_key_and_the_environment_are_those_of_the_first_start(standin: Servers) -> None:
    server = standin(api_key="sk-s3cret", env={"ONE": "env"})
    server.start(extra_env={"TWO": "extra"})
    server.restart()
    with pytest.raises(requests.HTTPError, match="401"):
        requests.get(f"{server.openai_v1_base_url}/models", timeout=WATCHDOG).raise_for_status()
    environment = ask(server, "environment")["environment"]
    assert (environment["ONE"], environment["TWO"]) == ("env", "extra")


def occupy(server: PopenServer) -> socket.socket:
    """Take the port of a server that has ended."""
    return socket.create_server(("127.0.0.1", int(server.port)))


def test_a_port_that_was_taken_meanwhile_is_another_one_with_a_warning(standin: Servers) -> None:
    server = start(standin())
    assert server.pid is not None
    psutil.Process(server.pid).send_signal(signal.SIGKILL)
    await_state(server, "exited")
    with occupy(server) as other:
        taken = other.getsockname()[1]
        with pytest.warns(UserWarning, match=f"could not have port {taken} again"):
            server.restart()
        assert server.port != taken
        assert server.base_url.endswith(f":{server.port}")
        assert ask(server)["choices"]


def test_a_given_port_that_was_taken_meanwhile_is_an_error(standin: Servers) -> None:
    server = start(standin(port=free_ports(1)))
    assert server.pid is not None
    psutil.Process(server.pid).send_signal(signal.SIGKILL)
    await_state(server, "exited")
    with occupy(server), pytest.raises(StartError, match="took the port"):
        server.restart()
    assert server.poll() == "stopped"
    assert not server.is_alive()


def test_a_restart_that_fails_leaves_nothing(standin: Servers, tmp_path: Path) -> None:
    started = tmp_path / "started"
    server = start(standin(f"started={started}", "starts=1"))
    kin = Kin.of(server)
    with pytest.raises(StartError, match=r"exit code 3[^$]*enough starts"):
        server.restart()
    assert (server.poll(), server.pid, server.is_alive()) == ("stopped", None, False)
    for pid in map(int, started.read_text().split()):
        await_gone(pid)
    kin.await_gone()
    with pytest.raises(StartError, match="no server of this process to restart"):
        server.restart()


def test_what_was_never_started_cannot_be_restarted(standin: Servers) -> None:
    with pytest.raises(StartError, match="no server of this process to restart"):
        standin().restart()


def test_an_external_server_is_not_restarted(standin: Servers) -> None:
    server = start(standin())
    external = PopenServer(None, url=server.base_url)
    with external:
        assert external.poll() == external.check() == "ready"
        with pytest.raises(StartError):
            external.restart()
    assert server.check() == "ready"


@linux
def test_a_guardian_that_was_killed_is_replaced(standin: Servers) -> None:
    server = start(standin())
    kin, url = Kin.of(server), server.base_url
    psutil.Process(kin.keeper).kill()
    await_state(server, "exited")
    assert "its guardian process was killed" in server.trouble
    server.restart()
    kin.await_gone()
    assert (server.base_url, server.poll()) == (url, "ready")
    assert ask(server)["choices"]
    assert "started again ---" in Path(str(server.log_path)).read_text()


def test_grandchildren_of_a_server_that_died_do_not_outlive_it(
    standin: Servers, tmp_path: Path
) -> None:
    daemon: Any = tmp_path / "daemon"
    server = start(standin(f"daemon={daemon}"))
    grandchild = int(await_text(daemon))
    daemon.unlink()
    with pytest.raises(requests.ConnectionError):
        ask(server, "exit")
    await_gone(grandchild)
    server.restart()
    assert int(await_text(daemon)) != grandchild
