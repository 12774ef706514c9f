"""Whatever ends pytest, its servers are gone soon after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.conftest import STANDIN, WATCHDOG, await_, await_gone
from tests.support_plugin import WAIT_FOR_EVER, Suite, is_free

#: A test that says where its server is, and then keeps pytest busy.
BUSY = f"""
    import os, time

    def test_busy(mlc_server):
        name = os.environ.get("PYTEST_XDIST_WORKER", "main")
        with open(f"{{name}}.part", "w") as file:
            file.write(f"{{os.getpid()}} {{mlc_server.port}}")
        os.replace(f"{{name}}.part", name)
        {WAIT_FOR_EVER}

    def test_busy_too(mlc_server):
        test_busy(mlc_server)
    """


def await_free(*ports: int) -> None:
    """Wait until ports are free: after their server's end, the system may lend them to others."""
    for port in ports:
        await_(partial(is_free, port), f"the end of what uses port {port}")


def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a run; nobody who waits for its output may wait any longer."""
    return process.wait(WATCHDOG)


def await_sheet(suite: Suite, name: str = "main") -> tuple[int, int]:
    """Wait until a busy test has its server; return the pid of its process and the port."""
    pid, port = suite.await_file(name).split()
    return int(pid), int(port)


def interrupt_group(pid: int) -> None:
    """Do what Ctrl-C in a terminal does."""
    os.killpg(pid, signal.SIGINT)


def send(number: signal.Signals) -> Callable[[int], None]:
    """Return a function that sends a signal to one process."""
    return lambda pid: os.kill(pid, number)


ENDS = [
    pytest.param(interrupt_group, id="ctrl-c"),
    *(
        pytest.param(send(number), id=number.name)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
    ),
]


@pytest.mark.parametrize("end", ENDS)
def test_while_a_test_runs(suite: Suite, end: Callable[[int], None]) -> None:
    suite.tests(BUSY)
    process = suite.begin()
    _, port = await_sheet(suite)
    end(process.pid)
    assert ended(process) != 0
    (pid,) = suite.starts
    await_gone(pid)
    await_(lambda: is_free(port), f"the end of the listener on port {port}")


@pytest.mark.parametrize("end", ENDS)
def test_while_the_server_starts(suite: Suite, end: Callable[[int], None]) -> None:
    suite.tests(BUSY)
    process = suite.begin(orders="hang")
    pid = suite.await_start()
    end(process.pid)
    assert ended(process) != 0
    await_gone(pid)


#: The stand-in behind a handler that leaves a file and goes on: its stop is in progress then.
ASKED = f"""
import runpy, signal

def note(*_):
    open("asked", "w").close()

signal.signal(signal.SIGINT, note)
runpy.run_path({str(STANDIN / "mlc_llm" / "__main__.py")!r}, run_name="__main__")
"""


@pytest.mark.parametrize("end", ENDS)
def test_while_the_server_is_being_stopped(suite: Suite, end: Callable[[int], None]) -> None:
    package = suite.path / "slow" / "mlc_llm"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(ASKED)
    suite.tests("def test_green(mlc_server): pass")
    settings = [*suite.settings(), f"--mlc-env=PYTHONPATH={package.parent}"]
    process = suite.spawn(
        [sys.executable, "-m", "pytest", "-p", "mlc_server", *settings, "--mlc-stop-timeout=2"]
    )
    suite.await_file("asked")
    end(process.pid)
    ended(process)
    (pid,) = suite.starts
    await_gone(pid)


#: It ends the process from a thread. The start of the server is not what it is for.
TIMEOUT = [
    "-p",
    "timeout",
    "--timeout=1",
    "--timeout-method=thread",
    "-o",
    "timeout_func_only=true",
]


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        ("pytest.exit('enough')", []),
        ("raise KeyboardInterrupt", []),
        ("raise SystemExit(3)", ["-x"]),
        ("assert False", ["-x"]),
        ("os._exit(0)", []),
        (WAIT_FOR_EVER, TIMEOUT),
    ],
)
def test_when_a_test_ends_the_run(suite: Suite, statement: str, arguments: Sequence[str]) -> None:
    if "timeout" in arguments:
        pytest.importorskip("pytest_timeout")
    suite.tests(
        f"""
        import os, time
        import pytest

        def test_ends(mlc_server):
            with open("port", "w") as file:
                file.write(str(mlc_server.port))
            {statement}
        """
    )
    ended(suite.begin(*arguments))
    (pid,) = suite.starts
    await_gone(pid)
    await_free(int((suite.path / "port").read_text()))


def test_a_forked_child_that_lives_on_does_not_keep_the_server(suite: Suite) -> None:
    suite.tests(
        """
        import os, signal, time, warnings

        def test_forks(mlc_server):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads
                child = os.fork()
            if child == 0:
                while True:
                    time.sleep(0.02)
            with open("child", "w") as file:
                file.write(str(child))
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert ended(suite.begin()) == -signal.SIGKILL
    child = psutil.Process(int((suite.path / "child").read_text()))
    try:
        (pid,) = suite.starts
        await_gone(pid)
        assert child.is_running()
    finally:
        child.kill()


def test_killed_workers_take_their_servers_along(suite: Suite) -> None:
    suite.tests(BUSY)
    process = suite.begin("-p", "xdist", "-n2", "--max-worker-restart=0")
    ports = dict(await_sheet(suite, name) for name in ("gw0", "gw1"))
    for worker, port in ports.items():
        os.kill(worker, signal.SIGKILL)
        await_(partial(is_free, port), "the end of the killed worker's server")
    interrupt_group(process.pid)
    assert ended(process) != 0
    suite.await_nothing_left()
    await_free(*ports.values())


@pytest.mark.parametrize("end", [ENDS[0], ENDS[-1]])
def test_an_xdist_controller_takes_all_servers_along(
    suite: Suite, end: Callable[[int], None]
) -> None:
    suite.tests(BUSY)
    process = suite.begin("-p", "xdist", "-n2")
    ports = [await_sheet(suite, name)[1] for name in ("gw0", "gw1")]
    end(process.pid)
    assert ended(process) != 0
    assert len(suite.starts) == 2
    suite.await_nothing_left()
    await_free(*ports)


def test_after_ctrl_c_a_hurried_run_leaves_no_temporary_log(suite: Suite) -> None:
    suite.tests(BUSY)
    process = suite.begin()
    await_sheet(suite)
    interrupt_group(process.pid)
    assert ended(process) == pytest.ExitCode.INTERRUPTED
    suite.await_nothing_left()
    await_(lambda: suite.left() == [], "the removal of the temporary log")


@pytest.mark.parametrize("workers", [0, 2])
def test_after_ctrl_c_pytest_does_not_wait_for_the_end_of_its_servers(
    suite: Suite, workers: int
) -> None:
    suite.tests(BUSY)
    parallel = ["-p", "xdist", f"-n{workers}"] if workers else []
    # Its servers take longer to stop than this test is willing to wait.
    limit = f"--mlc-stop-timeout={3 * WATCHDOG:g}"
    process = suite.begin(limit, *parallel, orders="stubborn")
    for name in [f"gw{n}" for n in range(workers)] or ["main"]:
        await_sheet(suite, name)
    interrupt_group(process.pid)
    assert ended(process) == pytest.ExitCode.INTERRUPTED
    assert len(suite.starts) == max(1, workers)
    for pid in suite.starts:
        os.kill(pid, signal.SIGKILL)  # it is there


def test_nobody_who_reads_pytests_output_waits_for_the_server(suite: Suite, tmp_path: Path) -> None:
    suite.tests(
        """
        import os, signal

        def test_dies(mlc_server):
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    command = [sys.executable, "-m", "pytest", "-p", "mlc_server", *suite.settings("stubborn")]
    # Its server takes longer to stop than this test is willing to wait.
    command.append(f"--mlc-stop-timeout={3 * WATCHDOG:g}")
    done = subprocess.run(
        command, cwd=suite.path, capture_output=True, timeout=WATCHDOG, check=False
    )
    assert done.returncode == -signal.SIGKILL
    (pid,) = suite.starts
    os.kill(pid, signal.SIGKILL)
    await_gone(pid)
