from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pytest_mlc_server import process
from tests.conftest import await_, await_text

SLEEP = "import signal; signal.pause()"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-ISc", SLEEP]) as popen:
        yield popen
        popen.kill()


@pytest.mark.parametrize(
    ("returncode", "text"),
    [
        (None, "did not exit"),
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-signal.SIGSEGV, "killed by SIGSEGV (signal 11)"),
        (-signal.SIGKILL, "killed by SIGKILL (signal 9)"),
        (-40, "killed by signal 40"),
    ],
)
def test_an_exit_is_described_with_its_code_or_its_signal_by_name(
    returncode: int | None, text: str
) -> None:
    assert process.describe_exit(returncode) == text


def test_the_start_time_of_a_process_stays_and_differs_from_that_of_a_later_one(
    child: subprocess.Popen[bytes],
) -> None:
    mine = process.start_time(os.getpid())
    assert mine == process.start_time(os.getpid())
    if sys.platform.startswith("linux"):
        assert int(process.start_time(child.pid)) > int(mine)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_the_start_time_is_read_past_a_name_with_spaces_and_parentheses(tmp_path: Path) -> None:
    program = tmp_path / "a) b (c"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "1000"]) as popen:
        await_(lambda: psutil.Process(popen.pid).name() == program.name, "the exec")
        ticks = int(process.start_time(popen.pid))
        boot = psutil.boot_time()
        assert boot + ticks / os.sysconf("SC_CLK_TCK") == pytest.approx(
            psutil.Process(popen.pid).create_time(), abs=2
        )
        popen.kill()


def test_there_is_no_start_time_without_a_process(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    assert process.start_time(child.pid) == ""


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_listening_sockets_are_found_with_address_and_port(
    family: socket.AddressFamily, host: str
) -> None:
    with socket.socket(family) as listener:
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip(f"no address {host} here")
        port = listener.getsockname()[1]
        assert (host, port) not in process.listening([os.getpid()])
        listener.listen()
        assert (host, port) in process.listening([os.getpid()])


def test_a_socket_that_two_processes_of_a_tree_share_is_listed_once(tmp_path: Path) -> None:
    code = (
        "import os, signal, socket, sys\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "child = os.fork()\n"
        "if child:\n"
        "    open(sys.argv[1] + '.part', 'w').write(f'{child} {s.getsockname()[1]}')\n"
        "    os.rename(sys.argv[1] + '.part', sys.argv[1])\n"
        "    os.waitpid(child, 0)\n"
        "signal.pause()\n"
    )
    facts = tmp_path / "facts"
    with subprocess.Popen([sys.executable, "-ISc", code, str(facts)]) as popen:
        child, port = map(int, await_text(facts).split())
        assert process.listening([popen.pid, child]) == [("127.0.0.1", port)]
        os.kill(child, signal.SIGKILL)
        popen.kill()


def test_processes_that_ended_listen_nowhere(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    assert process.listening([child.pid]) == []


def test_who_listens_on_a_port_is_named_with_its_command() -> None:
    code = "import socket, signal; s = socket.create_server(('127.0.0.1', 0)); "
    code += "print(s.getsockname()[1], flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-ISc", code], stdout=subprocess.PIPE) as popen:
        assert popen.stdout is not None
        port = int(popen.stdout.readline())
        found = process.listener(port)
        popen.kill()
    assert found is not None
    assert found.startswith(f"process {popen.pid}: {sys.executable} -ISc import socket")


def test_nobody_is_named_for_a_port_on_which_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # taken, so that nobody else listens on it, but not listening
        assert process.listener(bound.getsockname()[1]) is None


def test_marked_processes_are_found_by_their_environment() -> None:
    mark = f"mark-{os.getpid()}"
    environment = {**os.environ, process.MARK: mark}
    with subprocess.Popen([sys.executable, "-ISc", SLEEP], env=environment) as popen:
        await_(lambda: process.marked(mark), "the marked process")
        assert [one.pid for one in process.marked(mark)] == [popen.pid]
        assert process.marked(mark[:-1]) == []
        process.kill(process.marked(mark))
        assert popen.wait() == -signal.SIGKILL
        assert process.marked(mark) == []


def test_a_zombie_is_no_descendant_and_does_not_run(child: subprocess.Popen[bytes]) -> None:
    handle = psutil.Process(child.pid)
    assert child.pid in [one.pid for one in process.descendants(os.getpid())]
    assert process.is_running(handle)
    assert not process.has_ended(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert child.pid not in [one.pid for one in process.descendants(os.getpid())]
    assert not process.is_running(handle)
    assert process.has_ended(child.pid)
    child.wait()
    assert not process.is_running(handle)
    assert process.has_ended(child.pid)


def test_a_process_that_ended_has_no_descendants_and_can_be_killed_again(
    child: subprocess.Popen[bytes],
) -> None:
    handle = psutil.Process(child.pid)
    process.kill([handle])
    assert child.wait() == -signal.SIGKILL
    process.kill([handle])
    assert process.descendants(child.pid) == []
