"""What NVIDIA's management library tells of the GPUs, where it is there; else None, no exception.

The library is reached through the optional package ``nvidia-ml-py`` (its module is `pynvml`).
"""

from __future__ import annotations

import contextlib
import importlib
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")

#: Pause between two looks at the GPUs' processes, in seconds: the library reports no such event.
LOOK_EVERY = 0.05


@dataclass(frozen=True)
class Memory:
    """Memory of one GPU or MIG instance, in bytes.

    Parameters
    ----------
    total
        What the device has.
    free
        What no process uses.
    """

    total: int
    free: int


def devices() -> list[str] | None:
    """Return all usable devices as ``CUDA_VISIBLE_DEVICES`` names them; None if it cannot be told.

    A GPU is its index in the order of the PCI bus. Of a GPU that is split into MIG instances these
    are listed instead, by UUID: a process cannot use the GPU as a whole.
    """
    return _asked(lambda library: [name for name, _ in _all(library)])


def count() -> int | None:
    """Return the number of GPUs; None if it cannot be told."""
    return _asked(lambda library: int(library.nvmlDeviceGetCount()))


def memory(device: str) -> Memory | None:
    """Return the memory of a device; None if it cannot be told.

    Parameters
    ----------
    device
        Index in the order of the PCI bus, or a UUID, of which a beginning is enough.
    """

    def ask(library: Any) -> Memory:
        info = library.nvmlDeviceGetMemoryInfo(_handle(library, device))
        return Memory(total=int(info.total), free=int(info.free))

    return _asked(ask)


def used_by(pids: Collection[int]) -> int | None:
    """Return the bytes of all GPUs that processes use; None if it cannot be told.

    The driver knows the numbers that processes have on the host: those of a container with process
    ids of its own are never found there, and seem to use nothing.
    """
    wanted = set(pids)

    def ask(library: Any) -> int:
        total = 0
        for _, handle in _all(library):
            for process in library.nvmlDeviceGetComputeRunningProcesses(handle):
                if process.pid in wanted:
                    # A process whose share is not told holds some all the same.
                    total += process.usedGpuMemory or 1
        return total

    return _asked(ask)


def users(device: str) -> list[tuple[int, int | None]] | None:
    """Return the processes that compute on a device, and the bytes of it that each uses.

    Parameters
    ----------
    device
        As for `memory`.

    Returns
    -------
    list or None
        Pairs of process id and bytes, None for bytes that the driver does not tell; None if it
        cannot be told who they are.
    """

    def ask(library: Any) -> list[tuple[int, int | None]]:
        found = library.nvmlDeviceGetComputeRunningProcesses(_handle(library, device))
        return [(int(one.pid), one.usedGpuMemory) for one in found]

    return _asked(ask)


def wait_until_released(pids: Collection[int], timeout: float) -> bool | None:
    """Wait until processes use no memory of any GPU.

    The driver may take a moment to free what a process that was killed has used.

    Parameters
    ----------
    pids
        The processes; they have ended, or end now.
    timeout
        How long to wait, in seconds.

    Returns
    -------
    bool or None
        Whether all is released; None if it cannot be told.
    """
    deadline = time.monotonic() + timeout
    while used := used_by(pids):
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return False
        time.sleep(min(LOOK_EVERY, remaining))
    return None if used is None else True


def _asked(question: Callable[[Any], Result]) -> Result | None:
    """Ask the library; None where it is absent or cannot answer."""
    # Whatever goes wrong (no package, no driver, a driver of another version, a device that fell
    # off the bus), a test run must not end because of what it could have been told beside.
    try:
        with _library() as library:
            return question(library)
    except Exception:
        return None


@contextlib.contextmanager
def _library() -> Iterator[Any]:
    with warnings.catch_warnings():
        # The package of that name on which `pynvml` used to come warns when it is imported.
        warnings.simplefilter("ignore")
        library = importlib.import_module("pynvml")
    library.nvmlInit()
    try:
        yield library
    finally:
        library.nvmlShutdown()


def _all(library: Any) -> Iterator[tuple[str, Any]]:
    for index in range(library.nvmlDeviceGetCount()):
        handle = library.nvmlDeviceGetHandleByIndex(index)
        if _is_split(library, handle):
            yield from _instances(library, handle)
        else:
            yield str(index), handle


def _is_split(library: Any, handle: Any) -> bool:
    try:
        current, _ = library.nvmlDeviceGetMigMode(handle)
    except library.NVMLError:  # most GPUs cannot be split, and say so this way
        return False
    return bool(current)


def _instances(library: Any, handle: Any) -> Iterator[tuple[str, Any]]:
    for index in range(library.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = library.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except library.NVMLError:  # this place is not taken
            continue
        yield str(library.nvmlDeviceGetUUID(instance)), instance


def _handle(library: Any, device: str) -> Any:
    if device.isdecimal():
        return library.nvmlDeviceGetHandleByIndex(int(device))
    for index in range(library.nvmlDeviceGetCount()):
        handle = library.nvmlDeviceGetHandleByIndex(index)
        if str(library.nvmlDeviceGetUUID(handle)).startswith(device):
            return handle
    for name, handle in _all(library):
        if name.startswith(device):
            return handle
    return library.nvmlDeviceGetHandleByUUID(device)
