"""The sessions of the page on debugging: at pdb's prompt, and with a server of one's own.

``python -m tests.docs.test_debugging`` writes down what they print.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support_docs import EXAMPLES, normalised
from tests.support_examples import PROJECT, TEMPORARY, Run
from tests.support_plugin import free_ports

pytestmark = pytest.mark.slow

DEBUGGING = EXAMPLES / "debugging"

_PROMPT = "(Pdb) "


def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a user; make a copy of the example."""
    ignored = shutil.ignore_patterns("__pycache__", "*.out")
    shutil.copytree(DEBUGGING, tmp_path / "project", ignore=ignored)
    return {**Run("debugging").environment(tmp_path), "NO_COLOR": "1", "TERM": "dumb"}


def session(tmp_path: Path) -> str:
    """Return what a person sees who enters at each prompt what the recorded session has there."""
    env = environment(tmp_path)
    command = (DEBUGGING / "pdb.sh").read_text("utf-8")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=tmp_path / "project",
        env=env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen, entered = "", entries()
    with contextlib.suppress(OSError):  # the other end is closed: Linux calls that an error
        while data := os.read(ours, 65536):
            seen += data.decode(errors="replace")  # what is read may end within a character
            if seen.endswith(_PROMPT):
                os.write(ours, f"{next(entered, 'q')}\n".encode())
    os.close(ours)
    process.wait(60)
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.replace("\r\n", "\n"))
    seen = re.sub(r"^collecting .*\r?(?=collected)", "", seen, flags=re.MULTILINE)
    return seen.replace(str(tmp_path / "project"), PROJECT).replace(
        str(tmp_path / "tmp"), TEMPORARY
    )


def entries() -> Iterator[str]:
    """Return what is entered at the prompts of the recorded session."""
    recorded = (DEBUGGING / "pdb.out").read_text("utf-8")
    return iter(re.findall(r"^\(Pdb\) (.+)$", recorded, re.MULTILINE))


@contextlib.contextmanager
def serving(env: dict[str, str], directory: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Start a server as the page does in another terminal; say its port."""
    port = str(free_ports(1))
    command = (DEBUGGING / "serve.sh").read_text("utf-8").replace("8000", port)
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        cwd=directory,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "Uvicorn running" in line:
                break
        else:
            pytest.fail("the server did not start")
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def attached(tmp_path: Path) -> str:
    """Return what a run prints that is attached to a server; the server must outlive it."""
    env, directory = environment(tmp_path), tmp_path / "project"
    with serving(env, directory) as (port, server):
        command = (DEBUGGING / "attach.sh").read_text("utf-8").replace("8000", port)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=directory,
            env=env,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert server.is_running()
        assert server.status() != psutil.STATUS_ZOMBIE
    assert done.returncode == 1, done.stderr  # the test is wrong, with any server
    return done.stdout.replace(port, "8000").replace(str(directory), PROJECT)


SESSIONS = {"pdb.out": session, "attach.out": attached}


@pytest.mark.parametrize("name", SESSIONS)
def test_the_session_is_as_shown(name: str, tmp_path: Path) -> None:
    printed = SESSIONS[name](tmp_path)
    shown = (DEBUGGING / name).read_text("utf-8")
    pids = ((r"\bpid=\d+", "pid=0"),)
    assert normalised(printed, pids) == normalised(shown, pids), printed


def test_something_is_entered() -> None:
    from tests.docs.runs import ELSEWHERE

    assert len(list(entries())) > 3
    assert ELSEWHERE["debugging"] == "tests/docs/test_debugging.py"


if __name__ == "__main__":
    for name, run in SESSIONS.items():
        with tempfile.TemporaryDirectory() as temporary:
            (DEBUGGING / name).write_text(run(Path(temporary)), encoding="utf-8")
    sys.exit()
