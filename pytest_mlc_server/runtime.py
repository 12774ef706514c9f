"""Files of this user that outlive a process: locks. Those of somebody else are refused."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator

from pytest_mlc_server.errors import ConfigError

#: Whether directories are made where they are not there.
_makes = True


@contextlib.contextmanager
def only_looking() -> Iterator[None]:
    """Have nothing made and nothing tidied up in a block: paths are told as if all was there."""
    global _makes
    before, _makes = _makes, False
    try:
        yield
    finally:
        _makes = before


def only_looks() -> bool:
    """Tell whether this process only looks at what others have left."""
    return not _makes


def directory() -> str:
    """Return a directory that belongs to this user alone, made if it is not there.

    Raises
    ------
    ConfigError
        If it belongs to somebody else, or others may write to it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if not os.access(base, os.W_OK | os.X_OK):  # left over from another user's login, say
        base = tempfile.gettempdir()
    return _private(os.path.join(base, f"pytest-mlc-server-{os.getuid()}"))


def subdirectory(name: str) -> str:
    """Return a directory in it, made if it is not there.

    Raises
    ------
    ConfigError
        As `directory`.
    """
    return _private(os.path.join(directory(), name))


def _private(path: str) -> str:
    if not _makes and not os.path.lexists(path):
        return path
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(f"cannot make the directory {path} for locks: {error.strerror}") from None
    # Not followed: whoever may write to a shared directory could have put a link there.
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(
            f"{path} must be a directory that only this user can use: remove it, or set "
            "XDG_RUNTIME_DIR to a directory of your own"
        )
    return path


def port_lock(port: int) -> str:
    """Return the file whose lock reserves a port."""
    return os.path.join(directory(), f"port-{port}.lock")
