"""Which servers are the same: everything that shapes a server, in one text.

Two servers with the same fingerprint may stand in for each other, also in another run on another
day. When in doubt, something belongs into the fingerprint: a start too many costs time, a server
that is not what was asked for costs the truth.
"""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import json
import os
import shutil
import site
import sys
from collections.abc import Iterator
from typing import Any

from pytest_mlc_server import runs
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.engines import model_name

#: Fields of `ServerConfig` that say how to wait for a server or where to write, not what it is.
NOT_SHAPING = (
    "origins",
    "startup_timeout",
    "startup_limit",
    "stop_timeout",
    "ready",
    "launch",
    "log_dir",
    "log_live",
)

#: Environment variables by which servers of the same settings differ, by the start of their names.
VARIABLES = (
    "MLC_", "TVM_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "GPU_", "HSA_", "VK_", "NCCL_", "OMP_",
    "OPENBLAS_", "MKL_", "HF_", "LD_", "DYLD_", "PYTHON", "CONDA_", "VIRTUAL_ENV", "XDG_CACHE_HOME",
    "HOME",
)  # fmt: skip

#: Distributions whose versions shape a server, by the start of their directories' names.
DISTRIBUTIONS = ("mlc_llm", "mlc_ai", "apache_tvm", "tvm")


def fingerprint(config: ServerConfig) -> str:
    """Return what is equal for servers that may stand in for each other.

    Parameters
    ----------
    config
        The configuration; a key that was asked for as ``auto`` is still ``auto`` in it.

    Returns
    -------
    str
        A hash: settings, model files by name, size and time, the interpreter, the installed
        versions of mlc_llm and tvm, and the environment variables in `VARIABLES`.
    """
    return short_hash(shape(config))


def of_settings(config: ServerConfig) -> str:
    """Return what is equal for equal settings: enough among the processes of one run.

    What lies on the disk is left out: it may change while a run is on its way.
    """
    return short_hash(_asked(config))


def short_hash(shaped: Any) -> str:
    """Return a hash of anything that is made of plain values."""
    text = json.dumps(shaped, sort_keys=True, default=vars)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def shape(config: ServerConfig) -> dict[str, Any]:
    """Return what the fingerprint is made of."""
    python = interpreter(config)
    return {
        **_asked(config),
        "files": sorted(_files(config)),
        "interpreter": stamp(os.path.realpath(python)) if python else None,
        "installed": sorted(_installed(config, python)),
    }


def _asked(config: ServerConfig) -> dict[str, Any]:
    fields = {
        name: value
        for name, value in vars(config).items()
        if name not in NOT_SHAPING and not name.startswith("_")
    }
    fields["cwd"] = os.path.abspath(config.cwd or os.getcwd())
    if config.api_key and config.api_key != "auto":
        # Not the key itself: what is hashed must not help anybody to guess it.
        fields["api_key"] = hashlib.sha256(config.api_key.encode()).hexdigest()
    return {
        "host": runs.host(),  # hosts may share the directory of the doors
        "settings": fields,
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)
        },
    }


def interpreter(config: ServerConfig) -> str:
    """Return the interpreter that runs the server; empty if there is none of that name."""
    if config.engine == "sim" or config.python is None:
        return sys.executable
    return shutil.which(config.python) or ""


def _files(config: ServerConfig) -> Iterator[Any]:
    base = config.cwd or os.getcwd()
    named: list[str | None] = [model_name(config), config.model_lib, config.embedding_model]
    named += [config.embedding_model_lib, config.sim_script]
    for model in config.additional_models:
        named += [model] if isinstance(model, str) else list(model)
    if config.engine_config is not None:
        named.append(config.engine_config.model_lib)
    for name in named:
        if name and "://" not in name:
            yield from _tree(os.path.join(base, name))


def _tree(path: str) -> Iterator[Any]:
    """Describe a file, or all files of a directory; a model's is flat."""
    if not os.path.isdir(path):
        yield stamp(path)
        return
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_file():
                yield stamp(entry.path)


def stamp(path: str) -> Any:
    """Return what changes when a file does."""
    try:
        found = os.stat(path)
    except OSError:
        return [path, None, None]
    return [path, found.st_size, found.st_mtime_ns]


def _installed(config: ServerConfig, python: str) -> Iterator[Any]:
    """Describe what is installed where the server's interpreter looks.

    It is not asked: that would take longer than finding a server that is there. Nor does this
    process's own search path count: that of a pytest-xdist worker is not its controller's.
    """
    if config.engine == "sim":
        yield from _tree(os.path.join(os.path.dirname(__file__), "sim"))
        return
    yield from _package(os.path.dirname(os.path.abspath(__file__)))
    if python == sys.executable:
        places = [*site.getsitepackages(), site.getusersitepackages()]
        # A build of one's own may be installed by reference alone.
        for name in ("mlc_llm", "tvm"):
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin:
                yield from _package(os.path.dirname(spec.origin))
    else:
        prefix = os.path.dirname(os.path.dirname(python))
        places = glob.glob(os.path.join(prefix, "lib*", "python3*", "site-packages"))
    search = config.env.get("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    places += [place for place in search.split(os.pathsep) if place]
    for place in dict.fromkeys(map(os.path.abspath, places)):
        for name in _names(place):
            if name.startswith(DISTRIBUTIONS):
                yield from _package(os.path.join(place, name))


def _package(path: str) -> Iterator[Any]:
    """Describe what an installation or a build writes, and what running it does not.

    Not the time of a directory: the first import makes another one in it.
    """
    if not os.path.isdir(path):
        yield stamp(path)
        return
    yield [path]
    for name in _names(path):
        library = name.endswith((".so", ".dylib", ".dll"))
        if library or name in ("RECORD", "METADATA", "__init__.py", "libinfo.py", "version.py"):
            yield stamp(os.path.join(path, name))


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:  # a zip file, or nothing at all
        return []
