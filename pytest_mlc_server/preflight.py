"""Mistakes that can be found without starting anything.

It never refuses what the real server would serve.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from pytest_mlc_server import caches, model_files, process
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.errors import ConfigError
from pytest_mlc_server.merging import Merged
from pytest_mlc_server.overrides import unknown_override_text, unknown_overrides


def check(config: ServerConfig, extra_env: Mapping[str, str] | None = None) -> None:
    """Check a configuration against the file system and the ports of this machine.

    Parameters
    ----------
    config
        The configuration.
    extra_env
        Environment variables that the server gets beside those of the configuration.

    Raises
    ------
    ConfigError
        With all problems found.

    Warns
    -----
    UserWarning
        Of what may be a mistake and cannot be told for sure.
    """
    __tracebackhide__ = True
    found = problems(config, extra_env)
    if found:
        raise ConfigError(found)
    if config.engine == "external":
        return
    if config.api_key is None and not _is_local(config.host):
        warnings.warn(
            f"{config.describe('host')}: whoever reaches this machine can use the server, and its "
            "debug endpoints; --mlc-api-key auto makes a key (it guards /v1 alone)",
            stacklevel=4,
        )


def problems(config: ServerConfig, extra_env: Mapping[str, str] | None = None) -> list[str]:
    """Return all that `check` would raise."""
    if config.engine == "external":
        return []
    environment = {**os.environ, **config.env, **(extra_env or {})}
    return [
        *_model_problems(config, environment),
        *_python_problems(config),
        *_script_problems(config),
        *override_problems(config),
        *port_problems(config),
        *_directory_problems(config),
    ]


def override_problems(config: ServerConfig) -> list[str]:
    """Return what is wrong with keys of overrides that this package does not know.

    Only then is the installed ``mlc_llm`` looked into: it may be newer.
    """
    unknown = unknown_overrides(config.overrides)
    if not unknown:
        return []
    installed = installed_override_keys(_interpreter(config))
    return [
        f"{config.describe('overrides')}: {unknown_override_text(key)}"
        for key in unknown
        if key not in installed
    ]


def installed_override_keys(python: str | None) -> frozenset[str]:
    """Return the override keys that the installed ``mlc_llm`` takes, read from its source.

    Importing it would take seconds. Without an ``mlc_llm`` there are none.

    Parameters
    ----------
    python
        Interpreter to look into; None for the running one.
    """
    source = _serve_source(python)
    if source is None:
        return frozenset()
    try:
        with open(source, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return frozenset()
    return frozenset(re.findall(r"add_argument\(\s*[\"']--([a-z0-9]+(?:_[a-z0-9]+)*)[\"']", text))


def _serve_source(python: str | None) -> str | None:
    if python is None or python == sys.executable:
        try:
            spec = importlib.util.find_spec("mlc_llm")
        except (ImportError, ValueError):
            return None
        root = spec.origin if spec else None
    else:
        import subprocess

        look = "import importlib.util as u; s = u.find_spec('mlc_llm'); print(s and s.origin or '')"
        try:
            found = subprocess.run(
                [python, "-c", look], capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        root = found.stdout.strip() or None
    return os.path.join(os.path.dirname(root), "cli", "serve.py") if root else None


def _in_cwd(config: ServerConfig, path: str) -> str:
    return os.path.join(config.cwd or os.getcwd(), path)


def _model_problems(config: ServerConfig, environment: Mapping[str, str]) -> Iterator[str]:
    if config.engine == "sim":
        return
    library = Merged(config).model_lib
    mock = config.engine == "mock" or (library or "").startswith("mock://")
    wanted = [("model", config.model), ("embedding_model", config.embedding_model)]
    for name, model in wanted:
        if model is None:
            continue
        path = _in_cwd(config, model)
        if model.startswith("HF://"):
            found = _download_problems(model, environment)
        else:
            found = model_files.model_problems(path, weights=not (mock and name == "model"))
        for problem in found:
            yield f"{config.describe(name)}: {problem}"
    libraries = (("model_lib", library), ("embedding_model_lib", config.embedding_model_lib))
    for name, file in libraries:
        if file is not None and "://" not in file:
            wrong = model_files.library_problem(_in_cwd(config, file))
            if wrong is not None:
                yield f"{config.describe(name)}: {wrong}"


def _download_problems(model: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield why a model cannot be downloaded: upstream's policy, and what its cache holds.

    After upstream's ``mlc_llm/support/download_cache.py`` and ``constants.py``.
    """
    policy = environment.get("MLC_DOWNLOAD_CACHE_POLICY", "ON")
    name = model.removeprefix("HF://")
    if name.count("/") != 1 or not all(name.split("/")):
        yield "expected HF://organisation/name"
        return
    if policy == "OFF":
        yield "MLC_DOWNLOAD_CACHE_POLICY=OFF forbids every HF:// model; give its directory"
    if policy != "READONLY":
        return
    places = caches.places(model, environment)
    if not any(os.path.isdir(place) for place in places):
        yield (
            "MLC_DOWNLOAD_CACHE_POLICY=READONLY forbids its download, and it is not cached in "
            f"{' or '.join(places)}"
        )


def _interpreter(config: ServerConfig) -> str | None:
    python = config.python
    return _in_cwd(config, python) if python is not None and os.sep in python else python


def _python_problems(config: ServerConfig) -> list[str]:
    if config.python is None or config.engine == "sim":
        return []
    if shutil.which(_interpreter(config) or "") is None:
        return [f"{config.describe('python')}: there is no such program"]
    return []


def _script_problems(config: ServerConfig) -> list[str]:
    if config.sim_script is None:
        return []
    path = Path(os.path.abspath(_in_cwd(config, config.sim_script)))
    try:
        # The simulator's own reader, in the interpreter that the simulator will have.
        from pytest_mlc_server.sim import script

        script.load_script(path)
    except ImportError:
        return []  # the start says which extra is missing
    except ValueError as error:
        return [f"{config.describe('sim_script')}: {error}"]
    return []


def _directory_problems(config: ServerConfig) -> list[str]:
    problems = []
    if config.cwd is not None and not os.path.isdir(config.cwd):
        problems.append(f"{config.describe('cwd')}: there is no such directory")
    if config.log_dir is not None:
        directory = os.path.abspath(_in_cwd(config, config.log_dir))
        while not os.path.exists(directory):  # it is made with the first server
            directory = os.path.dirname(directory)
        if not os.path.isdir(directory) or not os.access(directory, os.W_OK | os.X_OK):
            problems.append(f"{config.describe('log_dir')}: cannot write to {directory}")
    return problems


def port_problems(config: ServerConfig) -> list[str]:
    """Return why the port of a configuration cannot be bound now; nothing where it can."""
    if config.port == "auto":
        return []
    port = int(config.port)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        return [f"{config.describe('host')}: {error.strerror or error}"]
    with socket.socket(family, kind, protocol) as trial:
        # As the server does: a connection of the last server that is still closing is no obstacle.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(address)
        except OSError as error:
            return [_bind_problem(config, port, error)]
    return []


def _bind_problem(config: ServerConfig, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        holder = process.listener(port)
        by = f" by {holder}" if holder else ""
        return (
            f"{config.describe('port')}: port {port} is occupied{by}; "
            "stop that program, or use --mlc-port auto"
        )
    if error.errno == errno.EACCES:
        return f"{config.describe('port')}: this user may not bind port {port}"
    return f"{config.describe('host')}: cannot bind: {error.strerror}"


def _is_local(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"
