"""Inner pytest runs against the stand-in server, and what they leave behind."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import await_, await_gone, standin_env

#: An order that keeps a test, and with it pytest, busy until a signal comes. Short sleeps, because
#: a thread that asks the main thread to end (as execnet does) does not wake a longer one.
WAIT_FOR_EVER = "while True: time.sleep(0.02)"


#: Arguments of all inner runs: no warning goes unseen. Of the plugins that are installed they load
#: ours alone, by the name of its entry point: loading the others takes longer than the tests.
PLAIN = ("-p", "mlc_server", "-W", "error")


class Suite:
    """A test suite of its own in a fresh directory, whose ``mlc_llm`` is the stand-in.

    Attributes
    ----------
    path
        The directory.
    temporary
        What the runs find in ``TMPDIR``.
    """

    def __init__(self, pytester: pytest.Pytester, model: str) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self.model = model
        self.temporary = self.path / "temporary"
        self.temporary.mkdir()
        self._record = self.path / "started.txt"
        self._processes: list[subprocess.Popen[bytes]] = []

    def settings(self, orders: str = "") -> list[str]:
        """Return the flags that select the stand-in, which obeys the orders."""
        variables = (f"--mlc-env={variable}" for variable in self.variables(orders))
        return [f"--mlc-model={self.model}", *variables]

    def variables(self, orders: str = "") -> list[str]:
        """Return the environment that makes ``mlc_llm`` the stand-in, as ``NAME=value``."""
        environment = standin_env(f"started={self._record}", orders)
        return [f"{name}={value}" for name, value in environment.items()]

    def left(self) -> list[Path]:
        """Return what the runs left; the user's own directory stays, with what `auto` means."""
        own = self.temporary / f"pytest-mlc-server-{os.getuid()}"
        kept = (own, own / "devices")
        return [p for p in self.temporary.rglob("*") if p not in kept and p.parent != kept[1]]

    @property
    def starts(self) -> list[int]:
        """Process ids of all servers that were started so far, in the order of their starts."""
        if not self._record.exists():
            return []
        # The last line may be half written.
        return [int(line) for line in self._record.read_text().rpartition("\n")[0].split()]

    @property
    def left_logs(self) -> list[Path]:
        """Logs in the runs' ``TMPDIR``, without those of guardians."""
        logs = self.temporary.glob("pytest-mlc-server-*/*.log")
        return sorted(log for log in logs if not log.name.endswith(".guardian.log"))

    def write(self, **files: str) -> None:
        """Write modules: the keyword is the name, without ``.py``."""
        self.pytester.makepyfile(**files)

    def tests(self, source: str) -> None:
        """Write the only test module."""
        self.pytester.makepyfile(test_it=source)

    def run(self, *args: str, orders: str = "") -> pytest.RunResult:
        """Run pytest with the stand-in configured, and wait for its end."""
        return self.run_bare(*self.settings(orders), *args)

    def run_bare(self, *args: str) -> pytest.RunResult:
        """Run pytest with nothing configured, and wait for its end."""
        skip_without_xdist(args)
        return self.pytester.runpytest_inprocess(*PLAIN, *args)

    def begin(self, *args: str, orders: str = "") -> subprocess.Popen[bytes]:
        """Begin a pytest run with the stand-in configured, in a process group of its own."""
        return self.spawn([sys.executable, "-m", "pytest", *PLAIN, *self.settings(orders), *args])

    def spawn(
        self, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Begin a process in this directory, with its output in the file ``output.txt``."""
        skip_without_xdist(command)
        with (self.path / "output.txt").open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.path,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    @property
    def output(self) -> str:
        """What the processes of `spawn` and `begin` have said."""
        return (self.path / "output.txt").read_text()

    def await_event(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until a condition holds while the latest process of `spawn` or `begin` runs."""

        def ended_or_met() -> Any:
            ended = self._processes[-1].poll() is not None
            return condition() or ended

        await_(ended_or_met, what)
        met = condition()
        if not met:
            pytest.fail(f"it ended before there was {what}:\n{self.output}")
        return met

    def await_file(self, name: str) -> str:
        """Wait for a file that a test writes whole or not at all, and return what it says."""
        path = self.path / name
        self.await_event(path.exists, f"the file {name}")
        return path.read_text()

    def await_start(self) -> int:
        """Wait until a server was started, and return its process id."""
        first: int = self.await_event(lambda: self.starts[:1], "a started server")[0]
        return first

    def await_nothing_left(self) -> None:
        """Wait until no server of these runs is alive."""
        for pid in self.starts:
            await_gone(pid)

    def close(self) -> None:
        """End what a failed test left, and check that no run left a server."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.await_nothing_left()


def make_suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, model_dir: str) -> Suite:
    """Make a suite whose runs keep their temporary files below its directory."""
    suite = Suite(pytester, model_dir)
    monkeypatch.setenv("TMPDIR", str(suite.temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return suite


@pytest.fixture
def suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, model_dir: str
) -> Iterator[Suite]:
    """An empty test suite whose ``mlc_llm`` is the stand-in; at the end, no server may be left."""
    suite = make_suite(pytester, monkeypatch, model_dir)
    yield suite
    suite.close()


def skip_without_xdist(arguments: Sequence[str]) -> None:
    """Skip a test whose inner run would load pytest-xdist, where it is not installed."""
    if "xdist" in arguments:
        pytest.importorskip("xdist", reason="pytest-xdist is not installed")


def is_free(port: int) -> bool:
    """Tell whether a server could bind a port now."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> int:
    """Return the first of so many free ports in a row, which the system gives to nobody else."""
    draw: Any = random.SystemRandom()  # not the generator that a plugin seeds for all workers alike

    def some() -> int:
        first: int = draw.randrange(11000, 32000)
        return first if all(is_free(first + n) for n in range(count)) else 0

    port: int = await_(some, "free ports")
    return port
