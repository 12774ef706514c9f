"""``python -m pytest_mlc_server prepare``: models are made ready ahead of time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_mlc_server import PopenServer, ServerConfig, prepare
from pytest_mlc_server.runner import NO_SERVER, WRONG_USE
from tests.conftest import WATCHDOG, write_model
from tests.support_plugin import Suite, make_suite

pytestmark = pytest.mark.slow

PREPARE = [sys.executable, "-m", "pytest_mlc_server", "prepare"]


@pytest.fixture
def suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, model_dir: str
) -> Iterator[Suite]:
    """A directory, and the settings that select the stand-in; at the end, no server may be left."""
    suite = make_suite(pytester, monkeypatch, model_dir)
    monkeypatch.setenv("MLC_LLM_HOME", str(suite.path / "home"))
    yield suite
    suite.close()


def done(suite: Suite, *arguments: str, orders: str = "builds=facts") -> Any:
    """Run the command to its end."""
    environment = [f"--mlc-env={variable}" for variable in suite.variables(orders)]
    return subprocess.run(
        [*PREPARE, *environment, *arguments],
        cwd=suite.path,
        capture_output=True,
        text=True,
        timeout=WATCHDOG,
        check=False,
    )


def test_what_is_made_and_what_was_there(suite: Suite) -> None:
    model = f"--mlc-model={suite.model}"
    for how in ("made now", "was there"):
        result = done(suite, model)
        assert result.returncode == 0, result.stderr
        (library,) = (suite.path / "home" / "model_lib").iterdir()
        lines = result.stdout.splitlines()
        assert lines[0] == suite.model
        assert lines[1].startswith("  ready    after ")
        assert lines[2:6] == [
            f"  model    {suite.model} (given)",
            f"  library  {library} ({how})",
            f"  key      model_lib/{library.name}",
            f"cache {suite.path / 'home'} (MLC_LLM_HOME)",
        ]
    assert len(suite.starts) == 2
    suite.await_nothing_left()
    assert suite.left_logs == []


def test_a_download_has_its_place_and_key(suite: Suite) -> None:
    for how in ("made now", "was there"):
        result = done(suite, "--mlc-model=HF://org/name")
        assert result.returncode == 0, result.stderr
        place = suite.path / "home" / "model_weights" / "hf" / "org" / "name"
        assert (
            f"  model    {place} ({how})\n  key      model_weights/hf/org/name\n" in result.stdout
        )


def test_a_library_that_is_given(suite: Suite) -> None:
    library = next(Path(psutil.__file__).parent.glob("*.so"))  # one of this machine
    result = done(suite, f"--mlc-model={suite.model}", f"--mlc-model-lib={library}", "--json")
    (model,) = json.loads(result.stdout)["models"]
    assert model["libraries"] == [{"path": str(library), "how": "given", "key": ""}]


def test_several_models_as_json(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    other = suite.path / "other"
    other.mkdir()
    write_model(other)
    monkeypatch.setenv("MLC_JIT_POLICY", "REDO")
    names = [suite.model, "other"]
    result = done(suite, "--json", *(f"--mlc-model={name}" for name in names))
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["caches"] == {
        "home": str(suite.path / "home"),
        "libraries": str(suite.path / "home" / "model_lib"),
        "jit_policy": "REDO",
        "download_policy": "ON",
        "readonly": "",
    }
    assert [model["model"] for model in told["models"]] == names
    for model, path in zip(told["models"], (suite.model, str(other)), strict=True):
        assert model["weights"] == [{"path": path, "how": "given", "key": ""}]
        (library,) = model["libraries"]
        assert library["how"] == "made"
        assert os.path.join(told["caches"]["home"], library["key"]) == library["path"]
        assert model["seconds"] == pytest.approx(sum(model["phases"].values()), rel=0.1)
        assert model["error"] == ""
    # One after the other: nothing is begun before the last is done.
    facts = [line.split() for line in (suite.path / "facts").read_text().splitlines()]
    assert [fact[0] for fact in facts] == ["begin", "end", "begin", "end"]
    assert [int(fact[2]) for fact in facts[::2]] == suite.starts


def test_models_of_the_environment(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_MLC_MODEL", "HF://org/a\nHF://org/b")
    result = done(suite)
    assert [line for line in result.stdout.splitlines() if line.startswith("HF://")] == [
        "HF://org/a",
        "HF://org/b",
    ]


def test_one_that_fails_does_not_keep_the_others_from_it(suite: Suite) -> None:
    result = done(
        suite,
        f"--mlc-model={suite.model}",
        "--mlc-model=HF://org/name",
        orders="builds=facts build-fails=download",
    )
    assert result.returncode == NO_SERVER
    assert f"{suite.model}\n  ready  " in result.stdout
    assert "HF://org/name\n  failed   the MLC server did not start: " in result.stdout
    assert "error: the MLC server did not start: " in result.stderr
    assert "--- end of the log ---" in result.stderr


def test_phases_are_told_as_they_begin(suite: Suite) -> None:
    orders = "builds=facts build-gate=gate"
    settings = suite.settings(orders)
    process = suite.spawn([*PREPARE, *settings])
    suite.await_event(lambda: f"prepare {suite.model}: compiling\n" in suite.output, "compiling")
    (suite.path / "gate").touch()
    assert process.wait(WATCHDOG) == 0
    shown = suite.output.splitlines()
    assert f"prepare {suite.model}: ready" in shown
    (line,) = [line for line in shown if line.startswith(f"prepare {suite.model}: compiling: ")]
    assert line.endswith(" s")


def test_a_second_preparation_waits_for_the_first(suite: Suite) -> None:
    settings = suite.settings("builds=facts build-gate=gate")
    first = suite.spawn([*PREPARE, *settings])
    suite.await_event(lambda: "compiling" in suite.output, "compiling")
    second = suite.spawn([*PREPARE, *settings])
    says = f"prepare {suite.model}: waiting for another server that compiles or downloads this"
    suite.await_event(lambda: says in suite.output, "the wait")
    assert len(suite.starts) == 1
    (suite.path / "gate").touch()
    assert first.wait(WATCHDOG) == second.wait(WATCHDOG) == 0
    assert len((suite.path / "facts").read_text().splitlines()) == 2
    assert re.search(r"ready    after .*: waiting for another server \d+\.\d s, ", suite.output)
    assert "(was there)" in suite.output


def test_the_simulator_has_no_files(suite: Suite) -> None:
    pytest.importorskip("fastapi")
    result = done(suite, "--mlc-engine=sim", "--json")
    assert result.returncode == 0, result.stderr
    (model,) = json.loads(result.stdout)["models"]
    assert model["model"] == "sim-model"
    assert model["weights"] == model["libraries"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_preparation_leaves_nothing(suite: Suite, number: signal.Signals) -> None:
    process = suite.spawn([*PREPARE, *suite.settings("builds=facts build-gate=never")])
    suite.await_event(lambda: "compiling" in suite.output, "compiling")
    process.send_signal(number)
    assert process.wait(WATCHDOG) == 128 + number
    assert "Traceback" not in suite.output
    suite.await_nothing_left()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no MLC server is configured"),
        (["--mlc-model=nowhere"], "there is no directory"),
        (["--mlc-url=http://127.0.0.1:9"], "needs no preparation"),
        (["--mlc-engine=external"], "needs no preparation"),
        (["--mlc-model=HF://a/b", "--mlc-port=none"], "port = 'none'"),
        (["--mlc-model=HF://a/b", "--mlc-model=HF://a/c", "--mlc-model-lib=x.so"], "2 models"),
        (["--mlc-model=HF://a/b", "--mlc-overrides=no_such=1"], "no_such"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_settings(
    arguments: list[str], says: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    try:
        code: object = prepare.main(arguments)
    except SystemExit as ended:  # argparse's way
        code = ended.code
    assert code == WRONG_USE
    shown = capfd.readouterr()
    assert says in shown.err
    assert shown.out == ""


def test_the_limit_of_a_start_is_that_of_one_that_makes_progress(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], model_dir: str
) -> None:
    seen: list[ServerConfig] = []

    def start(self: PopenServer, extra_env: object = None) -> None:
        seen.append(self.config)
        raise KeyboardInterrupt

    monkeypatch.setattr(PopenServer, "start", start)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    code = prepare.main([f"--mlc-model={model_dir}", "--mlc-startup-limit=900"])
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert code == 128 + signal.SIGINT
    assert seen[0].startup_timeout == seen[0].startup_limit == 900
