"""What the device ``auto`` means on this machine: asked once, remembered, asked again in doubt.

Upstream finds out at every start, in one process a kind of device, each of which imports all of
``mlc_llm``: half a minute. Here TVM is asked in one process, and the server is told the answer.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_mlc_server import device_answers as answers
from pytest_mlc_server import engines, hardware
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.device_answers import Answer

Run = Callable[..., "subprocess.CompletedProcess[Any]"]

#: How long asking may take, in seconds: importing TVM from a cold disk, and a driver that wakes up.
ASK_LIMIT = 60.0

#: Problems of an interpreter that can launch no server: its start says more about them.
NO_MODULE = "the interpreter has no module mlc_llm"
NO_PROGRAM = "the interpreter cannot be executed"


def applies(config: ServerConfig) -> bool:
    """Tell whether a configuration's device is to be found out."""
    return config.engine == "mlc" and config.device == "auto"


def find(
    config: ServerConfig, extra_env: Mapping[str, str] | None = None, *, ask: bool = True
) -> Answer | None:
    """Return what ``auto`` means for the server of a configuration.

    Parameters
    ----------
    config
        The configuration.
    extra_env
        Further environment variables of its server.
    ask
        Whether to ask TVM where nothing is remembered; else nothing is started.

    Returns
    -------
    Answer or None
        None if the configuration names its device, or nothing is remembered and `ask` is false.
    """
    if not applies(config):
        return None
    environment = engines.environment(config, extra_env or {})
    cwd = os.path.abspath(config.cwd or os.getcwd())
    python = hardware.interpreter(config.python or sys.executable, environment, cwd)
    if python is None:
        return Answer("", problem=f"there is no interpreter {config.python}") if ask else None
    name = answers.name_of(python, environment, cwd)
    answer = answers.remembered(name)
    if answer is not None or not ask:
        return answer
    if _is_missing(python, environment, cwd):
        return Answer("", problem=NO_MODULE)
    limit = min(ASK_LIMIT, config.startup_timeout)
    # The others of a run want to know the same at the same time: one asks.
    with answers.asking(limit):
        answer = answers.remembered(name)
        if answer is None:
            answer = _ask(python, environment, cwd, limit)
            answers.remember(name, answer)
    return answer


def ask(
    config: ServerConfig,
    extra_env: Mapping[str, str] | None = None,
    *,
    limit: float = ASK_LIMIT,
    run: Run = subprocess.run,
) -> Answer:
    """Ask TVM now which kinds of devices there are, and remember nothing.

    Parameters
    ----------
    config
        A configuration whose server uses TVM; its device need not be ``auto``.
    extra_env
        Further environment variables of its server.
    limit
        How long it may take, in seconds.
    run
        Runs a program as `subprocess.run` does.
    """
    environment = engines.environment(config, extra_env or {})
    cwd = os.path.abspath(config.cwd or os.getcwd())
    python = hardware.interpreter(config.python or sys.executable, environment, cwd)
    if python is None:
        return Answer("", problem=NO_PROGRAM)
    return _ask(python, environment, cwd, limit, run)


def forget(config: ServerConfig, extra_env: Mapping[str, str] | None, answer: Answer) -> None:
    """Forget an answer that has turned out wrong; a newer one stays."""
    environment = engines.environment(config, extra_env or {})
    cwd = os.path.abspath(config.cwd or os.getcwd())
    answers.forget(answers.name_of(answer.python, environment, cwd), answer)


def explain(config: ServerConfig, *, ask: bool = False) -> list[str]:
    """Return what ``auto`` means and why, in lines for people.

    Parameters
    ----------
    config
        The configuration.
    ask
        Whether to ask TVM where nothing is remembered.
    """
    answer = find(config, ask=ask)
    if not applies(config):
        return [f"device {config.device}: as it was asked for"]
    if answer is None:
        return ["device auto: not known yet; the first server's start asks TVM"]
    if not answer.device:
        return [f"device auto: left to mlc_llm: {answer.problem}"]
    there = ", ".join(answer.found)
    return [
        f"device auto: {answer.device}",
        f"  TVM {answer.tvm} finds {there}; the first of cuda, rocm, metal, vulkan, opencl, cpu",
        f"  asked {_ago(answer.age)}, which took {answer.seconds:.1f} s: {answer.python}",
    ]


def _ago(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


# --- asking ---------------------------------------------------------------------------------------


def _is_missing(python: str, environment: Mapping[str, str], cwd: str) -> bool:
    """Tell whether there is surely nobody to ask: the server's start says so sooner."""
    if python != sys.executable or environment.get("PYTHONPATH") != os.environ.get("PYTHONPATH"):
        return False
    with contextlib.suppress(ValueError, ImportError):
        found = importlib.util.find_spec("mlc_llm") is not None
        return not found and not os.path.exists(os.path.join(cwd, "mlc_llm"))
    return False


def _ask(
    python: str,
    environment: Mapping[str, str],
    cwd: str,
    limit: float,
    run: Run = subprocess.run,
) -> Answer:
    began, now = time.monotonic(), time.time()
    crashed: list[str] = []
    while True:
        remaining = limit - (time.monotonic() - began)
        told = _ask_once(python, environment, cwd, remaining, crashed, run)
        found = tuple(told.kinds)
        # What was said before a time limit or a crash counts: it comes in upstream's order.
        if found or not told.crashed:
            break
        crashed.append(told.crashed)  # a kind whose driver ends the process is not there
    if not found and told.problem in (NO_MODULE, NO_PROGRAM):
        return Answer("", problem=told.problem)
    return Answer(
        found[0] if found else "",
        found,
        now,
        time.monotonic() - began,
        "" if found else told.problem or "TVM finds no device",
        told.tvm,
        tuple(hardware.stamps(told.files)),
        python,
    )


@dataclass
class _Told:
    """What one process has told."""

    kinds: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    tvm: str = ""
    problem: str = ""
    crashed: str = ""
    """The kind that it was asking about when it ended before its time."""

    def read(self, output: bytes) -> None:
        for line in output.splitlines():
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            self.problem = answer.get("problem", self.problem)
            self.tvm = answer.get("tvm", self.tvm)
            self.files += answer.get("files", [])
            self.crashed = answer.get("asking", self.crashed)
            if answer.get("exists"):
                self.kinds.append(answer["kind"])


def _ask_once(
    python: str,
    environment: Mapping[str, str],
    cwd: str,
    limit: float,
    without: list[str],
    run: Run,
) -> _Told:
    told = _Told()
    command = [python, engines.ENTRY, "devices", str(max(1, round(limit))), *without]
    try:
        done = run(
            command,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=max(0.0, limit),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        told.read(error.stdout or b"")
        told.crashed, told.problem = "", "TVM did not answer in time"
    except OSError:
        told.problem = NO_PROGRAM
    else:
        told.read(done.stdout)
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip().splitlines()
            told.problem = (
                f"asking TVM failed: {words[-1] if words else f'status {done.returncode}'}"
            )
        else:
            told.crashed = ""
    return told
