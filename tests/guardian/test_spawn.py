"""What the server's program finds when it is executed."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support_server import linux, run_python

#: Executes a program as the guardian does, waits for its end and tells what became of it.
SPAWN = """
import json, os, signal, sys
from pytest_mlc_server.guardian.spawn import Order, SpawnError, spawn
{before}
try:
    pid = spawn(Order(json.loads(sys.argv[1])))
except SpawnError as error:
    left = True
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        left = False
    print(json.dumps({{"error": str(error), "left": left}}))
else:
    _, status = os.waitpid(pid, 0)
    print(json.dumps({{"pid": pid, "code": os.waitstatus_to_exitcode(status)}}))
"""

IGNORING = """
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD):
    signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
"""


def spawn(
    directory: Path, *argv: str, env: dict[str, str] | None = None, before: str = "", cwd: str = ""
) -> tuple[dict[str, Any], str]:
    log = directory / "server.log"
    fields = order(argv, env or {}, cwd or str(directory), str(log))
    told: dict[str, Any] = run_python(SPAWN.format(before=before), json.dumps(fields))
    return told, log.read_text() if log.is_file() else ""


def order(
    argv: Sequence[str], env: Mapping[str, str], cwd: str, log: str, secret: str = ""
) -> list[str]:
    pairs = (f"{name}={value}" for name, value in env.items())
    return [str(len(argv)), *argv, cwd, log, secret, "", "", "", *pairs]


def status(log: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in log.splitlines() if ":\t" in line)


@linux
@pytest.mark.parametrize("before", ["", IGNORING], ids=["", "ignored-and-blocked"])
def test_signal_dispositions_are_the_default_ones(tmp_path: Path, before: str) -> None:
    told, log = spawn(tmp_path, "/bin/cat", "/proc/self/status", before=before)
    assert told["code"] == 0
    # The two that the C library keeps for itself are nobody else's to set.
    usable = sum(1 << (number - 1) for number in signal.valid_signals())
    masks = {name: int(status(log)[name], 16) & usable for name in ("SigBlk", "SigIgn", "SigCgt")}
    assert masks == {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}


@linux
def test_it_leads_a_session_of_its_own_without_a_terminal(tmp_path: Path) -> None:
    told, log = spawn(tmp_path, "/bin/cat", "/proc/self/stat")
    pid, _, rest = log.partition(" (cat) ")
    _, _, group, session, terminal, *_ = rest.split()
    assert int(pid) == int(group) == int(session) == told["pid"]
    assert terminal == "0"


@linux
def test_its_descriptors_are_null_and_the_log_alone(tmp_path: Path) -> None:
    before = "os.set_inheritable(os.open('/etc/passwd', os.O_RDONLY), False)"
    _, log = spawn(tmp_path, "/bin/ls", "-l", "/proc/self/fd", before=before)
    links = [line.partition(" -> ")[2] for line in log.splitlines() if " -> " in line]
    assert links[:3] == ["/dev/null", str(tmp_path / "server.log"), str(tmp_path / "server.log")]
    assert len(links) == 4  # and the directory that `ls` reads
    assert links[3].startswith("/proc/")


def test_its_environment_is_exactly_what_was_ordered(tmp_path: Path) -> None:
    _, log = spawn(tmp_path, "/usr/bin/env", env={"A": "1", "B": "two words\nand a line"})
    found = [line for line in log.splitlines() if not line.startswith("COVERAGE_")]
    assert found == ["A=1", "B=two words", "and a line"]


def test_it_works_in_the_ordered_directory(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    _, log = spawn(tmp_path, "/bin/pwd", cwd=str(tmp_path / "there"))
    assert log.strip() == str((tmp_path / "there").resolve())


def test_a_program_is_found_on_the_ordered_path(tmp_path: Path) -> None:
    program = tmp_path / "my-python"
    program.symlink_to(sys.executable)
    code = "print('found')"
    told, log = spawn(tmp_path, "my-python", "-ISc", code, env={"PATH": str(tmp_path)})
    assert (told["code"], log) == (0, "found\n")


def test_both_outputs_are_appended_to_the_log(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text("before\n")
    _, log = spawn(tmp_path, "/bin/sh", "-c", "echo out; echo err >&2")
    assert log == "before\nout\nerr\n"


@pytest.mark.parametrize(
    ("argv", "cwd", "error"),
    [
        (("/no/such/program",), "", "cannot execute /no/such/program: No such file or directory"),
        (("/etc",), "", "cannot execute /etc: Permission denied"),
        (
            ("/bin/true",),
            "/no/such/directory",
            "cannot enter the directory /no/such/directory: No such file or directory",
        ),
    ],
)
def test_a_program_that_cannot_be_executed_is_an_error_and_leaves_no_child(
    tmp_path: Path, argv: tuple[str, ...], cwd: str, error: str
) -> None:
    told, _ = spawn(tmp_path, *argv, cwd=cwd)
    assert told == {"error": error, "left": False}


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "server.log").mkdir()
    told, _ = spawn(tmp_path, "/bin/true")
    assert told["error"] == f"cannot write the log {tmp_path}/server.log: Is a directory"


@linux
def test_it_dies_with_the_keeper(tmp_path: Path) -> None:
    code = """
import json, os, signal, sys
from pytest_mlc_server.guardian import system
from pytest_mlc_server.guardian.spawn import Order, spawn
system.become_subreaper()
report, reporter = os.pipe()
keeper = os.fork()
if not keeper:
    pid = spawn(Order(json.loads(sys.argv[1])))
    os.write(reporter, str(pid).encode())
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(keeper, 0)
pid = int(os.read(report, 100))
print(json.dumps(os.waitpid(pid, 0)[1] & 127))
"""
    fields = order(["/bin/sleep", "1000"], {}, "/", str(tmp_path / "server.log"))
    assert run_python(code, json.dumps(fields)) == 9
