"""What forbids a fork, and what makes a warm parent out of date."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_mlc_server.launcher import installed, kernel, safety, variables
from tests.support_server import linux, run_python

pytestmark = linux

# --- threads --------------------------------------------------------------------------------------

THREADS = """
import json, os, sys, threading
from pytest_mlc_server.launcher import safety
before = set(sys.meta_path)
with safety.Pools() as pools:
    import numpy
assert set(sys.meta_path) == before
found = {"pool": len(pools.threads), "known": safety.of_threads(pools.threads),
         "unknown": safety.of_threads(())}
threading.Thread(target=threading.Event().wait, name="mine", daemon=True).start()
found["own"] = safety.of_threads(pools.threads)
found["origin"] = numpy.__spec__.origin == numpy.__file__
print(json.dumps(found))
sys.stdout.flush()
os._exit(0)
"""


def test_the_pool_of_numpy_is_known_and_no_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    found = run_python(THREADS)
    if not found["pool"]:
        pytest.skip("this numpy starts no threads when it is imported")
    assert found["known"] == ""
    assert "native threads run in it" in found["unknown"]
    assert found["own"] == "the thread 'mine' runs in it"
    assert found["origin"]


# --- devices and descriptors ----------------------------------------------------------------------


def test_a_device_that_is_open_or_mapped_forbids_a_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "nvidia0"
    device.write_bytes(bytes(4096))
    monkeypatch.setattr(safety, "DEVICES", (str(tmp_path / "nvidia"),))
    assert safety.of_devices() == ""
    with device.open("r+b") as file:
        assert safety.of_devices() == f"it has initialised a device ({device})"
        mapped = mmap.mmap(file.fileno(), 0)
    assert safety.of_devices() == f"it has initialised a device ({device})"
    mapped.close()
    assert safety.of_devices() == ""


def test_what_siblings_would_share_forbids_a_fork(tmp_path: Path) -> None:
    file = os.open(tmp_path / "file", os.O_CREAT | os.O_RDONLY)
    null = os.open(os.devnull, os.O_RDONLY)
    ends = os.pipe()
    try:
        assert safety.of_descriptors({file, null, 9999}) == ""
        assert "that servers would share (pipe:" in safety.of_descriptors({file, ends[0]})
    finally:
        for descriptor in (file, null, *ends):
            os.close(descriptor)


# --- what is installed ----------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of packages with one that is imported."""
    (tmp_path / "imported_by_this_test.py").write_text("")
    (tmp_path / "thing-1.0.dist-info").mkdir()
    (tmp_path / "thing.pth").write_text("")
    monkeypatch.setattr(installed, "_imported", lambda: iter([str(tmp_path / MODULE)]))
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    return tmp_path


MODULE = "imported_by_this_test.py"


def upgraded(site: Path) -> None:
    (site / "thing-1.0.dist-info").rename(site / "thing-1.1.dist-info")


def referred(site: Path) -> None:
    (site / "thing.pth").write_text("elsewhere\n")


def added(site: Path) -> None:
    (site / "other.pth").write_text("")


def edited(site: Path) -> None:
    (site / MODULE).write_text("# built again\n")


def removed(site: Path) -> None:
    (site / MODULE).unlink()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (upgraded, "thing-1.0.dist-info in"),
        (referred, "thing.pth in"),
        (added, "other.pth in"),
        (edited, MODULE),
        (removed, MODULE),
    ],
)
def test_a_change_of_what_is_installed_is_noticed(site: Path, change: object, named: str) -> None:
    found = installed.Installed(time.time() + 60)
    (site / "unrelated.txt").write_text("")
    assert found.change() == ""
    assert callable(change)
    change(site)
    assert named in found.change()
    assert "has changed since it was imported" in found.change()


def test_what_was_written_while_it_was_imported_is_not_trusted(site: Path) -> None:
    began = time.time()
    os.utime(site / MODULE, (began + 0.001, began + 0.001))
    while time.time() <= began + 0.001:
        pass
    assert "was written while it was imported" in installed.Installed(began).change()
    # A clock that was wrong forbids nothing.
    os.utime(site / MODULE, (began + 3600, began + 3600))
    assert installed.Installed(began).change() == ""


# --- another directory ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({}, ""),
        ({"json.txt": "", "json/data": "", "nobody_imports_this.py": ""}, ""),
        ({"json.py": ""}, "json.py would be imported instead of"),
        ({"json/__init__.py": ""}, "json would be imported instead of"),
        ({"json.cpython-311-x86_64-linux-gnu.so": ""}, "would be imported instead of"),
    ],
)
def test_a_directory_that_hides_what_was_imported_is_noticed(
    entries: Mapping[str, str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in entries.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    found = installed.taken_elsewhere(str(tmp_path))
    assert (named in found) if named else found == ""


ELSEWHERE = """
import json, os, sys
sys.path[0] = os.getcwd()
import found_in_the_directory
sys.path.append(sys.argv[3])
from pytest_mlc_server.launcher import installed
print(json.dumps([installed.taken_elsewhere(place) for place in sys.argv[1:3]]))
"""


def test_what_was_imported_from_the_parents_own_directory_is_not_there_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        place.mkdir()
    (here / "found_in_the_directory.py").write_text("")
    root = Path(installed.__file__).parent.parent.parent
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.chdir(here)
    same, other = run_python(ELSEWHERE, here, there, tmp_path)
    assert same == ""
    assert "found_in_the_directory.py is not there for a process that begins in" in other


# --- the rest -------------------------------------------------------------------------------------


def test_variables_that_are_read_at_import_are_told_from_others() -> None:
    one = {"MLC_JIT_POLICY": "ON", "CUDA_VISIBLE_DEVICES": "0", "STANDIN": "a", "PATH": "/bin"}
    other = {"MLC_JIT_POLICY": "OFF", "STANDIN": "b", "PATH": "/usr/bin", "TORCHINDUCTOR_X": "1"}
    assert variables.difference(one, other) == [
        "CUDA_VISIBLE_DEVICES", "MLC_JIT_POLICY", "TORCHINDUCTOR_X",
    ]  # fmt: skip
    assert variables.difference(one, {**one, "HTTP_PROXY": "x"}) == []


REPLACED = """
import json, os
from pytest_mlc_server.launcher import kernel
print(json.dumps([
    kernel.replace_in_environment(b"TO_REPLACE=aaaa", b"TO_REPLACE=bbbb"),
    "TO_REPLACE=bbbb" in open("/proc/self/environ").read(),
    kernel.replace_in_environment(b"TO_REPLACE=bbbb", b"TO_REPLACE=longer"),
    kernel.replace_in_environment(b"NOT_THERE=aaaa", b"NOT_THERE=bbbb"),
]))
"""


def test_a_mark_in_the_environment_block_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TO_REPLACE", "aaaa")
    assert run_python(REPLACED) == [True, True, False, False]


def test_processes_below_one_are_found_without_some() -> None:
    import subprocess

    sleep = ["/bin/sleep", "1000"]
    with subprocess.Popen(sleep) as one, subprocess.Popen(sleep) as other:
        try:
            # Beside them there may be processes of other tests.
            assert {one.pid, other.pid} <= set(kernel.below(os.getpid()))
            spared = set(kernel.below(os.getpid(), but={one.pid}))
            assert other.pid in spared
            assert one.pid not in spared
        finally:
            one.kill()
            other.kill()


RESEEDED = """
import json, multiprocessing.process, random, sys, tempfile
import numpy
from pytest_mlc_server.launcher import renewal
seen = []
for _ in range(2):
    numpy.random.seed(1)
    renewal._reseed()
    seen.append([numpy.random.random(), multiprocessing.process.current_process().authkey.hex()])
tempfile.tempdir = "/elsewhere"
renewal._forget_names()
print(json.dumps([seen[0][0] != seen[1][0], seen[0][1] != seen[1][1], tempfile.tempdir]))
"""


def test_random_states_are_made_anew() -> None:
    assert run_python(RESEEDED) == [True, True, None]
