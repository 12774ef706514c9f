"""What the tests share: the stand-in server, and waiting for events under a watchdog."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

from pytest_mlc_server import PopenServer, engines

STANDIN = Path(__file__).parent / "standin"

#: No test waits longer than this for an event that must come, in seconds. Generous: only a defect
#: reaches it.
WATCHDOG = 100.0

# The same examples in each run, however slow the machine is; others: --hypothesis-profile=default.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


def pytest_configure() -> None:
    """Have Ctrl-C work in the processes of the tests, whoever started this one.

    A shell without job control has background commands ignore SIGINT, and all that they start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the real mlc_llm where there is none."""
    if importlib.util.find_spec("mlc_llm") is not None:
        return
    for item in items:
        if item.get_closest_marker("mlc_real"):
            item.add_marker(pytest.mark.skip(reason="mlc_llm cannot be imported here"))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs these tests out of the runs that the tests start."""
    ours = ("PYTEST_MLC_", "MLC_SERVE_", "PYTEST_ADDOPTS", "PYTEST_XDIST_")
    services = ("GITHUB_", "GITLAB_", "BUILD_NUMBER", "NO_COLOR", "FORCE_COLOR", "PY_COLORS")
    for name in list(os.environ):  # and what CI services say of themselves changes the output
        if name == "CI" or name.startswith((*ours, *services)):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A whole model directory: configuration, tokenizer, and weights of a few bytes."""
    path = tmp_path_factory.mktemp("model")
    write_model(path)
    return str(path)


def write_model(path: Path) -> None:
    """Write a model directory in which nothing is missing."""
    for file in Path(engines.mock_model()).iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    (path / "params_shard_0.bin").write_bytes(bytes(16))
    records = [{"dataPath": "params_shard_0.bin", "format": "raw-shard", "nbytes": 16}]
    (path / "tensor-cache.json").write_text(json.dumps({"metadata": {}, "records": records}))


def standin_env(*words: str) -> dict[str, str]:
    """Return the environment in which ``python -m mlc_llm`` is the stand-in, with its orders."""
    return {"PYTHONPATH": str(STANDIN), "STANDIN": " ".join(words)}


@pytest.fixture
def standin(model_dir: str) -> Iterator[Callable[..., PopenServer]]:
    """Make servers (not started) whose ``mlc_llm`` is the stand-in; stop them after the test.

    Positional arguments are orders for the stand-in, keyword arguments those of `PopenServer`.
    """
    made: list[PopenServer] = []

    def make(*words: str, **options: Any) -> PopenServer:
        options.setdefault("port", "auto")
        options.setdefault("startup_timeout", WATCHDOG)
        environment = {**standin_env(*words), **options.pop("env", {})}
        server = PopenServer(options.pop("model", model_dir), env=environment, **options)
        made.append(server)
        return server

    yield make
    for server in made:
        server.terminate()


def await_(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition holds and return its value; fail when the watchdog ends."""
    deadline = time.monotonic() + WATCHDOG
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {WATCHDOG:g} s in vain: {what}")
        time.sleep(0.005)
    return value


def await_gone(pid: int) -> None:
    """Wait until a process has ended; a zombie has."""

    def gone() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    await_(gone, f"the end of process {pid}")


def await_text(path: Path) -> str:
    """Wait for a file that is written whole or not at all, and return what it says."""
    await_(path.exists, f"the file {path}")
    return path.read_text()
