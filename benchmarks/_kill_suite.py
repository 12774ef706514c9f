"""The suite that `kill_matrix.py` runs and ends, and the stand-in's orders for each child.

The suite stops at the moment that is to be hit, says so in a file, and waits for an end.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

STANDIN = Path(__file__).resolve().parent.parent / "tests" / "standin"

CONFTEST = """
import os, signal, time
import pytest

WAY, MOMENT = os.environ["KILL_WAY"], os.environ["KILL_MOMENT"]
ME = os.environ.get("PYTEST_XDIST_WORKER", "main")

def say(name):
    with open(f"{name}.part", "w") as file:
        file.write(str(os.getpid()))
    os.replace(f"{name}.part", name)

def reach(moment):
    if moment == MOMENT:
        say(f"reached-{ME}")
        limit = time.monotonic() + 180  # whoever was to end it may have been ended
        while not os.path.exists("release") and time.monotonic() < limit:
            time.sleep(0.01)

def end(*_):
    if WAY == "pytest.exit":
        pytest.exit("as ordered")
    if WAY == "-x":
        raise AssertionError("as ordered")
    os._exit(7)

def pytest_configure(config):
    signal.signal(signal.SIGUSR1, end)
    say(f"process-{ME}")

def pytest_runtest_logfinish(nodeid):
    # With pytest-xdist the controller is told of the workers' tests, too.
    in_worker = ME != "main"
    if in_worker or (nodeid.endswith("[0]") and not os.environ["KILL_WORKERS"]):
        reach("ready")

@pytest.fixture
def torn_down(mlc_server, number):
    yield
    if number or ME != "main":
        reach("teardown")
"""

TESTS = """
import pytest
from conftest import ME, reach

@pytest.mark.parametrize("number", {numbers})
def test_it(mlc_server, torn_down, number):
    if number or ME != "main":
        reach("test")
"""

#: A server that never stops talking.
FLOODING = f"""
import os, runpy, sys, threading, time

def talk():
    while True:
        os.write(2, (b"x" * 1000 + b"\\n") * 100)
        time.sleep(0.01)

if "KILL_FLOOD" in os.environ:
    os.write(2, (b"y" * 1000 + b"\\n") * 2000)
    threading.Thread(target=talk, daemon=True).start()
runpy.run_path({str(STANDIN / "mlc_llm" / "__main__.py")!r}, run_name="__main__")
"""

CHILDREN = ("ordinary", "ignores signals", "daemonises", "floods its log", "closes output", "forks")


def write(directory: Path, way: str, moment: str, workers: int) -> None:
    """Write the suite and the server's package."""
    (directory / "conftest.py").write_text(CONFTEST)
    numbers = ", ".join(_number(n, way, moment) for n in range(2 * max(1, workers)))
    (directory / "test_it.py").write_text(TESTS.format(numbers=f"[{numbers}]"))
    package = directory / "server" / "mlc_llm"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(FLOODING)


def _number(number: int, way: str, moment: str) -> str:
    if not way.startswith("timeout"):
        return str(number)
    # The test that is to be hit has a short time, the other as long as a start may take.
    seconds = {"start": 3, "test": 1, "teardown": 1}.get(moment, 0.5)
    limit = seconds if number or moment == "start" else 60
    return f"pytest.param({number}, marks=pytest.mark.timeout({limit}))"


def variables(directory: Path, child: str, moment: str) -> list[str]:
    """Return the server's environment, as ``NAME=value``."""
    words = [f"started={directory / 'started'}"]
    if moment == "start":
        words.append(f"wait={directory / 'release'}")
    words += {
        "ignores signals": [f"signals={directory / 'signals'}"],
        "daemonises": [f"daemon={directory / 'daemon'}", "scrub"],
        "closes output": ["mute"],
        "forks": [f"respawn={directory / 'forks'}"],
    }.get(child, [])
    flood = ["KILL_FLOOD=1"] if child == "floods its log" else []
    return [f"PYTHONPATH={directory / 'server'}", f"STANDIN={' '.join(words)}", *flood]


def environment(directory: Path, way: str, moment: str, workers: int) -> dict[str, str]:
    """Return the environment of the pytest process; its value of KILL_RUN is in all of its tree."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "STANDIN", "MLC_"))}
    return {
        **keep,
        "KILL_RUN": str(directory),
        "KILL_WAY": way,
        "KILL_MOMENT": moment,
        "KILL_WORKERS": str(workers or ""),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "TMPDIR": str(directory),
        "XDG_RUNTIME_DIR": str(directory),
    }


def command(
    directory: Path, way: str, child: str, moment: str, port: int, stop: float
) -> list[str]:
    """Return the command line of the run."""
    words = [sys.executable, "-m", "pytest", "-p", "mlc_server", "-p", "no:cacheprovider"]
    # Not mlc: starts of one model that may compile follow each other, and these are to be together.
    words += ["--mlc-engine=mock", f"--mlc-model={directory / 'model'}", f"--mlc-port={port}"]
    words += [f"--mlc-stop-timeout={stop:g}", f"--rootdir={directory}"]
    words += [f"--mlc-env={variable}" for variable in variables(directory, child, moment)]
    if way == "-x":
        words.append("-x")
    if way.startswith("timeout"):
        words += ["-p", "timeout", f"--timeout-method={way.split()[1]}"]
        words += ["-o", f"timeout_func_only={'true' if moment == 'test' else 'false'}"]
    if way.startswith("worker"):
        words += ["-p", "xdist", "-n2", "--max-worker-restart=0"]
    if way.startswith("controller"):
        words += ["-p", "xdist", "-n4"]
    return words
