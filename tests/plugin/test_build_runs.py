"""Runs of pytest in which several workers' servers need the same library at the same time."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.conftest import WATCHDOG
from tests.support_gpus import Gpus
from tests.support_gpus import gpus as gpus
from tests.support_plugin import Suite

pytest.importorskip("xdist")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("model", ["a directory", "HF://org/name"])
def test_one_result_serves_all_workers(suite: Suite, gpus: Gpus, model: str) -> None:
    """The servers are on GPUs of their own; one of them compiles, for all of them."""
    if model.startswith("HF://"):
        suite.model = model
    home = suite.path / "home"
    suite.tests(
        """
        import os, time
        import pytest

        @pytest.mark.parametrize("n", range(3))
        def test_it(mlc_server, n):
            open(f"there-{os.environ['PYTEST_XDIST_WORKER']}", "w").close()
            while not all(os.path.exists(f"there-gw{n}") for n in range(3)):
                time.sleep(0.01)
        """
    )
    result = suite.run(
        *("-p", "xdist", "-n3", "--dist=each", "--mlc-devices=0,1,2", "--mlc-device=cuda"),
        f"--mlc-env=MLC_LLM_HOME={home}",
        orders=f"builds={suite.path / 'facts'}",
    )
    result.assert_outcomes(passed=9)
    facts = [line.split()[:2] for line in (suite.path / "facts").read_text().splitlines()]
    made = ["download", "compile"] if model.startswith("HF://") else ["compile"]
    assert facts == [[when, what] for what in made for when in ("begin", "end")]
    assert len(list((home / "model_lib").iterdir())) == 1


@pytest.fixture
def building(suite: Suite) -> Path:
    """Have another process compile the suite's model; it goes on when this file is there."""
    gate = suite.path / "gate"
    other = [sys.executable, "-m", "pytest_mlc_server", "prepare"]
    suite.spawn([*other, *suite.settings(orders(suite, gate)), home(suite)])
    suite.await_event(lambda: "compiling" in suite.output, "compiling")
    return gate


def home(suite: Suite) -> str:
    return f"--mlc-env=MLC_LLM_HOME={suite.path / 'home'}"


def orders(suite: Suite, gate: Path) -> str:
    return f"builds={suite.path / 'facts'} build-gate={gate}"


WAITING = "--- waiting for another server that compiles or downloads this model (guardian process "


@pytest.mark.parametrize("scope", ["worker", "run"])
def test_all_who_wait_go_on_when_it_is_built(suite: Suite, building: Path, scope: str) -> None:
    suite.tests(
        "import pytest\n@pytest.mark.parametrize('n', range(4))\ndef test(mlc_server, n): 0"
    )
    run = suite.begin(
        *("-p", "xdist", "-n2", f"--mlc-scope={scope}", "--mlc-log-live", home(suite)),
        orders=orders(suite, building),
    )
    servers = 2 if scope == "worker" else 1
    suite.await_event(lambda: suite.output.count(WAITING) == servers, "all of them waiting")
    assert len(suite.starts) == 1
    building.touch()
    assert run.wait(WATCHDOG) == 0, suite.output
    assert "4 passed" in suite.output
    said = "for another one that compiled or downloaded the model"
    assert suite.output.count(said) == servers
    assert len(suite.starts) == 1 + servers
    assert len((suite.path / "facts").read_text().splitlines()) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_waits_can_be_interrupted(suite: Suite, building: Path, workers: int) -> None:
    suite.tests("def test(mlc_server): pass")
    run = suite.begin(
        *("-p", "xdist", f"-n{workers}", "--mlc-log-live", home(suite)),
        orders=orders(suite, building),
    )
    suite.await_event(lambda: WAITING in suite.output, "the wait")
    run.send_signal(signal.SIGINT)
    assert run.wait(WATCHDOG) == pytest.ExitCode.INTERRUPTED
    assert len(suite.starts) == 1
    building.touch()
