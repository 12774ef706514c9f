"""The direct launch: the server of ``python -m mlc_llm serve``, without its second import."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from pytest_mlc_server import EngineUnavailableError, PopenServer, StartError, engines
from tests.conftest import WATCHDOG, await_, await_text
from tests.support_launch import launch_env
from tests.support_server import ask
from tests.support_server import temporary as temporary

Servers = Callable[..., PopenServer]

KEY = "-k3y of this test"

PLAIN: list[str] = ["-m"]
DIRECT: list[str] = [engines.ENTRY, "direct"]


def command(how: list[str], *arguments: str) -> list[str]:
    return [sys.executable, *how, "mlc_llm", "serve", "m", "--port", "0", *arguments]


def run(
    how: list[str], *arguments: str, env: Mapping[str, str], cwd: Path, key: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a server that ends by itself, with a key on descriptor 3 if there is one."""
    redirect = ""
    if key and how == PLAIN:
        arguments = (*arguments, f"--api-key={key}")
    elif key:
        how = [how[0], f"{how[1]}+key"]
        (cwd / "key").write_text(key)
        redirect = "3<key"
    # Files, as a server's log is one: a pipe has a name of its own in each run.
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect} >stdout 2>stderr', "sh", *command(how, *arguments)],
        env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        timeout=WATCHDOG,
        check=False,
    )
    output, errors = (cwd / "stdout").read_text(), (cwd / "stderr").read_text()
    return subprocess.CompletedProcess(done.args, done.returncode, output, errors)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def log(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what was logged without the times."""
    return [line.partition("] ")[2] or line for line in done.stderr.splitlines()]


# --- the same server ------------------------------------------------------------------------------

#: What differs from one process to the next, however it is launched.
OWN = ("pid", "ppid", "random")


@pytest.mark.parametrize(
    ("device", "key"), [("cpu", ""), ("cpu:0", KEY), ("cuda:1", "")], ids=["cpu", "key", "cuda"]
)
def test_it_cannot_tell_how_it_was_launched(tmp_path: Path, device: str, key: str) -> None:
    told, logged = [], []
    for how in (PLAIN, [engines.ENTRY, "plain"], DIRECT):
        facts = tmp_path / "facts"
        env = launch_env(f"facts={facts}", server="exit=7", tvm="cuda=3 cpu=9")
        done = run(how, "--device", device, env=env, cwd=tmp_path, key=key)
        assert done.returncode == 7, done.stderr
        told.append({k: v for k, v in json.loads(facts.read_text()).items() if k not in OWN})
        logged.append(log(done))
    assert told[0] == told[1]
    # But for devices beyond the one that was asked for, at which the direct launch does not look.
    checks = [one.pop("checks") for one in told]
    assert checks[2] == {name: True for name in checks[0] if name != "cuda:2"}
    assert told[0] == told[2]
    assert [line for line in logged[0] if "Found device: cuda:2" not in line] == logged[2]


@pytest.mark.parametrize(
    ("arguments", "env", "code"),
    [
        (["--device", "cpu", "--nonsense"], {}, 2),
        (["--device", "cpu", "--port"], {}, 2),
        (["--device", "cuda:7"], {}, 1),
        (["--device", "cpu:1"], {"TVM_STANDIN": "cpu=9"}, 1),
        (["--device=cpu"], {"MLC_JIT_POLICY": "PERHAPS"}, 1),
        (["--device=cpu"], {"STANDIN_LAUNCH": "import-fails"}, 1),
        (["--device=cpu"], {"PYTHONPATH": ""}, 1),
        (["--device=cpu"], {"STANDIN": "die=11"}, -11),
        ([], {"STANDIN": "exit=3"}, 3),
    ],
)
def test_it_fails_with_the_same_code_and_words(
    tmp_path: Path, arguments: list[str], env: dict[str, str], code: int
) -> None:
    done = {}
    for name, how in (("plain", PLAIN), ("direct", DIRECT)):
        done[name] = run(how, *arguments, env={**launch_env(), **env}, cwd=tmp_path)
        assert done[name].returncode == code
    ends = [log(one)[-1] for one in done.values()]
    assert ends[0] == ends[1]


def has_ended(server: PopenServer) -> bool:
    return server.poll() == "exited"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -15)])
def test_signals_end_it_as_they_end_a_plain_one(
    standin: Servers, number: signal.Signals, code: int
) -> None:
    for launch in ("plain", "direct"):
        server = standin(env=launch_env(), device="cpu", launch=launch)
        server.start()
        assert server.pid is not None
        os.kill(server.pid, number)
        await_(partial(has_ended, server), "its end")
        assert server.returncode == code


def test_a_signal_while_it_imports_ends_it_as_a_plain_one(tmp_path: Path) -> None:
    codes: list[int] = []
    for how in (PLAIN, DIRECT):
        imported = tmp_path / f"imported-{len(codes)}"
        env = launch_env(f"imported={imported}", f"import-gate={tmp_path / 'never'}")
        with subprocess.Popen(
            command(how, "--device", "cpu"), env={**os.environ, **env}, stderr=subprocess.DEVNULL
        ) as process:
            await_(partial(lines, imported), "the import")
            process.send_signal(signal.SIGINT)
            codes.append(process.wait(WATCHDOG))
    assert codes == [-signal.SIGINT] * 2


def test_a_taken_port_ends_it_with_3(standin: Servers) -> None:
    winner = standin(env=launch_env(), device="cpu", launch="direct")
    winner.start()
    done = subprocess.run(
        [sys.executable, *DIRECT, "mlc_llm", "serve", "m", "--port", str(winner.port), "--device",
         "cpu"],
        env={**os.environ, **launch_env()}, capture_output=True, text=True, timeout=WATCHDOG,
        check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "address already in use" in done.stderr


# --- what it saves --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, KEY], ids=["no-key", "key"])
def test_it_imports_once_and_checks_the_device_itself(
    standin: Servers, tmp_path: Path, key: str | None
) -> None:
    imported, checked, asked = (tmp_path / name for name in ("imported", "checked", "asked"))
    env = launch_env(f"imported={imported}", f"checked={checked}", tvm=f"cuda=2 asked={asked}")
    counts = {}
    for launch in ("plain", "direct"):
        server = standin(env=env, device="cuda:1", launch=launch, api_key=key)
        server.start()
        assert ask(server)["choices"]
        counts[launch] = (lines(imported), lines(checked))
        questions = asked.read_text().split()
        for file in (imported, checked, asked):
            file.unlink(missing_ok=True)
        if launch == "direct":
            assert questions == ["cuda:0", str(server.pid), "cuda:1", str(server.pid)]
    assert counts == {"plain": (2, 1), "direct": (1, 0)}


def test_the_restarted_server_is_launched_in_the_same_way(standin: Servers, tmp_path: Path) -> None:
    checked = tmp_path / "checked"
    server = standin(env=launch_env(f"checked={checked}"), device="cpu", launch="direct")
    server.start()
    port = server.port
    server.restart()
    assert ask(server)["choices"]
    assert server.port == port
    assert not checked.exists()


# --- upstream is not as expected ------------------------------------------------------------------

UNEXPECTED = [
    ("version=0.21.0", "mlc_llm 0.21.0 is not among the known versions (0.20"),
    ("renamed=_RESULT_CACHE", "_RESULT_CACHE is no dict"),
    ("renamed=_device_exists", "_device_exists is no function of one parameter"),
    ("renamed=detect_device", "detect_device is no function of one parameter"),
    ("renamed=subprocess", "auto_device does not use the module subprocess"),
    ("signature", "_device_exists is no function of one parameter"),
    ("no-check", "_device_exists does not run mlc_llm.cli.check_device"),
    ("moved", "mlc_llm 0.20.0.dev0 has no module mlc_llm.support.auto_device"),
    ("check-gone", "there is no module mlc_llm.cli.check_device"),
]


@pytest.mark.parametrize(("order", "says"), UNEXPECTED, ids=[order for order, _ in UNEXPECTED])
def test_what_is_not_as_expected_is_launched_plainly(tmp_path: Path, order: str, says: str) -> None:
    facts = tmp_path / "facts"
    env = launch_env(order, f"facts={facts}", server="exit=7")
    plain, direct = (run(h, "--device", "cpu", env=env, cwd=tmp_path) for h in (PLAIN, DIRECT))
    assert direct.returncode == plain.returncode
    first, *rest = log(direct)
    assert first.startswith("pytest-mlc-server: launched plainly: ")
    assert says in first
    # But for the frames of a traceback, the rest is what it would have been.
    assert rest[-1] == log(plain)[-1]
    assert rest == log(plain) or plain.returncode == 1


def test_a_key_reaches_a_server_that_is_launched_plainly_after_all(
    standin: Servers, tmp_path: Path
) -> None:
    checked = tmp_path / "checked"
    env = launch_env("version=9.9", f"checked={checked}")
    server = standin(env=env, device="cpu", launch="direct", api_key=KEY)
    server.start()
    assert ask(server)["choices"]
    assert lines(checked) == 1
    assert "launched plainly: mlc_llm 9.9" in await_text(Path(str(server.log_path)))


def test_a_device_that_nobody_could_tell_is_left_to_upstream(tmp_path: Path) -> None:
    env = launch_env(f"checked={tmp_path / 'checked'}", server="exit=7")
    done = run(DIRECT, env=env, cwd=tmp_path)
    assert done.returncode == 7
    assert "launched plainly: the command line names no device" in done.stderr
    assert lines(tmp_path / "checked") == 6


# --- in another interpreter -----------------------------------------------------------------------


def test_it_needs_this_package_nowhere(standin: Servers, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    checked = tmp_path / "checked"
    server = standin(
        env=launch_env(f"checked={checked}"), device="cpu", launch="direct", python=python
    )
    server.start()
    assert ask(server)["choices"]
    assert not checked.exists()


@pytest.mark.parametrize("launch", ["direct", "warm"])
def test_other_engines_are_launched_as_they_are(launch: str) -> None:
    plans = [
        engines.plan(PopenServer(None, engine="sim", launch=one).config, mark="m4rk").argv
        for one in ("plain", launch)
    ]
    assert plans[0] == plans[1]


def test_the_command_for_people_is_the_one_they_can_run() -> None:
    plain, direct = (
        engines.plan(PopenServer("m", launch=launch, port=1).config, mark="m4rk").command
        for launch in ("plain", "direct")
    )
    assert plain == direct


def test_a_failed_start_says_how_it_was_launched(standin: Servers) -> None:
    server = standin(env=launch_env(server="exit=5"), device="cpu", launch="direct")
    with pytest.raises(StartError, match="launch: direct"):
        server.start()
    server = standin(env=launch_env(), device="rocm:3", launch="direct")
    with pytest.raises(EngineUnavailableError, match="'rocm:3' is not on this machine"):
        server.start()
