"""Which values of a configuration contradict each other, without any I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mlc_server.merging import Merged
from pytest_mlc_server.options import BY_NAME

if TYPE_CHECKING:
    from pytest_mlc_server.config import ServerConfig

#: Flags of ``mlc_llm serve`` that a setting of ours controls, and that setting.
SERVE_FLAGS = {
    "--device": "device",
    "--model-lib": "model-lib",
    "--mode": "mode",
    "--enable-debug": "debug",
    "--additional-models": "additional-model",
    "--embedding-model": "embedding-model",
    "--embedding-model-lib": "embedding-model-lib",
    "--speculative-mode": "speculative-mode",
    "--prefix-cache-mode": "prefix-cache-mode",
    "--prefill-mode": "prefill-mode",
    "--overrides": "overrides",
    "--enable-tracing": "tracing",
    "--host": "host",
    "--port": "port",
    "--api-key": "api-key",
}

NOT_CONFIGURED = """\
no MLC server is configured: nothing says what to serve.
One of these does:
  --mlc-model dist/Llama-3-8B-Instruct-q4f16_1-MLC   a real model (also: HF://org/name)
  --mlc-engine mock                                  the real server without weights or GPU
  --mlc-engine sim                                   the simulator of this package
  --mlc-url http://127.0.0.1:8000                    a server that is already there
Each is also an ini key (mlc_model = ...), an environment variable (PYTEST_MLC_MODEL), and a field \
of the ServerConfig that an overridden fixture mlc_server_config returns."""


def contradictions_of(config: ServerConfig) -> list[str]:
    """Return what contradicts itself, each text naming both places."""
    problems = [*_of_the_engine(config), *_of_the_arguments(config)]
    if (config.embedding_model is None) != (config.embedding_model_lib is None):
        one, other = "embedding_model", "embedding_model_lib"
        if config.embedding_model is None:
            one, other = other, one
        flag = BY_NAME[other.replace("_", "-")].flag
        problems.append(f"{config.describe(one)} needs {other} ({flag}) as well")
    return problems + Merged(config).problems


def _of_the_engine(config: ServerConfig) -> list[str]:
    if config.sim_script is not None and config.engine != "sim":
        only = f"{config.describe('sim_script')}: only the simulator follows a script, and"
        return [f"{only} {config.describe('engine')}; set engine 'sim', or leave the script out"]
    if config.engine == "external":
        if config.url is None:
            return [f"{config.describe('engine')}: needs a URL (--mlc-url)"]
        return []
    if config.url is not None:
        already = f"{config.describe('url')} attaches to a server that is already there"
        way = "give one of them, or engine 'external' (--mlc-engine external) with the URL"
        return [f"{already}, and {config.describe('engine')} would start one: {way}"]
    if config.engine == "mock" and config.model_lib is not None:
        if not config.model_lib.startswith("mock://"):
            return [f"{config.describe('model_lib')}: engine 'mock' uses the library mock://echo"]
        return []
    if config.engine == "mlc" and config.model is None:
        return [NOT_CONFIGURED]
    return []


def _of_the_arguments(config: ServerConfig) -> list[str]:
    problems = []
    for argument in config.args:
        flag = argument.partition("=")[0]
        matches = [f for f in SERVE_FLAGS if f == flag]
        # argparse takes an unambiguous beginning for the flag, so "--por" is a port as well.
        if not matches and flag.startswith("--") and len(flag) > 2:
            matches = [f for f in SERVE_FLAGS if f.startswith(flag)]
        if matches:
            setting = BY_NAME[SERVE_FLAGS[matches[0]]]
            problems.append(
                f"{config.describe('args')}: {flag!r} would be given twice; "
                f"use {setting.flag} ({setting.field}=) for it"
                + (f", now {config.describe(setting.field)}" if setting.field else "")
            )
    return problems
