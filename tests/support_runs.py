"""For inner runs whose pytest-xdist workers share servers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import WATCHDOG, await_
from tests.support_plugin import WAIT_FOR_EVER, Suite

#: Arguments of a run whose workers share their servers.
RUN = ("-p", "xdist", "--mlc-scope=run")

#: Every test leaves a fact sheet; `meet` lets no worker go on before all have their server.
CONFTEST = """
    import json, os, time
    import pytest

    WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
    COUNT = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

    def leave(name, **facts):
        with open(f"{name}.part", "w") as file:
            json.dump(facts, file)
        os.replace(f"{name}.part", name)

    def wait_for(*names):
        while not all(os.path.exists(name) for name in names):
            time.sleep(0.01)

    @pytest.fixture
    def sheet(request, mlc_server):
        facts = {"pid": mlc_server.pid, "port": mlc_server.port, "key": mlc_server.api_key,
                 "worker": WORKER}
        leave(f"sheet-{WORKER}-{request.node.name}", **facts)
        return facts

    @pytest.fixture
    def meet(sheet):
        leave(f"here-{WORKER}")
        wait_for(*(f"here-gw{n}" for n in range(COUNT)))
    """

#: Tests that keep all workers busy once they have their server.
BUSY = f"""
    import os, time
    import pytest

    @pytest.mark.parametrize("n", range(4))
    def test_busy(meet, n):
        {WAIT_FOR_EVER}
    """


#: `wait_for_start` fails a run in which nothing starts, instead of letting it hang.
EARLY = f"""
    import os, pathlib, time
    import pytest

    def pids():
        path = pathlib.Path("started.txt")
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def wait_for_start(count=1):
        deadline = time.monotonic() + {WATCHDOG / 2}
        while len(pids()) < count:
            assert time.monotonic() < deadline, "no server was started"
            time.sleep(0.01)

    def started():
        return pids() != []
    """

#: The second test uses a server; the first finds out whether it was started before.
BEFORE = """
    from conftest import started, wait_for_start

    def test_first(): {first}
    def test_uses_it({fixture}): pass
    """


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Do what Ctrl-C in a terminal does, and wait for the end."""
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(WATCHDOG) != 0


@pytest.fixture(autouse=True)
def no_other_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the runs share below their own ``TMPDIR``."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


@pytest.fixture
def shared(suite: Suite) -> Iterator[Suite]:
    """A suite whose runs must leave nothing behind."""
    suite.write(conftest=CONFTEST)
    yield suite
    suite.await_nothing_left()
    await_(lambda: left(suite) == [], f"nothing left but {left(suite)}")


def left(suite: Suite) -> list[str]:
    """What the runs have left in their ``TMPDIR``, but logs of failures and what `auto` means."""
    found = []
    for directory, subdirectories, files in os.walk(suite.temporary):
        found += [name for name in subdirectories if name.startswith("run-")]
        found += [os.path.join(directory, name) for name in files]
    kept = re.compile(r"\.log$|/port-\d+\.lock$|/devices/[^/]+$")
    return sorted(name for name in found if not kept.search(name))


@pytest.fixture(autouse=True)
def waiting(suite: Suite) -> None:
    """Give the tests of each inner run the means to wait for a start."""
    suite.write(conftest=EARLY)
