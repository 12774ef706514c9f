"""Whether this process may be forked: its threads, its descriptors, its devices.

A fork has one thread, the one that forked. What others held at that moment (a lock, a half written
structure, a connection to a GPU) stays held in the child for ever.
"""

from __future__ import annotations

import importlib.util
import os
import stat
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType
    from typing import Any

#: Whoever has one of these open or mapped has initialised a device: a context of it does not
#: survive a fork.
DEVICES = (
    "/dev/nvidia", "/dev/kfd", "/dev/dri", "/dev/dxg", "/dev/accel", "/dev/mali", "/dev/davinci",
    "/dev/kgsl",
)  # fmt: skip

#: The package whose native threads may be there: those of OpenBLAS, which ends them before a fork
#: and makes new ones when they are needed (`pthread_atfork`).
POOLED = "numpy"

#: What an import may leave open: it is the same in a process that imports by itself, and it has no
#: state that siblings would share.
_PLAIN_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


class Pools:
    """Notes which native threads appear while `POOLED` is imported, wherever that happens."""

    def __init__(self) -> None:
        self.threads: set[str] = set()

    def __enter__(self) -> Pools:
        """Begin to watch."""
        sys.meta_path.insert(0, self)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no trace."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, *_: Any) -> Any:
        """Find what the others find; its loader is watched."""
        if name != POOLED:
            return None
        self.__exit__()
        spec = importlib.util.find_spec(name)
        loader: Any = getattr(spec, "loader", None)
        if loader is None:
            return spec
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            before = threads()
            load(module)
            self.threads |= threads() - before

        loader.exec_module = exec_module
        return spec


def threads() -> set[str]:
    """Return the threads of this process, as the kernel numbers them."""
    return set(os.listdir("/proc/self/task"))


def of_threads(known: Iterable[str]) -> str:
    """Return which thread forbids a fork; empty if none does.

    Parameters
    ----------
    known
        Native threads that are known to survive one.
    """
    others = [one for one in threading.enumerate() if one is not threading.main_thread()]
    if others:
        return f"the thread {others[0].name!r} runs in it"
    if len(sys._current_frames()) > 1:
        return "a thread runs Python code in it that the module threading does not know"
    strange = threads() - {str(os.getpid()), *known}
    if strange:
        named = sorted({_name(one) for one in strange})
        return f"{len(strange)} native threads run in it ({', '.join(named)})"
    return ""


def _name(thread: str) -> str:
    try:
        with open(f"/proc/self/task/{thread}/comm") as file:
            return file.read().strip()
    except OSError:
        return "one that has just ended"


def of_devices() -> str:
    """Return which device is in use and forbids a fork; empty if none is."""
    for path in (*_open_files().values(), *_mapped()):
        if path.startswith(DEVICES):
            return f"it has initialised a device ({path})"
    return ""


def of_descriptors(numbers: Iterable[int]) -> str:
    """Return which of these descriptors its children must not share; empty if none.

    Parameters
    ----------
    numbers
        Those that imports have left open.
    """
    for number in numbers:
        try:
            kind = os.fstat(number).st_mode
            path = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or path in _PLAIN_DEVICES):
            return f"an import has left a descriptor open that servers would share ({path})"
    return ""


def descriptors() -> set[int]:
    """Return the open descriptors of this process."""
    return set(_open_files())


def _open_files() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one that looks
            continue
    return found


def _mapped() -> set[str]:
    with open("/proc/self/maps", "rb") as file:
        lines = [line.split(None, 5) for line in file]
    return {os.fsdecode(words[5].rstrip(b"\n")) for words in lines if len(words) > 5}
