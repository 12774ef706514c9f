"""Which GPUs the server of which pytest-xdist worker gets: the settings devices, share-devices."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from pytest_mlc_server import caches, gpus, model_files
from pytest_mlc_server.claims import Claims
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.errors import ConfigError, EngineUnavailableError
from pytest_mlc_server.merging import Merged

#: Engines that have no GPU to choose: the settings may stay where a run falls back to them.
WITHOUT_GPU = ("mock", "sim")

Group = tuple[str, ...]


class Devices:
    """The GPUs that were asked for, as one process of a run sees them.

    A server finds its GPUs through ``CUDA_VISIBLE_DEVICES`` (``HIP_VISIBLE_DEVICES``) and is given
    a device without an index: the cache of libraries that are compiled just in time has the index
    in its key, so that ``cuda:1`` would compile anew what ``cuda:0`` has.

    Parameters
    ----------
    wanted
        The list, ``auto``, or None where nobody asked.
    origin
        The setting with its value and where it was set, for people.
    shared
        Whether several workers' servers may share GPUs.
    worker
        Id of the pytest-xdist worker; None for a process whose server gets the first group: the
        only one, or one of scope `run`.
    run
        Id of the run, the same for all of its workers.
    """

    def __init__(
        self,
        wanted: str | Sequence[str] | None,
        *,
        origin: str = "devices",
        shared: bool = False,
        worker: str | None = None,
        run: str = "",
    ) -> None:
        self._wanted = wanted
        self._origin = origin
        self._shared = shared
        self._worker = worker
        digits = re.search(r"\d+$", worker or "")
        self._number = int(digits.group()) if digits else 0
        self._claims = Claims(run)

    def __bool__(self) -> bool:
        return self._wanted is not None

    def applies(self, config: ServerConfig) -> bool:
        """Tell whether the servers of a configuration get their GPUs from here."""
        return bool(self) and config.engine not in WITHOUT_GPU and "devices" not in config.origins

    def assign(self, config: ServerConfig) -> ServerConfig:
        """Return a configuration with the GPUs of this process.

        Parameters
        ----------
        config
            What is to be served; one that has its GPUs already is returned as it is.

        Raises
        ------
        ConfigError
            If another setting contradicts, or no group of GPUs is left.
        EngineUnavailableError
            If there is no GPU.
        """
        __tracebackhide__ = True
        if not self.applies(config):
            return config
        problems = self.problems(config)
        if problems:
            raise ConfigError(problems)
        kind = self.kind(config)
        mine = self._mine(self.groups(config, kind))
        env = {**config.env, gpus.VARIABLES[kind]: ",".join(mine)}
        if kind == "cuda":
            env = {**gpus.with_order(gpus.environment_of(config.env)), **env}
        origins = {**config.origins, "devices": self._origin, "device": self._origin}
        return config.replace(device=kind, env=env).replace(origins=origins)

    def check(self, config: ServerConfig, workers: int) -> None:
        """Check what can be told before any worker starts.

        Parameters
        ----------
        config
            The session's configuration.
        workers
            Number of workers on this host that want a server each.

        Raises
        ------
        ConfigError
            If another setting contradicts, or there are more workers than groups of GPUs.
        """
        __tracebackhide__ = True
        if not self.applies(config):
            return
        problems = self.problems(config)
        if problems:
            raise ConfigError(problems)
        if self._wanted == "auto" and workers < 2:
            return  # which GPUs there are is asked when a test wants a server
        try:
            groups = self.groups(config, self.kind(config))
        except EngineUnavailableError:
            return  # that is for the tests that want a server: they may be skipped for it
        if workers > len(groups) and not self._shared:
            raise ConfigError(
                f"{self._origin}: {workers} pytest-xdist workers on this host want a server each, "
                f"and there {_are(groups)}; {_REMEDY.format(n=len(groups))}"
            )

    def problems(self, config: ServerConfig) -> list[str]:
        """Return all contradictions with other settings, each naming both places."""
        if config.engine == "external":
            what = "url" if config.url is not None else "engine"
            problem = (
                f"{self._origin} and {config.describe(what)} contradict: the GPUs of a server that "
                "is already there were chosen where it was started; leave one of them out"
            )
            return [problem]
        problems = []
        kind, colon, _ = config.device.partition(":")
        if colon and kind in gpus.VARIABLES:
            problems.append(
                f"{self._origin} and {config.describe('device')} contradict: both choose a GPU; "
                f"give the device without its index (--mlc-device {kind}), or leave one of them out"
            )
        elif kind not in ("auto", *gpus.VARIABLES):
            problems.append(
                f"{self._origin} and {config.describe('device')} contradict: only the GPUs of cuda "
                "and rocm can be spread; leave one of them out"
            )
        for variable in gpus.VARIABLES.values():
            if variable in config.env:
                origin = config.origins.get("env", "the configuration")
                problems.append(
                    f"{self._origin} and env {variable}={config.env[variable]!r} (from {origin}) "
                    "contradict: both choose a GPU; leave one of them out"
                )
        uuids = [name for name in self._listed() if not name.isdecimal()]
        if kind == "rocm" and uuids:
            problems.append(
                f"{self._origin} and {config.describe('device')} contradict: "
                f"{gpus.VARIABLES['rocm']} takes indices, and {uuids[0]} is none"
            )
        return problems

    def kind(self, config: ServerConfig) -> str:
        """Return the kind of the GPUs: ``cuda`` or ``rocm``.

        Raises
        ------
        EngineUnavailableError
            If the device is ``auto``, and nothing shows a GPU.
        """
        kind = config.device.partition(":")[0]
        if kind != "auto":
            return kind
        if any(not name.isdecimal() for name in self._listed()) or gpus.nvidia():
            return "cuda"
        raise EngineUnavailableError(
            f"{self._origin}: no GPU found: neither NVML (pip install 'pytest-mlc-server[gpu]') "
            "nor nvidia-smi shows one\nName the kind of the GPUs with --mlc-device cuda or rocm if "
            "there are some all the same; else leave the devices out, or use the simulator: "
            "--mlc-engine sim"
        )

    def groups(self, config: ServerConfig, kind: str) -> list[Group]:
        """Return the groups of GPUs that one server gets each.

        Raises
        ------
        ConfigError
            If the GPUs cannot be had or cannot be divided into such groups.
        EngineUnavailableError
            If there is no GPU.
        """
        size = group_size(config)
        names = self._names(kind)
        if size > 1 and any(name.startswith("MIG-") for name in names):
            raise ConfigError(
                f"{self._origin}: the model runs on {size} GPUs at once, and a process can use one "
                "MIG instance alone; list whole GPUs"
            )
        if len(names) % size or len(names) < size:
            raise ConfigError(
                f"{self._origin}: the model runs on {size} GPUs at once (tensor_parallel_shards x "
                f"pipeline_parallel_stages), and {len(names)} cannot be divided into groups of "
                f"{size}: {', '.join(names)}"
            )
        return [tuple(names[start : start + size]) for start in range(0, len(names), size)]

    def describe(self, config: ServerConfig) -> str:
        """Return what the run's header says of the devices; empty where nobody asked for any."""
        if self._wanted is None:
            return ""
        shown = ",".join(self._listed()) or "auto"
        if config.engine in WITHOUT_GPU:
            return f", devices {shown} (not used: engine {config.engine} has no GPU)"
        return f", devices {shown}{' shared' if self._shared else ''}"

    def _listed(self) -> Sequence[str]:
        return () if self._wanted is None or isinstance(self._wanted, str) else self._wanted

    def _names(self, kind: str) -> list[str]:
        """Return the GPUs to divide."""
        allowed = gpus.allowed(kind, os.environ)
        variable = gpus.VARIABLES[kind]
        if listed := list(self._listed()):
            self._check_listed(listed, allowed, variable)
            return listed
        found = allowed if allowed is not None else gpus.nvidia() if kind == "cuda" else []
        if found:
            return found
        if allowed is not None:
            why = f"{variable}={os.environ[variable]!r} in the environment allows none"
        elif kind == "rocm":
            why = f"the GPUs of ROCm are not looked for; list them, or set {variable}"
        else:
            why = "neither NVML (pip install 'pytest-mlc-server[gpu]') nor nvidia-smi shows one"
        raise EngineUnavailableError(f"{self._origin}: no GPU found: {why}")

    def _check_listed(self, listed: list[str], allowed: list[str] | None, variable: str) -> None:
        for name in listed:
            # An index and a UUID may be the same GPU: only what is comparable is compared.
            alike = [one for one in allowed or () if one.isdecimal() == name.isdecimal()]
            known = any(one.startswith(name) or name.startswith(one) for one in alike)
            if name.isdecimal():
                known = name in alike
            if allowed is not None and not known and len(alike) == len(allowed):
                raise ConfigError(
                    f"{self._origin} and {variable}={os.environ[variable]!r} in the environment "
                    f"contradict: GPU {name} is not among those that the caller may use"
                )

    def _mine(self, groups: list[Group]) -> Group:
        if self._worker is None:
            return groups[0]
        if self._shared:
            return groups[self._number % len(groups)]
        # Worker n prefers group n. One that replaces a crashed worker has a number above all of
        # them, and on a host of several the numbers do not begin at 0.
        preferred = self._number % len(groups)
        in_order = sorted(groups, key=lambda group: not self._claims.has(group))
        if not self._claims.has(in_order[0]):
            in_order = groups[preferred:] + groups[:preferred]
        for group in in_order:
            if self._claims.take(group):
                return group
        raise ConfigError(
            f"{self._origin}: there {_are(groups)}, and other pytest-xdist workers of this run "
            f"have {'it' if len(groups) == 1 else 'them'}: none is left for {self._worker}; "
            + _REMEDY.format(n=len(groups))
        )


_REMEDY = (
    "start {n} at most (-n {n}), let all share one server (--mlc-scope run), or let servers share "
    "GPUs (--mlc-share-devices)"
)


def _are(groups: list[Group]) -> str:
    if len(groups[0]) == 1:
        return "is 1 GPU" if len(groups) == 1 else f"are {len(groups)} GPUs"
    many = "is 1 group" if len(groups) == 1 else f"are {len(groups)} groups"
    return f"{many} of {len(groups[0])} GPUs, on which one server runs at once"


def group_size(config: ServerConfig) -> int:
    """Return on how many GPUs a model runs at once, as its configuration and the overrides say."""
    environment = gpus.environment_of(config.env)
    directory = caches.directory(config.model or "", config.cwd or os.getcwd(), environment)
    asked = model_files.parallelism(directory) if directory and config.model else {}
    overrides = Merged(config).overrides
    size = 1
    for key in model_files.PARALLEL:
        value = overrides.get(key, asked.get(key, 1))
        size *= value if isinstance(value, int) and value > 0 else 1
    return size
