"""Who of a run's workers on this host has which GPU; the kernel frees what a dead one had."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

from pytest_mlc_server import runtime


class Claims:
    """The GPUs that this process has among the workers of one run on this host.

    Parameters
    ----------
    run
        Id of the run: other runs do not count.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._mine: set[str] = set()

    def has(self, devices: Sequence[str]) -> bool:
        """Tell whether this process has all of some devices already."""
        return self._mine.issuperset(devices)

    def take(self, devices: Sequence[str]) -> bool:
        """Take devices until this process ends in any way; tell whether all of them were free.

        Raises
        ------
        ConfigError
            If the directory for locks cannot be used.
        """
        import fcntl

        file = _file(os.path.join(runtime.directory(), "gpus.lock"), os.getpid())
        new = [device for device in devices if device not in self._mine]
        taken: list[str] = []
        for device in new:
            try:
                # A lock on one byte of a file that stays: it is this process's alone (a fork does
                # not inherit it), and no run leaves a file of its own behind.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._place(device))
            except OSError:
                for one in taken:
                    fcntl.lockf(file, fcntl.LOCK_UN, 1, self._place(one))
                return False
            taken.append(device)
        self._mine.update(new)
        return True

    def _place(self, device: str) -> int:
        import hashlib

        name = f"{self._run}\n{device}".encode()
        return int.from_bytes(hashlib.sha256(name).digest()[:7], "big")  # within a file's offsets


@functools.cache
def _file(path: str, pid: int) -> int:  # noqa: ARG001 - a fork must not share its parent's
    # One descriptor for a process, and never closed: closing any would free all of its locks.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
