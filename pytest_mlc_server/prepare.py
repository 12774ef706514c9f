"""``prepare``: models are downloaded, compiled and started once, before any test's clock runs."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pytest_mlc_server import caches, gpus, logs, options, preflight, waiting
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.errors import ConfigError, MLCServerError
from pytest_mlc_server.merging import Merged
from pytest_mlc_server.runner import NO_SERVER, WRONG_USE, checked, given, stop_on_signals
from pytest_mlc_server.server import PopenServer

#: For people: how a server came by a file.
_HOW = {logs.CACHED: "was there", logs.MADE: "made now", logs.GIVEN: "given"}


@dataclass
class File:
    """A library or the directory of a model.

    Parameters
    ----------
    path
        Where it is.
    how
        ``cached`` (it was there), ``made`` (downloaded or compiled now) or ``given``.
    key
        What it is called in the cache of ``mlc_llm``: equal keys are equal files. Empty for a file
        outside the cache.
    """

    path: str
    how: str
    key: str


@dataclass
class Prepared:
    """What came of one model.

    Parameters
    ----------
    model
        As it was given.
    weights, libraries
        What the server uses.
    seconds
        How long its start took.
    phases
        Seconds by phase.
    error
        Why it did not start; empty if it did.
    """

    model: str
    weights: list[File] = field(default_factory=list)
    libraries: list[File] = field(default_factory=list)
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    error: str = ""
    code: int = 0


def main(argv: Sequence[str]) -> int:
    """Prepare models one after the other.

    Parameters
    ----------
    argv
        Settings, and ``--json``.

    Returns
    -------
    int
        0; 2 for wrong settings, 69 if a model did not start.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pytest_mlc_server prepare",
        description="Download and compile models ahead of time, start each once, and print where "
        "they are kept. Settings come from flags and from the environment (PYTEST_MLC_MODEL, ...).",
        allow_abbrev=False,
    )
    options.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parsed = parser.parse_args(argv)
    try:
        configs = _configs(given(parsed))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USE
    stop_on_signals()
    results: list[Prepared] = []
    try:
        results.extend(_prepare(config) for config in configs)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    environment = gpus.environment_of(configs[0].env)
    print(_as_json(results, environment) if parsed.json else _as_text(results, environment))
    return max(result.code for result in results)


def _configs(found: dict[str, options.Given]) -> list[ServerConfig]:
    """Return one configuration for each model.

    Raises
    ------
    ConfigError
        With all that is wrong with any of them.
    """
    model = found.get("model")
    configs: list[ServerConfig] = []
    if model is None:
        configs.append(checked(found))  # the engine has a model of its own, or that is the problem
    else:
        for raw in model.raw if isinstance(model.raw, list) else [model.raw]:
            one = options.Given(model.setting, [raw], model.source, model.base)
            configs.append(checked({**found, "model": one}))
    problems = [problem for config in configs for problem in _problems(config, len(configs))]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return configs


def _problems(config: ServerConfig, number: int) -> list[str]:
    if config.engine == "external":
        what = "url" if config.url is not None else "engine"
        return [f"{config.describe(what)}: a server that is already there needs no preparation"]
    problems = [*config.problems(), *preflight.problems(config)]
    if number > 1 and config.model_lib is not None:
        problems.append(
            f"{config.describe('model_lib')}: one library cannot be that of {number} models; "
            "prepare them apart, or have them compiled"
        )
    return problems


def _prepare(config: ServerConfig) -> Prepared:
    """Start the server of one model, which downloads and compiles what is missing, and stop it."""
    # Nobody waits for it as for a test's server: what makes progress at all may go on.
    config = config.replace(startup_timeout=max(config.startup_timeout, config.startup_limit))
    server = PopenServer.from_config(config, name="prepare")
    result = Prepared(model=server.model)
    clock = _Clock(server.model)
    server.on_phase = clock.begin
    try:
        with waiting.Waiting(server, waiting.on_stream(sys.stderr)):
            server.start()
    except MLCServerError as error:
        clock.end("failed")
        print(f"error: {error}", file=sys.stderr)
        result.error = server.hide_secrets(str(error))
        result.code = WRONG_USE if isinstance(error, ConfigError) else NO_SERVER
        return result
    clock.end("ready")
    try:
        result.seconds = server.startup_seconds or 0.0
        result.phases = dict(server.startup_phases)
        _add_files(result, config, server.log_path or "")
    finally:
        server.terminate()
    return result


class _Clock:
    """Tells on standard error what a start is doing, and for how long it did it."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._phase = ""
        self._began = time.monotonic()

    def begin(self, phase: str) -> None:
        """Tell of a phase that begins; of one that goes on, nothing."""
        if phase == self._phase:
            return
        self._end_phase()
        self._phase = phase
        self._tell(phase)

    def end(self, outcome: str) -> None:
        """Tell how it ended."""
        self._end_phase()
        self._tell(outcome)

    def _end_phase(self) -> None:
        now = time.monotonic()
        if self._phase:
            self._tell(f"{self._phase}: {now - self._began:.1f} s")
        self._phase, self._began = "", now

    def _tell(self, text: str) -> None:
        print(f"prepare {self._model}: {text}", file=sys.stderr, flush=True)


def _add_files(result: Prepared, config: ServerConfig, log: str) -> None:
    """Add what the log names, and the directories of models that were no download."""
    if config.engine == "sim":
        return  # its log speaks of files as the real server's does, and there are none
    cwd = config.cwd or os.getcwd()
    environment = gpus.environment_of(config.env)
    reader = logs.LogReader(log)
    while reader.read():
        pass
    home = os.path.abspath(os.path.join(cwd, caches.home(environment)))
    for path, how in reader.libraries:
        result.libraries.append(_file(os.path.join(cwd, path), how, home))
    more = [m if isinstance(m, str) else m[0] for m in Merged(config).additional_models]
    for model in filter(None, [result.model, *more, config.embedding_model]):
        if not model.startswith("HF://") and os.path.isdir(os.path.join(cwd, model)):
            result.weights.append(_file(os.path.join(cwd, model), logs.GIVEN, home))
    for path, how in reader.directories:
        result.weights.append(_file(os.path.join(cwd, path), how, home))


def _file(path: str, how: str, home: str) -> File:
    path = os.path.abspath(path)
    key = os.path.relpath(path, home) if path.startswith(home + os.sep) else ""
    return File(path=path, how=how, key=key)


def _caches(environment: dict[str, str]) -> dict[str, Any]:
    return {
        "home": os.path.abspath(caches.home(environment)),
        "libraries": os.path.abspath(caches.libraries(environment)),
        "jit_policy": caches.jit_policy(environment),
        "download_policy": caches.download_policy(environment),
        "readonly": environment.get("MLC_LLM_READONLY_WEIGHT_CACHE", ""),
    }


def _as_json(results: Sequence[Prepared], environment: dict[str, str]) -> str:
    models = [asdict(result) for result in results]
    for model in models:
        del model["code"]
    return json.dumps({"caches": _caches(environment), "models": models}, indent=2)


def _as_text(results: Sequence[Prepared], environment: dict[str, str]) -> str:
    lines: list[str] = []
    for result in results:
        if result.error:
            lines += [result.model, f"  failed   {result.error.splitlines()[0]}"]
            continue
        spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.phases.items())
        lines += [result.model, f"  ready    after {result.seconds:.1f} s: {spent}"]
        lines += [line for one in result.weights for line in _lines("model", one)]
        lines += [line for one in result.libraries for line in _lines("library", one)]
    where = _caches(environment)
    lines += [
        f"cache {where['home']} (MLC_LLM_HOME)",
        f"  MLC_JIT_POLICY={where['jit_policy']}",
        f"  MLC_DOWNLOAD_CACHE_POLICY={where['download_policy']}",
    ]
    if where["readonly"]:
        lines.append(f"  MLC_LLM_READONLY_WEIGHT_CACHE={where['readonly']}")
    return "\n".join(lines)


def _lines(what: str, file: File) -> list[str]:
    lines = [f"  {what:<8} {file.path} ({_HOW[file.how]})"]
    return [*lines, f"  {'key':<8} {file.key}"] if file.key else lines
