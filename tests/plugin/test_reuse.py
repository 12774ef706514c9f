"""With ``--mlc-reuse`` a server stays for the next run, which attaches to it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pytest_mlc_server import launching, shared_servers
from pytest_mlc_server.reporting import header
from tests.conftest import WATCHDOG, await_, await_gone
from tests.plugin.test_health_runs import TOOLS, summary
from tests.support_plugin import WAIT_FOR_EVER, Suite, free_ports

REUSE = "--mlc-reuse=300"

#: Room for more than the one server that there is by default.
MORE = "--mlc-max-servers=4"
XDIST = ("-p", "xdist", "-n2", "--dist=each")

GREEN = """
    import os, pathlib

    def test_green(mlc_server):
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        pathlib.Path(f"pid-{worker}").write_text(str(mlc_server.pid))
    """


@pytest.fixture(autouse=True)
def _no_other_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the runs share below their own ``TMPDIR``."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


@pytest.fixture
def lasting(suite: Suite) -> Iterator[Suite]:
    """A suite with one green test; what its runs leave is stopped, and must leave nothing."""
    suite.tests(GREEN)
    yield suite
    for found in shared_servers.everywhere():
        found.stop(0.0)
    suite.await_nothing_left()
    await_(lambda: files(suite) == [], "the removal of doors and descriptions")


def files(suite: Suite) -> list[Path]:
    """Everything below the runs' ``TMPDIR`` but logs, locks, and what the device `auto` means."""
    found = [Path(top, name) for top, _, names in os.walk(suite.temporary) for name in names]
    left = (path for path in found if path.parent.name != "devices")
    return sorted(path for path in left if path.suffix not in (".log", ".lock"))


def pid_of(suite: Suite, worker: str = "main") -> int:
    """Return the server that a run's test had."""
    return int((suite.path / f"pid-{worker}").read_text())


def await_idle(count: int = 1) -> list[shared_servers.Found]:
    """Wait until that many servers wait for their next user, and no other."""

    def waiting() -> list[shared_servers.Found] | None:
        found = shared_servers.everywhere()
        idle = all(one.status["idle"] is not None for one in found)
        return found if idle and len(found) == count else None

    found: list[shared_servers.Found] = await_(waiting, "idle servers")
    return found


def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    command = [sys.executable, "-m", "pytest_mlc_server", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=WATCHDOG, check=False)


# --- attached, or not -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "workers", [(False, True), (True, False)], ids=["then xdist", "xdist first"]
)
def test_a_run_without_xdist_shares_with_one_that_has_workers(
    lasting: Suite, workers: tuple[bool, bool]
) -> None:
    seen = set()
    for distributed in workers:
        flags = XDIST if distributed else ()
        passed = 2 if distributed else 1
        lasting.run(REUSE, "--mlc-scope=run", *flags).assert_outcomes(passed=passed)
        await_idle()
        seen |= {
            pid_of(lasting, worker) for worker in (["gw0", "gw1"] if distributed else ["main"])
        }
    assert len(seen) == 1
    assert len(lasting.starts) == 1


@pytest.mark.parametrize("reuse", ["0", "300"])
def test_files_that_change_during_the_run_do_not_divide_its_workers(
    lasting: Suite, reuse: str
) -> None:
    lasting.tests(
        f"""
        import os, pathlib, pytest, time

        @pytest.fixture(autouse=True, scope="session")
        def _touch():
            if os.environ["PYTEST_XDIST_WORKER"] == "gw1":
                while not os.path.exists("used"):
                    time.sleep(0.01)
                pathlib.Path({lasting.model!r}, "touched").touch()

        def test_it(mlc_server):
            pathlib.Path("used").touch()
        """
    )
    try:
        flags = (f"--mlc-reuse={reuse}", "--mlc-scope=run", "--mlc-start=lazy", *XDIST)
        lasting.run(*flags).assert_outcomes(passed=2)
    finally:
        Path(lasting.model, "touched").unlink(missing_ok=True)
    assert len(lasting.starts) == 1


def test_the_next_run_attaches_and_says_so(lasting: Suite) -> None:
    first = lasting.run(REUSE)
    first.assert_outcomes(passed=1)
    first.stdout.fnmatch_lines(["mlc-server: *, reuse 300 s"])
    (line,) = summary(first)
    assert "reused" not in line
    (waiting,) = await_idle()
    log = Path(waiting.status["log"])
    assert log.exists()

    second = lasting.run(REUSE)
    second.assert_outcomes(passed=1)
    began = time.strftime("%H:%M", time.localtime(waiting.status["started_at"]))
    second.stdout.fnmatch_lines([f"mlc-server: *, reusing server of {began}, idle * s"])
    (line,) = summary(second)
    assert f"reused: server of {began}, idle " in line
    assert "its state was reset" in line
    assert lasting.starts == [pid_of(lasting)]
    await_idle()
    assert log.exists()

    (found,) = shared_servers.everywhere()
    found.stop(0.0)
    await_(lambda: not log.parent.exists(), "the log goes with its server")


@pytest.mark.parametrize(
    ("idle", "words"),
    [(0, "idle 0 s"), (59, "idle 59 s"), (180, "idle 3 min"), (7200, "idle 120 min")],
)
def test_the_words_for_how_long_it_waited(idle: float, words: str) -> None:
    started = time.mktime((2026, 1, 2, 14, 2, 0, 0, 0, -1))
    assert header.reused(started, idle) == f"14:02, {words}"


@pytest.mark.parametrize(
    "changed",
    [
        ["--mlc-mode=interactive"],
        ["--mlc-overrides=max_num_sequence=2"],
        ["--mlc-env=A=b"],
        ["--mlc-no-debug"],
        ["--mlc-api-key=auto"],
        ["--mlc-host=localhost"],
    ],
    ids=lambda value: value[0],
)
def test_a_run_with_other_settings_starts_its_own(lasting: Suite, changed: Sequence[str]) -> None:
    lasting.run(REUSE).assert_outcomes(passed=1)
    other = lasting.run(REUSE, MORE, *changed)
    other.assert_outcomes(passed=1)
    assert len(lasting.starts) == 2
    assert lasting.starts[1] == pid_of(lasting)
    assert "reusing" not in other.stdout.str()
    assert len(await_idle(2)) == 2


def test_a_change_of_the_model_files_starts_another(
    lasting: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.conftest import write_model

    model = tmp_path / "another-model"
    model.mkdir()
    write_model(model)
    monkeypatch.setattr(lasting, "model", str(model))
    lasting.run(REUSE).assert_outcomes(passed=1)
    (model / "params_shard_0.bin").touch()
    lasting.run(REUSE).assert_outcomes(passed=1)
    assert len(lasting.starts) == 2


@pytest.mark.parametrize(
    "same", [["--mlc-startup-timeout=50"], ["--mlc-stop-timeout=1"], ["--mlc-log-live"], ["-v"]]
)
def test_settings_that_shape_no_server_are_no_reason_for_another(
    lasting: Suite, same: Sequence[str]
) -> None:
    lasting.run(REUSE).assert_outcomes(passed=1)
    lasting.run(REUSE, *same).assert_outcomes(passed=1)
    assert len(lasting.starts) == 1


@pytest.mark.parametrize("arguments", [["--mlc-reuse=0"], []])
def test_a_run_without_reuse_never_attaches(lasting: Suite, arguments: Sequence[str]) -> None:
    lasting.run(REUSE).assert_outcomes(passed=1)
    result = lasting.run(*arguments)
    result.assert_outcomes(passed=1)
    first, second = lasting.starts
    assert pid_of(lasting) == second
    await_gone(second)
    (waiting,) = await_idle()
    assert waiting.status["pid"] == first


def test_it_is_gone_after_its_time(lasting: Suite) -> None:
    lasting.run("--mlc-reuse=0.1").assert_outcomes(passed=1)
    await_gone(pid_of(lasting))
    await_(lambda: files(lasting) == [] and not lasting.left_logs, "the removal of its files")


def test_a_key_of_its_own_choice_is_known_to_the_next_run_and_on_no_disk(lasting: Suite) -> None:
    lasting.tests(
        """
        def test_key(mlc_server):
            with open("key", "a") as file:
                file.write(mlc_server.api_key + " ")
            assert mlc_server.check() == "ready"
        """
    )
    for _ in range(2):
        lasting.run(REUSE, "--mlc-api-key=auto").assert_outcomes(passed=1)
    assert len(lasting.starts) == 1
    first, second = (lasting.path / "key").read_text().split()
    assert first == second
    for top, _, names in os.walk(lasting.temporary):
        for name in names:
            path = Path(top, name)
            assert path.is_socket() or first not in path.read_text(errors="replace"), path


def test_without_debug_endpoints_the_summary_says_that_nothing_was_reset(lasting: Suite) -> None:
    for _ in range(2):
        result = lasting.run(REUSE, "--mlc-no-debug")
    (line,) = summary(result)
    assert "its state was not reset (--mlc-no-debug)" in line


def test_after_failures_the_server_stays_and_so_does_its_log(lasting: Suite) -> None:
    lasting.tests("def test_red(mlc_server): assert False")
    lasting.run(REUSE).assert_outcomes(failed=1)
    lasting.tests(GREEN)
    lasting.run(REUSE).assert_outcomes(passed=1)
    assert len(lasting.starts) == 1
    (waiting,) = await_idle()
    waiting.stop(0.0)
    await_gone(pid_of(lasting))
    assert [str(log) for log in lasting.left_logs] == [waiting.status["log"]]


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    await_gone(pid)


@pytest.mark.parametrize(
    "hurt", [_kill, lambda pid: os.kill(pid, signal.SIGSTOP)], ids=["killed", "stopped"]
)
def test_a_server_that_works_no_more_is_replaced(
    lasting: Suite, hurt: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "REUSE_DEADLINE", 0.5)
    lasting.run(REUSE).assert_outcomes(passed=1)
    await_idle()
    hurt(pid_of(lasting))
    result = lasting.run(REUSE)
    result.assert_outcomes(passed=1)
    assert len(lasting.starts) == 2
    assert "reused" not in "".join(summary(result))


def test_a_server_that_a_test_ended_is_started_again_and_stays(lasting: Suite) -> None:
    lasting.write(
        conftest=TOOLS,
        test_it="""
        def test_kills(kill):
            kill()
            assert False
        def test_after(ask): ask("hello")
        """,
    )
    lasting.run(REUSE).assert_outcomes(failed=1, passed=1)
    assert len(lasting.starts) == 2
    lasting.tests(GREEN)
    lasting.run(REUSE).assert_outcomes(passed=1)
    assert pid_of(lasting) == lasting.starts[1]


def test_the_given_port_of_a_server_that_waits_is_there_for_a_run_without_reuse(
    lasting: Suite,
) -> None:
    port = f"--mlc-port={free_ports(1)}"
    lasting.run(REUSE, port).assert_outcomes(passed=1)
    lasting.run(REUSE, port).assert_outcomes(passed=1)
    assert len(lasting.starts) == 1
    lasting.run(port).assert_outcomes(passed=1)
    assert pid_of(lasting) == lasting.starts[1]


# --- several at the same time ---------------------------------------------------------------------


def test_each_worker_finds_its_own_again(lasting: Suite) -> None:
    pytest.importorskip("xdist")
    pids = []
    for _ in range(2):
        result = lasting.run(REUSE, *XDIST)
        result.assert_outcomes(passed=2)
        pids.append([pid_of(lasting, worker) for worker in ("gw0", "gw1")])
        await_idle(2)
    assert pids[0] == pids[1]
    assert len(set(pids[0])) == 2
    assert len(lasting.starts) == 2
    result.stdout.fnmatch_lines(["mlc-server: *, reusing server of *"])
    # The first of them is the one that a run without workers has.
    lasting.run(REUSE).assert_outcomes(passed=1)
    assert pid_of(lasting) == pids[0][0]


def test_all_workers_of_the_next_run_share_what_all_workers_shared(lasting: Suite) -> None:
    pytest.importorskip("xdist")
    for number in range(2):
        result = lasting.run(REUSE, *XDIST, "--mlc-scope=run")
        result.assert_outcomes(passed=2)
        assert pid_of(lasting, "gw0") == pid_of(lasting, "gw1") == lasting.starts[0]
        await_idle()
        said = ["mlc-server: *, reuse 300 s", "mlc-server: *, reusing server of *, idle *"][number]
        result.stdout.fnmatch_lines([said])
        (line,) = summary(result)
        assert ("reused: server of" in line) == bool(number)
    assert len(lasting.starts) == 1


def test_a_second_run_at_the_same_time_has_its_own(lasting: Suite) -> None:
    lasting.tests(f"import time\ndef test_busy(mlc_server):\n    {WAIT_FOR_EVER}")
    first = lasting.begin(REUSE)
    await_(
        lambda: shared_servers.everywhere() and shared_servers.everywhere()[0].status["ready"],
        "a server",
    )
    lasting.tests(GREEN)
    lasting.run(REUSE).assert_outcomes(passed=1)
    assert pid_of(lasting) == lasting.starts[1]
    os.killpg(first.pid, signal.SIGINT)
    first.wait(WATCHDOG)
    lasting.run(REUSE).assert_outcomes(passed=1)
    assert len(lasting.starts) == 2


# --- ps, stop, logs -------------------------------------------------------------------------------


def test_they_are_listed_shown_and_stopped(lasting: Suite) -> None:
    assert manage("ps").stdout == "no servers\n"
    lasting.run(REUSE).assert_outcomes(passed=1)
    (waiting,) = await_idle()

    listed = manage("ps")
    titles, row = listed.stdout.splitlines()
    assert re.match(r"ID +STATE +USERS +IDLE", titles)
    assert row.split()[0] == waiting.id
    assert "ready" in row
    assert lasting.model in row
    (facts,) = json.loads(manage("ps", "--json").stdout)
    assert (facts["id"], facts["pid"], facts["users"]) == (waiting.id, pid_of(lasting), 0)

    assert "stand-in: starting" in manage("logs", waiting.id[:4]).stdout
    assert manage("logs", "--path", waiting.id).stdout == f"{waiting.status['log']}\n"
    assert len(manage("logs", "-n1", waiting.id).stdout.splitlines()) == 1

    wrong = manage("stop", "zzz")
    assert wrong.returncode == 1
    assert waiting.id in wrong.stderr
    assert manage("stop").returncode == 2
    stopped = manage("stop", waiting.id)
    assert (stopped.returncode, stopped.stdout) == (0, f"{waiting.id}: stopped\n")
    await_gone(pid_of(lasting))
    assert manage("ps").stdout == manage("stop", "--all").stdout == "no servers\n"


def test_all_are_stopped_at_once(lasting: Suite) -> None:
    for mode in ("local", "interactive"):
        lasting.run(REUSE, MORE, f"--mlc-mode={mode}").assert_outcomes(passed=1)
    stopped = manage("stop", "--all")
    assert stopped.stdout.count(": stopped\n") == 2
    lasting.await_nothing_left()
