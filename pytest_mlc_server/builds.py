"""What a server may compile or download, and the files that keep two of them from it at once."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_mlc_server import caches, model_files, runtime
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.merging import Merged

#: Overrides that are part of what is compiled (upstream's ``serve/engine_base.py``).
SHAPING = (
    "context_window_size",
    "prefill_chunk_size",
    "sliding_window_size",
    "attention_sink_size",
    "tensor_parallel_shards",
    "pipeline_parallel_stages",
    "max_num_sequence",
    "opt",
)


@dataclass(frozen=True)
class Builds:
    """Files with which the guardian keeps builds apart.

    Parameters
    ----------
    locks
        One for each model that may be compiled or downloaded; none: nothing is kept apart.
    stamp
        Where it is remembered that nothing is to be built; empty where all is built anew.
    configs
        Configurations of the models that are directories: a change of one may need a new build.
    libraries
        How many libraries the server's log names when all are there.
    until_ready
        Whether something is downloaded after the last library is there.
    """

    locks: tuple[str, ...] = ()
    stamp: str = ""
    configs: tuple[str, ...] = ()
    libraries: int = 1
    until_ready: bool = False

    @property
    def files(self) -> str:
        """The stamp and the locks, a line each, as the guardian reads them; empty for no locks."""
        return "\n".join((self.stamp, *self.locks)) if self.locks else ""

    def order(self) -> dict[str, Any]:
        """Return what else the guardian must know."""
        return {
            "configs": self.configs,
            "libraries": self.libraries,
            "until_ready": self.until_ready,
        }


def of(config: ServerConfig, environment: Mapping[str, str], cwd: str) -> Builds:
    """Return what the server of a configuration may build.

    Parameters
    ----------
    config
        The configuration.
    environment
        The server's environment.
    cwd
        The server's directory.

    Raises
    ------
    ConfigError
        If the directory for locks cannot be used.
    """
    if config.engine != "mlc" or config.model is None:
        return Builds()
    merged = Merged(config)
    pairs = list(_models(config, merged))
    home = os.path.realpath(os.path.join(cwd, caches.home(environment)))
    built = [model for model, library in pairs if _may_build(model, library, environment)]
    if not built:
        return Builds()
    names = sorted({_resolved(model, cwd) for model in built})
    anew = caches.jit_policy(environment) == "REDO" or (
        caches.download_policy(environment) == "REDO" and _any_download(built)
    )
    shaping = {key: str(merged.overrides[key]) for key in SHAPING if key in merged.overrides}
    python = config.python or sys.executable
    whole = [home, python, config.device, *map(str, pairs), str(sorted(shaping.items()))]
    directory = runtime.directory()
    return Builds(
        locks=tuple(os.path.join(directory, f"build-{_hash([home, n])}.lock") for n in names),
        stamp="" if anew else os.path.join(directory, f"build-{_hash([cwd, *whole])}.stamp"),
        configs=tuple(
            os.path.join(_resolved(model, cwd), model_files.CONFIG)
            for model, _ in pairs
            if not model.startswith("HF://")
        ),
        libraries=1 + len(merged.additional_models),
        until_ready=config.embedding_model is not None and _any_download([config.embedding_model]),
    )


def _models(config: ServerConfig, merged: Merged) -> Iterator[tuple[str, str | None]]:
    yield config.model or "", merged.model_lib
    for more in merged.additional_models:
        yield (more, None) if isinstance(more, str) else more
    if config.embedding_model is not None:
        yield config.embedding_model, config.embedding_model_lib


def _may_build(model: str, library: str | None, environment: Mapping[str, str]) -> bool:
    compiles = library is None and caches.jit_policy(environment) not in caches.USES_ONLY
    downloads = caches.download_policy(environment) not in caches.USES_ONLY
    return compiles or (downloads and _any_download([model]))


def _any_download(models: list[str]) -> bool:
    return any(model.startswith("HF://") for model in models)


def _resolved(model: str, cwd: str) -> str:
    return model if model.startswith("HF://") else os.path.realpath(os.path.join(cwd, model))


def _hash(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode(errors="surrogateescape")).hexdigest()[:24]
