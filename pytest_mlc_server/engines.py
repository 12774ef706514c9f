"""The engines behind one interface: how each is launched, and what counts as ready.

An engine is never swapped for another silently.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_mlc_server import builds, runtime
from pytest_mlc_server.builds import Builds
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.contradictions import NOT_CONFIGURED
from pytest_mlc_server.errors import ConfigError
from pytest_mlc_server.masking import masked_args
from pytest_mlc_server.merging import Merged
from pytest_mlc_server.overrides import OverrideValue
from pytest_mlc_server.process import MARK

#: The simulator's model where none is given.
SIM_MODEL = "sim-model"

#: The library name that makes the real server echo its prompt, without weights and GPU.
MOCK_LIBRARY = "mock://echo"

#: The module that each engine's server is, with the words that come before `serve`.
PROGRAMS = {
    "mlc": ("mlc_llm",),
    "mock": ("mlc_llm",),
    "sim": ("pytest_mlc_server", "sim"),
}

#: The file that runs a module where `python -m` does not do: with an API key that stands on no
#: command line, or launched in another way. Its first argument says how.
ENTRY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "launcher", "entry.py")

#: Environment variable that gives the simulator the token of its control endpoints. Not on the
#: command line: every user of the machine can read those.
SIM_TOKEN = "PYTEST_MLC_SIM_TOKEN"  # noqa: S105 - a name

#: Exit code of the simulator when its extra is not installed (``EX_UNAVAILABLE`` of sysexits).
SIM_NOT_INSTALLED = 69


def mock_model() -> str:
    """Return the model directory (configuration and tokenizer, no weights) that we ship."""
    return os.path.join(os.path.dirname(__file__), "data", "mock-model")


def model_name(config: ServerConfig) -> str | None:
    """Return the model's string as the server gets it, which is the id that it lists."""
    if config.model is not None:
        return config.model
    return {"mock": mock_model(), "sim": SIM_MODEL}.get(config.engine or "")


@dataclass(frozen=True)
class LaunchPlan:
    """What the guardian executes, and what it waits for.

    Parameters
    ----------
    argv
        Command line.
    env
        Whole environment.
    cwd
        Working directory.
    secret
        What the server reads from descriptor 3.
    lock
        File whose lock reserves the port; empty where the server chooses it.
    port
        Port that the server must bind; 0 if it chooses.
    model
        Id that the server must list.
    api_key
        Key to ask with.
    generate
        Whether one token must come back.
    builds
        What the server may compile or download, and the locks for that.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: str
    secret: str = field(repr=False)
    lock: str
    port: int
    model: str
    api_key: str | None = field(repr=False)
    generate: bool
    builds: Builds = field(default_factory=Builds)

    @property
    def command(self) -> str:
        """The command line for people, without secrets: that of a plain launch, for all."""
        shown = list(self.argv)
        if shown[1] == ENTRY:
            shown[1:3] = ["-m"]
        if self.secret:
            shown.append("--api-key=***")
        return shlex.join(masked_args(shown))

    def order(self, config: ServerConfig) -> dict[str, Any]:
        """Return what the guardian must know beside what it executes."""
        return {
            "mark": self.env[MARK],
            "host": config.host,
            "port": self.port,
            "startup_timeout": config.startup_timeout,
            "startup_limit": max(config.startup_limit, config.startup_timeout),
            "stop_timeout": config.stop_timeout,
            "expected": {
                "model": self.model,
                "api_key": self.api_key,
                "generate": self.generate,
            },
            "build": self.builds.order(),
        }


def plan(
    config: ServerConfig,
    *,
    extra_env: Mapping[str, str] | None = None,
    mark: str,
    sim_token: str = "",
    device: str = "",
) -> LaunchPlan:
    """Work out how to launch a server.

    Parameters
    ----------
    config
        A configuration that passed its checks; not `external`.
    extra_env
        Environment variables that go before those of the configuration.
    mark
        Id of the server's process tree.
    sim_token
        What the simulator's control endpoints ask for; empty for a simulator without them.
    device
        What the device ``auto`` means here; empty leaves it to the server.
    """
    if device:
        config = config.replace(device=device, origins=config.origins)
    model = model_name(config)
    if model is None:
        raise ConfigError(NOT_CONFIGURED)
    port = 0 if config.port == "auto" else int(config.port)
    env = {**environment(config, extra_env or {}), MARK: mark}
    if config.engine == "sim" and sim_token:
        env[SIM_TOKEN] = sim_token
    cwd = os.path.abspath(config.cwd or os.getcwd())
    return LaunchPlan(
        argv=(*_program(config), "serve", model, *_flags(config, port), *_script(config)),
        secret=config.api_key or "",
        lock=runtime.port_lock(port) if port else "",
        env=env,
        cwd=cwd,
        port=port,
        model=model,
        api_key=config.api_key,
        generate=config.ready == "generate" and not _only_embeds(config, model),
        builds=builds.of(config, env, cwd),
    )


def _program(config: ServerConfig) -> tuple[str, ...]:
    words = PROGRAMS[config.engine or "mlc"]
    if config.engine == "sim":
        # The simulator is part of this package, which need not be installed in `python`.
        return sys.executable, *_runner(config, "plain"), *words
    # The direct launch is what is left where there is no warm parent.
    launch = "plain" if config.launch == "plain" else "direct"
    return config.python or sys.executable, *_runner(config, launch), *words


def _runner(config: ServerConfig, launch: str) -> tuple[str, ...]:
    # With a key, a file of ours runs the module: the key comes to it over a descriptor, because
    # every user of the machine can read a command line.
    if config.api_key:
        return ENTRY, f"{launch}+key"
    return ("-m",) if launch == "plain" else (ENTRY, launch)


def _flags(config: ServerConfig, port: int) -> list[str]:
    merged = Merged(config)
    library, device = merged.model_lib, config.device
    if config.engine == "mock":
        library = library or MOCK_LIBRARY
        # The mock engine runs on the CPU: looking for a GPU would cost half a minute.
        device = "cpu" if device == "auto" else device
    flags: list[str] = []
    for flag, value, default in (
        ("--model-lib", library, None),
        ("--device", device, "auto"),
        ("--mode", config.mode, "local"),
        ("--embedding-model", config.embedding_model, None),
        ("--embedding-model-lib", config.embedding_model_lib, None),
        ("--speculative-mode", merged.flags.get("speculative_mode"), None),
        ("--prefix-cache-mode", merged.flags.get("prefix_cache_mode"), None),
        ("--prefill-mode", merged.flags.get("prefill_mode"), None),
        ("--overrides", format_overrides(merged.overrides), ""),
    ):
        if value is not None and value != default:
            flags += [flag, value]
    if merged.additional_models:
        flags.append("--additional-models")
        flags += [m if isinstance(m, str) else ",".join(m) for m in merged.additional_models]
    if config.enable_debug:
        flags.append("--enable-debug")
    if config.enable_tracing:
        flags.append("--enable-tracing")
    flags += ["--host", config.host, "--port", str(port)]
    return [*flags, *config.args]


def _script(config: ServerConfig) -> list[str]:
    return [f"--script={config.sim_script}"] if config.sim_script is not None else []


def format_overrides(overrides: Mapping[str, OverrideValue]) -> str:
    """Return overrides in the form of ``--overrides``."""
    return ";".join(f"{key}={value}" for key, value in overrides.items())


def environment(config: ServerConfig, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a configuration's server, but for what only it itself is given.

    Parameters
    ----------
    config
        The configuration.
    extra
        Variables that go before those of the configuration.
    """
    # Unbuffered: the log of a server that is killed must hold what it said until then.
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **config.env, **extra}
    env.pop(SIM_TOKEN, None)  # one from outside would open a control that nobody here knows of
    env.pop(MARK, None)
    return env


def _only_embeds(config: ServerConfig, model: str) -> bool:
    """Tell whether the model generates no text: its configuration names its task."""
    path = os.path.join(config.cwd or os.getcwd(), model, "mlc-chat-config.json")
    try:
        with open(path, encoding="utf-8") as file:
            loaded = json.load(file)
    except (OSError, ValueError):
        return False
    return isinstance(loaded, dict) and loaded.get("model_task") == "embedding"


# --- what a failed start means -------------------------------------------------------------------


#: What upstream says of a device that is not there, and which one it is. From the beginning of a
#: line: a traceback shows the source of it as well.
NO_DEVICE = re.compile(r"(?m)^\w+: Device is not found on your local environment: (\S+)")


def unavailable(config: ServerConfig, returncode: int | None, log: str) -> str | None:
    """Return why an engine or its hardware is missing, with the remedy; None if neither is.

    Parameters
    ----------
    config
        The configuration.
    returncode
        How the server's process ended.
    log
        The end of its log.
    """
    if returncode is None or returncode < 0:
        return None
    if config.engine == "sim":
        if returncode != SIM_NOT_INSTALLED:
            return None
        return (
            "the simulator is not installed: its extra is missing\n"
            "Install it: pip install 'pytest-mlc-server[sim]'"
        )
    python = config.python or sys.executable
    if "No module named mlc_llm" in log or "No module named 'mlc_llm'" in log:
        return (
            f"engine {config.engine!r} is not installed: {python} has no module mlc_llm\n"
            "Install MLC LLM from its own wheel index "
            "(https://llm.mlc.ai/docs/install/mlc_llm.html), point --mlc-python at an "
            "interpreter that has it, or use the simulator: --mlc-engine sim"
        )
    if missing := NO_DEVICE.search(log):
        device = missing[1] if config.device == "auto" else config.device
        return (
            f"device {device!r} is not on this machine, or its driver is not\n"
            "Choose another one with --mlc-device (auto finds what is there), or use the "
            "simulator: --mlc-engine sim"
        )
    return None
