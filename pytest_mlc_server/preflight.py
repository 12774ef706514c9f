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

from pytest_mlc_server import process
from pytest_mlc_server.config import Merged, ServerConfig
from pytest_mlc_server.errors import ConfigError
from pytest_mlc_server.values import unknown_override_text, unknown_overrides


def check(config: ServerConfig) -> None:
    """Check a configuration against the file system and the ports of this machine.

    Raises
    ------
    ConfigError
        With all problems found.
    """
    __tracebackhide__ = True
    if config.engine == "external":
        return
    problems = [
        *_model_problems(config),
        *_python_problems(config),
        *override_problems(config),
        *_port_problems(config),
        *_directory_problems(config),
    ]
    if problems:
        raise ConfigError(problems)


def override_problems(config: ServerConfig) -> list[str]:
    """Return what is wrong with keys of overrides that this package does not know.

    Only then is the installed ``mlc_llm`` looked into: it may be newer.
    """
    unknown = unknown_overrides(config.overrides)
    if not unknown:
        return []
    installed = installed_override_keys(config.python)
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


def _model_problems(config: ServerConfig) -> list[str]:
    if config.engine == "sim" or config.model is None:
        return []
    problems = []
    path = _in_cwd(config, config.model)
    if "://" not in config.model:
        file = os.path.join(path, "mlc-chat-config.json")
        if not os.path.exists(path):
            problems.append(
                f"{config.describe('model')}: there is no directory {os.path.abspath(path)}"
            )
        elif os.path.isdir(path) and not os.path.isfile(file):
            problems.append(
                f"{config.describe('model')}: the directory has no mlc-chat-config.json; "
                "`mlc_llm gen_config` makes one, and `mlc_llm convert_weight` the weights"
            )
        elif not os.path.isdir(path):
            problems.append(
                f"{config.describe('model')}: this is a file; give the model's directory"
            )
    library = Merged(config).model_lib
    if library is not None and "://" not in library:
        full = _in_cwd(config, library)
        if not os.path.isfile(full):
            problems.append(
                f"{config.describe('model_lib')}: there is no file {os.path.abspath(full)}"
            )
    return problems


def _python_problems(config: ServerConfig) -> list[str]:
    if config.python is None or config.engine == "sim":
        return []
    path = config.python if os.sep not in config.python else _in_cwd(config, config.python)
    if shutil.which(path) is None:
        return [f"{config.describe('python')}: there is no such program"]
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


def _port_problems(config: ServerConfig) -> list[str]:
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
