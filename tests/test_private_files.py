"""What a server has on the disk and shows to the network: docs/explanation/security.md."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pytest_mlc_server import doors, process, runtime
from tests.support_server import Kin
from tests.support_sharing import Shared, shared

__all__ = ["shared"]  # a fixture


def everything(directory: Path) -> list[Path]:
    """Return all files, sockets and directories below a directory."""
    return [
        Path(top, name) for top, below, files in os.walk(directory) for name in [*below, *files]
    ]


def is_private(path: Path) -> bool:
    """Tell whether only its owner can use something."""
    found = path.lstat()
    return found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077


def is_reachable(path: Path, directory: Path) -> bool:
    """Tell whether somebody else gets at something below a directory that is open to all."""
    above = [one for one in path.parents if directory in one.parents]
    return not any(map(is_private, [path, *above]))


@pytest.fixture(autouse=True)
def _careless_user() -> object:
    """Everybody may use what is made without thinking of it."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_all_that_a_shared_server_has_on_the_disk_is_private_and_holds_no_key(
    shared: Shared, tmp_path: Path
) -> None:
    server = shared.started(config={"api_key": "auto"})
    key = str(server.api_key)
    (door,) = shared.doors
    assert stat.S_ISSOCK(door.lstat().st_mode)
    temporary = tmp_path / "temporary"
    made = [*everything(shared.path), *everything(temporary)]
    assert {path.suffix for path in made} >= {".door", ".json", ".lock", ".log"}
    assert [path for path in made if is_reachable(path, tmp_path)] == []
    texts = [path.read_bytes() for path in made if path.is_file()]
    assert [text for text in texts if key.encode() in text] == []


def test_the_directories_of_locks_are_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for directory in (runtime.directory(), runtime.subdirectory("warm")):
        assert stat.S_IMODE(os.lstat(directory).st_mode) == 0o700
    door = tmp_path / "a.door"
    with doors.listener(str(door)):
        assert is_private(door)


def test_a_server_and_its_guardian_listen_for_this_machine_alone(shared: Shared) -> None:
    server = shared.started()
    kin = Kin.of(server)
    listening = process.listening([kin.watcher, kin.keeper, kin.server])
    assert listening == [("127.0.0.1", server.port)]
