"""What is known of the GPUs of this machine, and what the caller's environment allows of them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping

from pytest_mlc_server import nvml

#: Device kinds whose GPUs can be chosen, and the variable that chooses them.
VARIABLES = {"cuda": "CUDA_VISIBLE_DEVICES", "rocm": "HIP_VISIBLE_DEVICES"}

#: How CUDA numbers GPUs: by speed, unless this variable says by their place on the bus, as NVML
#: and nvidia-smi do.
ORDER, BY_BUS = "CUDA_DEVICE_ORDER", "PCI_BUS_ID"

_GPU = re.compile(r"^GPU (\d+):")
_INSTANCE = re.compile(r"^\s+MIG .*\(UUID: (MIG-[^)]+)\)")


def allowed(kind: str, environment: Mapping[str, str]) -> list[str] | None:
    """Return the GPUs that an environment allows; None where it allows all.

    As the drivers read it: what stands behind an item that is no GPU (-1, say) does not count.
    """
    text = environment.get(VARIABLES[kind])
    if text is None:
        return None
    result: list[str] = []
    for item in text.split(","):
        name = item.strip()
        if not re.fullmatch(r"\d+|(?:GPU|MIG)-\S+", name):
            break
        result.append(str(int(name)) if name.isdigit() else name)
    return result


def nvidia() -> list[str]:
    """Return the GPUs that NVML, or else ``nvidia-smi``, shows; a split GPU as its MIG instances.

    No GPU is an empty list, whether there is none or nothing tells.
    """
    found = nvml.devices()
    return _shown_by_tool() if found is None else found


def _shown_by_tool() -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    import subprocess  # most runs never need it

    try:
        done = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    result: list[str] = []
    for line in done.stdout.splitlines():
        if gpu := _GPU.match(line):
            result.append(gpu.group(1))
        elif instance := _INSTANCE.match(line):
            if result and result[-1].isdecimal():
                result.pop()  # the GPU that is split
            result.append(instance.group(1))
    return result


def with_order(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what makes indices of a list mean what NVML and nvidia-smi mean by them.

    Nothing where the caller's environment names devices or an order: those numbers mean what they
    mean there.
    """
    chosen = ORDER in environment or VARIABLES["cuda"] in environment
    return {} if chosen else {ORDER: BY_BUS}


def total_memory(device: str, environment: Mapping[str, str]) -> int | None:
    """Return the bytes of a GPU; where its number may mean another GPU, those of the largest.

    Parameters
    ----------
    device
        Index or UUID.
    environment
        Environment in which the index counts.
    """
    names = [device]
    if device.isdecimal() and environment.get(ORDER) != BY_BUS:
        names = [name for name in nvml.devices() or () if name.isdecimal()]
    found = [one.total for one in map(nvml.memory, names) if one is not None]
    return max(found, default=None)


def environment_of(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a server that is given `env` beside ours."""
    return {**os.environ, **env}
