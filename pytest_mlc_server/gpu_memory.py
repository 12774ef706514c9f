"""Whether the weights of all workers' servers fit into the GPUs; asked before any of them starts.

NVML tells what a GPU has. Where it is absent, or anything else is not known, nothing is said.
"""

from __future__ import annotations

import os
from collections import Counter

from pytest_mlc_server import caches, gpus, model_files
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.devices import Devices, Group, group_size
from pytest_mlc_server.errors import ConfigError, EngineUnavailableError
from pytest_mlc_server.merging import Merged


def check(config: ServerConfig, devices: Devices, workers: int) -> None:
    """Refuse to load more copies of a model than the memory of a GPU holds.

    Only weights are counted, and all memory of the GPU: what is refused cannot work.

    Parameters
    ----------
    config
        The session's configuration.
    devices
        The GPUs that were asked for.
    workers
        Number of pytest-xdist workers on this host that start a server each.

    Raises
    ------
    ConfigError
        If they do not fit.
    """
    __tracebackhide__ = True
    if workers < 2 or config.engine != "mlc":
        return
    weights = weights_of(config)
    if not weights:
        return
    size = group_size(config)
    environment = gpus.environment_of(config.env)
    if devices:
        groups = _spread(config, devices)
        environment = {**gpus.with_order(environment), **environment}
    else:
        groups = _same(config, size, environment)
    if not groups:
        return
    copies = Counter(gpu for worker in range(workers) for gpu in groups[worker % len(groups)])
    for gpu, number in copies.items():
        total = gpus.total_memory(gpu, environment) if number > 1 else None
        share = weights // size
        if total is not None and number * share > total:
            raise ConfigError(
                f"{config.describe('model')}: {workers} pytest-xdist workers would load {number} "
                f"copies of it on GPU {gpu}: {number} x {_gib(share)} of weights, and the GPU has "
                f"{_gib(total)}; {_remedy(bool(devices))}"
            )


def _remedy(spread: bool) -> str:
    one = "let all workers share one server (--mlc-scope run)"
    other = "list more GPUs in --mlc-devices" if spread else "spread them with --mlc-devices"
    return f"{one}, {other}, or start fewer workers (-n)"


def _gib(number: int) -> str:
    return f"{number / (1 << 30):.1f} GiB"


def weights_of(config: ServerConfig) -> int:
    """Return the bytes of the weights that a server loads, as far as they are known."""
    environment = gpus.environment_of(config.env)
    cwd = config.cwd or os.getcwd()
    if (Merged(config).model_lib or "").startswith("mock://"):
        return 0
    models = [config.model, *Merged(config).additional_models]
    total = 0
    for model in models:
        name = model if isinstance(model, str) else model[0] if model else ""
        directory = caches.directory(name, cwd, environment) if name else None
        total += (model_files.weights_bytes(directory) or 0) if directory else 0
    return total


def _spread(config: ServerConfig, devices: Devices) -> list[Group]:
    try:
        kind = devices.kind(config)
        return devices.groups(config, kind) if kind == "cuda" else []
    except EngineUnavailableError:
        return []


def _same(config: ServerConfig, size: int, environment: dict[str, str]) -> list[Group]:
    """Return the GPUs that every worker's server takes where nothing spreads them."""
    kind, _, index = config.device.partition(":")
    if kind not in ("auto", "cuda"):
        return []
    names = gpus.allowed("cuda", environment)
    if names is None:
        names = gpus.nvidia()
    first = int(index or 0)
    group = tuple(names[first : first + size])
    return [group] if group else []
