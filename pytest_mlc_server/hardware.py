"""What the answer to "which devices are there" depends on, without asking any driver."""

from __future__ import annotations

import glob
import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

#: Environment variables that show or hide devices, or lead to another TVM, by the start of their
#: names.
VARIABLES = (
    "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "HSA_", "GPU_", "VK_", "OCL_", "OPENCL_", "POCL_", "MTL_",
    "METAL_", "MESA_", "DRI_", "XDG_DATA_", "XDG_CONFIG_", "TVM_", "LD_", "DYLD_", "PYTHON",
    "VIRTUAL_ENV", "CONDA_PREFIX",
)  # fmt: skip

#: Of those, what runners of tests set anew for each run.
PASSING = ("PYTHONHASHSEED", "PYTHONPYCACHEPREFIX")

#: Files whose size and time tell one driver from another. Names without the version: the links that
#: a driver's installation sets anew.
FILES = (
    *(
        f"{directory}/{library}"
        for directory in (
            "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib",
            "/usr/lib/wsl/lib", "/usr/local/cuda/compat", "/usr/local/nvidia/lib64",
            "/opt/rocm/lib", "/run/opengl-driver/lib",
        )
        for library in ("libcuda.so.1", "libamdhip64.so", "libvulkan.so.1", "libOpenCL.so.1")
    ),
)  # fmt: skip

#: Directories and patterns of which the names count: device nodes and the lists of drivers.
NODES = ("/dev/nvidia*", "/dev/kfd", "/dev/dri/*", "/dev/dxg", "/dev/mali*")
LISTS = ("/etc/vulkan/icd.d/*", "/usr/share/vulkan/icd.d/*", "/etc/OpenCL/vendors/*")

#: What the kernel says of its drivers.
KERNEL = ("/proc/driver/nvidia/version", "/sys/module/nvidia/version", "/sys/module/amdgpu/version")

#: Device nodes of GPUs that are for computing: where there is one, no GPU is a surprise.
COMPUTE = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")


def interpreter(python: str, environment: Mapping[str, str], cwd: str) -> str | None:
    """Return the program that the guardian will execute for a name, None if there is none."""
    if os.path.dirname(python):
        python = os.path.join(cwd, python)
    return shutil.which(python, path=environment.get("PATH"))


def key(python: str, environment: Mapping[str, str], cwd: str) -> list[Any]:
    """Return what changes when another answer is to be expected.

    Parameters
    ----------
    python
        The server's interpreter.
    environment
        The server's environment.
    cwd
        The server's directory.
    """
    return [
        platform.platform(),
        stamp(python),
        os.path.realpath(python),
        # The server's directory is on its import path.
        cwd if any(os.path.lexists(os.path.join(cwd, name)) for name in ("tvm", "tvm.py")) else "",
        sorted(
            pair
            for pair in environment.items()
            if pair[0].startswith(VARIABLES) and pair[0] not in PASSING
        ),
        [_text(path) for path in KERNEL],
        [[path, os.access(path, os.R_OK | os.W_OK)] for path in _found(NODES)],
        stamps([*FILES, *_found(LISTS)]),
    ]


def stamps(paths: Iterable[str]) -> list[Any]:
    """Return what tells files from later ones of the same names; those that are there."""
    return [found for found in map(stamp, paths) if found is not None]


def stamp(path: str) -> list[Any] | None:
    """Return what tells a file from a later one of its name; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [path, found.st_size, found.st_mtime_ns, found.st_ino]


def has_compute_nodes() -> bool:
    """Tell whether the kernel shows a GPU that is made for computing."""
    return bool(_found(COMPUTE))


def _found(patterns: Iterable[str]) -> list[str]:
    return sorted(path for pattern in patterns for path in glob.glob(pattern))


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
