"""Where ``mlc_llm`` keeps what it downloads and compiles, and what its policies allow.

After upstream's ``mlc_llm/support/constants.py`` and ``download_cache.py``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pytest_mlc_server import model_files

#: Variables of the environment that say where the caches are and how they are used.
VARIABLES = (
    "MLC_LLM_HOME",
    "MLC_JIT_POLICY",
    "MLC_DOWNLOAD_CACHE_POLICY",
    "MLC_LLM_READONLY_WEIGHT_CACHE",
)

#: Policies under which nothing is made.
USES_ONLY = ("OFF", "READONLY")


def home(environment: Mapping[str, str]) -> str:
    """Return the directory of both caches."""
    given = environment.get("MLC_LLM_HOME")
    if given is not None:
        return given
    base = environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "mlc_llm")


def libraries(environment: Mapping[str, str]) -> str:
    """Return the directory of the libraries that were compiled just in time."""
    return os.path.join(home(environment), "model_lib")


def jit_policy(environment: Mapping[str, str]) -> str:
    """Return how libraries are compiled: ON, OFF, REDO or READONLY."""
    return environment.get("MLC_JIT_POLICY", "ON")


def download_policy(environment: Mapping[str, str]) -> str:
    """Return how models are downloaded: ON, OFF, REDO or READONLY."""
    return environment.get("MLC_DOWNLOAD_CACHE_POLICY", "ON")


def places(model: str, environment: Mapping[str, str]) -> list[str]:
    """Return the directories in which an ``HF://`` model is looked for, in upstream's order."""
    name = model.removeprefix("HF://")
    readonly = environment.get("MLC_LLM_READONLY_WEIGHT_CACHE", "")
    found = [os.path.join(base, "hf", name) for base in readonly.split(os.pathsep) if base]
    return [*found, os.path.join(home(environment), "model_weights", "hf", name)]


def directory(model: str, cwd: str, environment: Mapping[str, str]) -> str | None:
    """Return the directory of a model that is on this machine already; None if it is not.

    Parameters
    ----------
    model
        A path or ``HF://org/name``.
    cwd
        Where a relative path starts.
    environment
        The server's environment.
    """
    looked = places(model, environment) if model.startswith("HF://") else [model]
    for place in looked:
        path = os.path.join(cwd, place)
        if os.path.isfile(os.path.join(path, model_files.CONFIG)):
            return path
    return None
