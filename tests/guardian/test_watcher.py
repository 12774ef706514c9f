"""The watcher, the order that the keeper reads, and what Linux does for orphans."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_mlc_server.guardian import keeper
from tests.conftest import WATCHDOG, await_gone
from tests.support_server import linux, run_python


def order(*fields: str) -> bytes:
    record = b"\0".join(os.fsencode(field) for field in fields)
    return len(record).to_bytes(4, "big") + record


def read_order(data: bytes) -> list[str]:
    reader, writer = os.pipe()
    try:
        os.write(writer, data)
        return keeper.read_order(reader)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    "fields",
    [
        ["1", "python"],
        ["python", "-m", "mlc_llm", "", "two words\nand a line", ""],
        ["not UTF-8: caf\udce9", "ä €", "A=x=y"],
    ],
)
def test_an_order_is_read_as_it_was_given(fields: list[str]) -> None:
    assert read_order(order(*fields)) == fields


def test_what_follows_the_order_is_left_to_others() -> None:
    reader, writer = os.pipe()
    os.write(writer, order("1", "python") + b'{"op": "more"}\n')
    assert keeper.read_order(reader) == ["1", "python"]
    assert os.read(reader, 100) == b'{"op": "more"}\n'
    os.close(reader)
    os.close(writer)


def test_an_order_in_small_pieces_is_put_together() -> None:
    code = """
import json, os, sys
from pytest_mlc_server.guardian import keeper
reader, writer = os.pipe()
data = bytes.fromhex(sys.argv[1])
if not os.fork():
    for index in range(len(data)):
        os.write(writer, data[index:index + 1])
    os._exit(0)
print(json.dumps(keeper.read_order(reader)))
"""
    assert run_python(code, order("2", "python", "-V").hex()) == ["2", "python", "-V"]


@linux
@pytest.mark.parametrize("asked", [True, False])
def test_orphans_come_to_a_process_that_asked_for_them(asked: bool) -> None:
    code = """
import json, os, sys
from pytest_mlc_server.guardian import system
if sys.argv[1] == "True":
    system.become_subreaper()
reader, writer = os.pipe()
child = os.fork()
if not child:
    child = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == child:
        pass
    os.write(writer, str(os.getppid()).encode())
    os._exit(0)
os.waitpid(child, 0)
print(json.dumps(int(os.read(reader, 99)) == os.getpid()))
"""
    assert run_python(code, asked) is asked


@linux
def test_the_watcher_ends_what_a_dead_keeper_left_however_deep(tmp_path: Path) -> None:
    code = """
import json, os, signal, sys
from pytest_mlc_server.guardian import system, watcher
system.become_subreaper()
keeper = os.fork()
if not keeper:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for depth in range(4):
        if depth % 2:
            os.setsid()
        with open(sys.argv[1], "a") as file:
            file.write(f"{os.getpid()}\\n")
        child = os.fork()
        if child and depth:
            signal.pause()
        if child:
            while len(open(sys.argv[1]).read().split()) < 4:
                pass
            os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()
watcher.watch(keeper)
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print(json.dumps("nobody left"))
"""
    pids = tmp_path / "pids"
    assert run_python(code, pids) == "nobody left"
    for pid in pids.read_text().split():
        await_gone(int(pid))


def test_the_guardian_starts_on_the_standard_library_and_this_package_alone() -> None:
    # -I -S: no site-packages, no environment, no current directory.
    package = Path(keeper.__file__).parent.parent
    code = (
        f"import sys; sys.path.append({str(package.parent)!r})\n"
        "from pytest_mlc_server.guardian import keeper, spawn, watcher\n"
        "heavy = {'json', 'subprocess', 'socket', 'psutil', 'http', 'signal', 're', 'typing'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        capture_output=True,
        text=True,
        timeout=WATCHDOG,
        check=True,
    )
    assert done.stdout.split() == []
