"""Whether the weights fit: into the GPU's memory, or into this machine's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_mlc_server import diagnosis, gpu_memory, gpus, nvml
from pytest_mlc_server.device_answers import Answer
from pytest_mlc_server.devices import group_size
from pytest_mlc_server.doctor.case import Case
from pytest_mlc_server.doctor.devices import device_of
from pytest_mlc_server.doctor.findings import Section
from pytest_mlc_server.doctor.programs import Check, HangsError
from pytest_mlc_server.nvml import Memory

#: How many of a GPU's processes are named.
NAMED = 5

_REMEDY = diagnosis.remedy("out of memory") or ""


@dataclass
class Gpu:
    """What NVIDIA's driver tells of one GPU."""

    name: str
    memory: Memory
    users: list[tuple[int, int | None]] = field(default_factory=list)


def look() -> list[Gpu] | None:
    """Return the GPUs of this machine; None where NVIDIA's library does not tell."""
    names = nvml.devices()
    if names is None:
        return None
    found = []
    for name in names:
        memory = nvml.memory(name)
        if memory is not None:
            found.append(Gpu(name, memory, nvml.users(name) or []))
    return found


def readable(number: int) -> str:
    """Return a number of bytes for people."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"


def section(case: Case, tvm: Check[Answer], gpus_of: Check[list[Gpu] | None]) -> Section:
    """Tell of the memory that the server's device has."""
    result = Section("memory")
    weights = gpu_memory.weights_of(case.config) if case.config.engine == "mlc" else 0
    result.facts["weights"] = weights
    kind, _, index = device_of(case, tvm).partition(":")
    if kind == "cuda":
        _add_gpus(result, case, gpus_of, int(index or 0), weights)
    elif kind == "cpu":
        _add_ram(result, weights)
    else:
        what = kind or "a device that is not known"
        result.add("memory.gpu-unknown", f"the memory of {what} cannot be told")
    return result


def _add_gpus(
    result: Section, case: Case, gpus_of: Check[list[Gpu] | None], first: int, weights: int
) -> None:
    try:
        there = gpus_of.get()
    except HangsError:
        result.add(
            "check.hangs",
            "NVIDIA's driver did not answer within the time limit",
            "look at the machine: nvidia-smi, dmesg",
        )
        return
    if there is None:
        result.add(
            "memory.gpu-unknown",
            "the memory of the GPUs cannot be told: NVML is not there",
            "install the extra `gpu`",
            "pip install 'pytest-mlc-server[gpu]'",
        )
        return
    size = group_size(case.config)
    chosen = _chosen(there, case, first, size)
    result.facts["gpus"] = [_facts(gpu) for gpu in chosen]
    share = weights // size
    for gpu in chosen:
        _add_gpu(result, gpu, share)
    if len(chosen) < size:
        result.add(
            "devices.not-there",
            f"the model runs on {size} GPUs at once (tensor_parallel_shards x "
            f"pipeline_parallel_stages), and {len(chosen)} can be used",
            "show the server more GPUs (CUDA_VISIBLE_DEVICES), or lower tensor_parallel_shards "
            "with --mlc-overrides",
        )


def _chosen(there: list[Gpu], case: Case, first: int, size: int) -> list[Gpu]:
    allowed = gpus.allowed("cuda", case.environment)
    by_name = {gpu.name: gpu for gpu in there}
    if allowed is None:
        usable: Sequence[Gpu] = there
    else:  # of a UUID, a beginning is enough
        usable = [
            gpu
            for name in allowed
            for gpu in ([by_name[name]] if name in by_name else _named(name))
        ]
    return list(usable[first : first + size])


def _named(uuid: str) -> list[Gpu]:
    memory = nvml.memory(uuid)
    return [] if memory is None else [Gpu(uuid, memory, nvml.users(uuid) or [])]


def _facts(gpu: Gpu) -> dict[str, object]:
    users = [{"pid": pid, "bytes": used, "command": _command(pid)} for pid, used in gpu.users]
    return {
        "name": gpu.name,
        "total": gpu.memory.total,
        "free": gpu.memory.free,
        "processes": users,
    }


def _add_gpu(result: Section, gpu: Gpu, share: int) -> None:
    memory = gpu.memory
    text = f"GPU {gpu.name}: {readable(memory.free)} of {readable(memory.total)} free"
    weights = f"the weights are {readable(share)}" if share else ""
    users = ", ".join(_user(pid, used) for pid, used in gpu.users[:NAMED])
    users += f" and {len(gpu.users) - NAMED} more" if len(gpu.users) > NAMED else ""
    if share > memory.total:
        result.add("memory.gpu-too-small", f"{text}, and {weights}", _REMEDY)
    elif share > memory.free:
        stop = f"stop what uses the GPU ({users}), or wait for it" if users else _REMEDY
        result.add("memory.gpu-busy", f"{text}, and {weights}", stop)
    else:
        result.add("memory.gpu", f"{text}; {weights}" if weights else text)
    if users and share <= memory.free:
        result.add("memory.gpu-used", f"GPU {gpu.name} is used by {users}")


def _user(pid: int, used: int | None) -> str:
    amount = f", {readable(used)}" if used else ""
    command = _command(pid)
    return f"process {pid} ({command}{amount})" if command else f"process {pid}{amount}"


def _command(pid: int) -> str:
    import psutil

    try:
        return str(psutil.Process(pid).name())
    except (psutil.Error, OSError):  # of a container with process ids of its own
        return ""


def _add_ram(result: Section, weights: int) -> None:
    import psutil

    memory = psutil.virtual_memory()
    result.facts.update(total=int(memory.total), available=int(memory.available))
    text = f"{readable(memory.available)} of {readable(memory.total)} available"
    if weights > memory.available:
        result.add("memory.ram-short", f"{text}, and the weights are {readable(weights)}", _REMEDY)
    else:
        more = f"; the weights are {readable(weights)}" if weights else ""
        result.add("memory.ram", f"{text}{more}")
