"""The devices of the machine that is simulated: it has every GPU, and one CPU."""

from __future__ import annotations

from pytest_mlc_server import values
from pytest_mlc_server.sim.logs import log

GREEN, RED, BOLD, PLAIN = "\x1b[92m", "\x1b[91m", "\x1b[1m", "\x1b[0m"

# The order in which the real server looks for them.
_DETECTED = ("cuda", "rocm", "metal", "vulkan", "opencl", "cpu")

_ALIASES = {"llvm": "cpu", "nvptx": "cuda", "cl": "opencl"}


def announce_device(hint: str) -> None:
    """Write what the real server writes as it looks for a device.

    Tests run where there is no GPU, and their servers are configured for where there is one: so any
    number of devices of any kind is found. Asked to choose, it chooses the CPU.

    Parameters
    ----------
    hint : str
        As ``--device``: ``auto``, a kind, or a kind and a number.

    Raises
    ------
    ValueError
        There is no such device on any machine.
    """
    if hint == "auto":
        for kind in _DETECTED[:-1]:
            _not_found(f"{kind}:0")
        _found("cpu:0")
        log("INFO", "auto_device.py:36", f"Using device: {BOLD}cpu:0{PLAIN}")
        return
    kind, index = _parse(hint)
    if kind == "cpu":
        _found("cpu:0")
        if index != 0:
            _not_found(f"cpu:{index}")
            raise ValueError(f"Device is not found on your local environment: {hint}")
        return
    for number in range(index + 1):
        _found(f"{kind}:{number}")


def _parse(hint: str) -> tuple[str, int]:
    kind, colon, index = hint.partition(":")
    kind = _ALIASES.get(kind, kind)
    try:
        if kind not in values.DEVICE_KINDS:
            raise ValueError(f"Unknown device: {kind}")
        return kind, int(index) if colon else 0
    except ValueError as error:
        raise ValueError(f"Invalid device name: {hint}") from error


def _found(device: str) -> None:
    log("INFO", "auto_device.py:80", f"{GREEN}Found{PLAIN} device: {device}")


def _not_found(device: str) -> None:
    log("INFO", "auto_device.py:91", f"{RED}Not found{PLAIN} device: {device}")
