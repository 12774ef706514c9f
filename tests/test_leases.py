"""Whatever ends the holder of a server, the server is gone soon after."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pytest_mlc_server import PopenServer, guardian_process, process
from tests.conftest import WATCHDOG, await_, await_gone, await_text
from tests.support_server import STARTED, Kin, ask, facts, holding, kill, kin_of, linux
from tests.support_server import temporary as temporary

Servers = Callable[..., PopenServer]


# --- the end of the holder ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "returncode"),
    [
        pytest.param("", 0, id="return"),
        pytest.param("raise RuntimeError", 1, id="exception"),
        pytest.param("sys.exit(5)", 5, id="sys.exit"),
        pytest.param("os._exit(3)", 3, id="os._exit"),
        pytest.param("os.abort()", -signal.SIGABRT, id="abort"),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, id="SIGKILL"),
        pytest.param("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, id="SIGTERM"),
        pytest.param("os.kill(os.getpid(), signal.SIGHUP)", -signal.SIGHUP, id="SIGHUP"),
        pytest.param("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT, id="Ctrl-C"),
        pytest.param("os.execvp('true', ['true'])", 0, id="exec"),
    ],
)
def test_the_server_ends_in_order_with_its_holder(
    tmp_path: Path, end: str, returncode: int
) -> None:
    clean = tmp_path / "clean"
    with holding(tmp_path, STARTED + end, f"clean={clean}") as holder:
        kin = kin_of(tmp_path)
        assert holder.wait(WATCHDOG) == returncode
        kin.await_gone()
    assert clean.read_text() == "closed in order"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_server_that_still_starts_ends_with_its_holder(
    tmp_path: Path, number: signal.Signals
) -> None:
    started = tmp_path / "started"
    with holding(tmp_path, "make().start()", f"started={started}", "hang") as holder:
        await_(lambda: started.exists() and started.read_text().endswith("\n"), "the server")
        server = psutil.Process(int(started.read_text()))
        keeper = server.parent()
        assert keeper is not None
        kin = Kin(server.pid, keeper.pid, keeper.ppid())
        holder.send_signal(number)
        assert holder.wait(WATCHDOG) == -number
        kin.await_gone()


def test_a_holder_that_catches_ctrl_c_in_a_start_has_nothing_left(tmp_path: Path) -> None:
    started = tmp_path / "started"
    body = """
server = make()
try:
    server.start()
except KeyboardInterrupt:
    tell(alive=server.is_alive(), pid=server.pid, log=open(server.log_path).read())
    server.terminate()
    children = psutil.Process().children(recursive=True)
    tell("after", children=[child.pid for child in children])
"""
    with holding(tmp_path, body, f"started={started}", "hang", "say=last-words") as holder:
        await_(lambda: started.exists() and started.read_text().endswith("\n"), "the server")
        holder.send_signal(signal.SIGINT)
        told = facts(tmp_path)
        assert told["alive"] is False
        assert told["pid"] is None
        assert "stand-in: starting" in told["log"]
        assert facts(tmp_path, "after") == {"children": []}
    await_gone(int(started.read_text()))


def test_a_server_whose_handle_was_forgotten_ends(tmp_path: Path) -> None:
    body = STARTED + "server = None\ngc.collect()\nsignal.pause()\n"
    with holding(tmp_path, body) as holder:
        kin_of(tmp_path).await_gone()
        assert holder.poll() is None


def test_a_holder_that_is_killed_before_it_said_all_starts_nothing(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    log = str(tmp_path / "server.log")
    with ours, theirs:
        guardian = guardian_process.start(theirs, log)
        theirs.close()
        ours.sendall((1000).to_bytes(4, "big") + b"2\0touch\0")
    assert guardian.wait(WATCHDOG) == 0
    assert not (tmp_path / "server.log").exists()
    assert (tmp_path / "server.guardian.log").read_text() == ""


def test_a_holder_that_is_killed_after_the_command_line_leaves_no_server(tmp_path: Path) -> None:
    started = tmp_path / "started"
    body = f"""
from types import SimpleNamespace
from pytest_mlc_server import guardian_process, leases
guardians, start_guardian = [], guardian_process.start

def note(*arguments):
    guardians.append(start_guardian(*arguments))
    return guardians[-1]

def die(_):
    while not os.path.exists({str(started)!r}):
        time.sleep(0.005)
    tell(guardian=guardians[0].pid)
    os.kill(os.getpid(), signal.SIGKILL)

guardian_process.start = note
leases.json = SimpleNamespace(dumps=die)  # what it says next would be JSON
make().start()
"""
    with holding(tmp_path, body, f"started={started}", "hang") as holder:
        guardian = facts(tmp_path)["guardian"]
        assert holder.wait(WATCHDOG) == -signal.SIGKILL
        await_gone(guardian)
        await_gone(int(started.read_text()))


# --- holders that fork ----------------------------------------------------------------------------

FORK = """
child = os.fork()
if not child:
    tell("child", pid=os.getpid(), fds=len(os.listdir("/dev/fd")))
    signal.pause()
"""


def test_a_fork_that_inherited_the_descriptors_does_not_keep_the_server(tmp_path: Path) -> None:
    body = STARTED + FORK + "signal.pause()\n"
    with holding(tmp_path, body) as holder:
        kin, child = kin_of(tmp_path), facts(tmp_path, "child")["pid"]
        holder.kill()
        try:
            holder.wait(WATCHDOG)
            kin.await_gone()
            assert psutil.pid_exists(child)
        finally:
            kill(child)


@pytest.mark.parametrize("call", ["terminate", "release", "__exit__"])
def test_a_handle_in_a_forked_process_stops_nothing(tmp_path: Path, call: str) -> None:
    arguments = "(None, None, None)" if call == "__exit__" else "()"
    body = f"""{STARTED}
child = os.fork()
if not child:
    alive = server.is_alive()
    server.{call}{arguments}
    server.{call}{arguments}
    tell("child", alive=alive, after=server.is_alive())
    os._exit(0)
os.waitpid(child, 0)
tell("parent", alive=server.is_alive(), log=os.path.exists(server.log_path))
signal.pause()
"""
    with holding(tmp_path, body):
        kin = kin_of(tmp_path)
        assert facts(tmp_path, "child") == {"alive": True, "after": False}
        assert facts(tmp_path, "parent") == {"alive": True, "log": True}
        assert process.is_running(psutil.Process(kin.server))


def test_a_fork_can_hold_a_server_of_its_own(tmp_path: Path) -> None:
    body = f"""{STARTED}
if not os.fork():
    server.terminate()
    server.start()
    tell("child", **kin(server))
    os._exit(0)
os.wait()
tell("parent", alive=server.is_alive())
signal.pause()
"""
    with holding(tmp_path, body):
        mine, theirs = kin_of(tmp_path), Kin(**facts(tmp_path, "child"))
        assert mine.server != theirs.server
        theirs.await_gone()
        assert facts(tmp_path, "parent") == {"alive": True}


def test_a_fork_that_ends_does_not_end_the_server(tmp_path: Path) -> None:
    body = f"""{STARTED}
if not os.fork():
    sys.exit()
os.wait()
tell("parent", alive=server.is_alive())
signal.pause()
"""
    with holding(tmp_path, body):
        assert facts(tmp_path, "parent") == {"alive": True}


# --- holders of every kind ------------------------------------------------------------------------


def test_the_server_outlives_the_thread_that_started_it(standin: Servers) -> None:
    server = standin()
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join(WATCHDOG)
    thread_id = thread.native_id
    assert thread_id is not None
    await_(lambda: thread_id not in [t.id for t in psutil.Process().threads()], "the thread's end")
    assert ask(server)["usage"]["completion_tokens"] == 1
    assert server.is_alive()


def test_a_holder_with_thousands_of_open_files_is_served(tmp_path: Path) -> None:
    body = """
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (1600, most))
files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1500)]
server = make()
server.start()
alive = server.is_alive()
tell(alive=alive, **kin(server))
server.terminate()
"""
    with holding(tmp_path, body) as holder:
        told = facts(tmp_path)
        assert told.pop("alive") is True
        assert holder.wait(WATCHDOG) == 0
        Kin(**told).await_gone()


def test_whoever_waits_for_the_holders_output_does_not_wait_for_the_server(
    tmp_path: Path,
) -> None:
    # The server ignores the polite signals: it stays for long without its holder.
    body = STARTED.replace("make()", f"make({10 * WATCHDOG})") + "os._exit(0)\n"
    with holding(tmp_path, body, "stubborn", stdout=subprocess.PIPE) as holder:
        kin = kin_of(tmp_path)
        assert holder.communicate(timeout=WATCHDOG)[0] == ""
        assert process.is_running(psutil.Process(kin.server))
        os.kill(kin.keeper, signal.SIGKILL)
        kin.await_gone()


@linux
def test_a_holder_that_blocks_and_ignores_signals_is_served_like_any_other(
    tmp_path: Path,
) -> None:
    body = f"""
for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
server = make(stop_timeout={10 * WATCHDOG})
server.start()
tell(**kin(server))
server.terminate()
tell("end", returncode=server.returncode)
"""
    clean = tmp_path / "clean"
    with holding(tmp_path, body, f"clean={clean}") as holder:
        kin = kin_of(tmp_path)
        assert holder.wait(WATCHDOG) == 0
        kin.await_gone()
    # The holder did not wait for the time limit: the guardian has noticed the end by itself.
    assert facts(tmp_path, "end") == {"returncode": 0}
    assert clean.exists()


# --- the guardian itself is hit -------------------------------------------------------------------


@pytest.fixture
def daemon(tmp_path: Path) -> Path:
    return tmp_path / "daemon"


def test_the_death_of_the_keeper_ends_the_server_and_its_daemons(
    standin: Servers, daemon: Path
) -> None:
    server = standin(f"daemon={daemon}", "scrub")
    server.start()
    kin, grandchild = Kin.of(server), int(await_text(daemon))
    kill(kin.keeper)
    kin.await_gone()
    await_gone(grandchild)
    assert not server.is_alive()
    assert "pid" in repr(server)
    server.terminate()
    server.start()
    assert server.is_alive()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_without_its_watcher_the_keeper_goes_on(
    standin: Servers, daemon: Path, number: signal.Signals
) -> None:
    server = standin(f"daemon={daemon}", "scrub", stop_timeout=2.0)
    server.start()
    kin, grandchild = Kin.of(server), int(await_text(daemon))
    os.kill(kin.watcher, number)
    try:
        if number == signal.SIGKILL:
            await_gone(kin.watcher)
        assert server.is_alive()
        assert ask(server)["choices"]
        server.release()
        await_gone(kin.server)
        await_gone(grandchild)
        await_gone(kin.keeper)
    finally:
        kill(kin.watcher)


def test_without_any_guardian_the_holder_ends_what_is_left(standin: Servers, daemon: Path) -> None:
    server = standin(f"daemon={daemon}")
    server.start()
    kin, grandchild = Kin.of(server), int(await_text(daemon))
    kill(kin.watcher)
    kill(kin.keeper)
    await_gone(kin.server)  # the kernel sends this one's end; a daemon gets no such signal
    server.terminate()
    await_gone(grandchild)


@pytest.mark.parametrize("who", ["keeper", "watcher"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_polite_signal_to_the_guardian_stops_the_server_in_order(
    standin: Servers, tmp_path: Path, who: str, number: signal.Signals
) -> None:
    clean = tmp_path / "clean"
    server = standin(f"clean={clean}")
    server.start()
    kin = Kin.of(server)
    os.kill(getattr(kin, who), number)
    kin.await_gone()
    assert clean.exists()
    assert not server.is_alive()


def test_a_start_whose_guardian_is_killed_fails_at_once(standin: Servers, tmp_path: Path) -> None:
    started = tmp_path / "started"
    server = standin(f"started={started}", "hang")

    def kill_the_keeper() -> None:
        await_(lambda: started.exists() and started.read_text().endswith("\n"), "the server")
        kill(psutil.Process(int(started.read_text())).ppid())

    killer = threading.Thread(target=kill_the_keeper)
    killer.start()
    with pytest.raises(RuntimeError, match="did not start: the guardian process ended"):
        server.start()
    killer.join()
    await_gone(int(started.read_text()))
    assert not server.is_alive()


# --- letting go without waiting -------------------------------------------------------------------


def test_a_released_server_is_stopped_in_order_by_its_guardian(
    standin: Servers, tmp_path: Path
) -> None:
    clean = tmp_path / "clean"
    server = standin(f"clean={clean}")
    server.start()
    kin, log = Kin.of(server), Path(server.log_path or "")
    server.release()
    assert not server.is_alive()
    kin.await_gone()
    assert clean.exists()
    await_(lambda: not log.parent.exists(), "the removal of the temporary log")


def test_a_release_does_not_wait_for_a_server_that_ignores_signals(
    standin: Servers, tmp_path: Path
) -> None:
    server = standin("stubborn", stop_timeout=WATCHDOG)
    server.start()
    kin = Kin.of(server)
    server.release()
    assert process.is_running(psutil.Process(kin.server))
    kill(kin.keeper)
    kin.await_gone()
