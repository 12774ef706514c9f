"""Which devices there are, and which of them the server would take."""

from __future__ import annotations

import os
import sys

from pytest_mlc_server import auto_device, engines, gpus
from pytest_mlc_server.device_answers import Answer
from pytest_mlc_server.doctor.case import Case
from pytest_mlc_server.doctor.findings import Section
from pytest_mlc_server.doctor.programs import Check, HangsError, Programs
from pytest_mlc_server.launcher.devices import KINDS

_HANGS = "TVM did not answer in time"


def find(case: Case, programs: Programs) -> Answer:
    """Ask TVM in the server's interpreter which kinds of devices exist."""
    # It ends itself at its limit as well, and in whole seconds.
    return auto_device.ask(case.config, limit=max(programs.limit, 1.0), run=programs.run)


def device_of(case: Case, tvm: Check[Answer]) -> str:
    """Return the device that the server would get; empty if that is not known."""
    config = case.config
    if not auto_device.applies(config):
        return "cpu" if config.engine == "mock" and config.device == "auto" else config.device
    remembered = auto_device.find(config, ask=False)
    if remembered is not None:
        return remembered.device
    try:
        return tvm.get().device
    except HangsError:
        return ""


def section(case: Case, tvm: Check[Answer]) -> Section:
    """Tell which devices exist, and whether the one that was asked for does."""
    result = Section("devices")
    config = case.config
    if "devices" in config.origins:
        variable = gpus.VARIABLES.get(config.device, "")
        result.add(
            "devices.assigned",
            f"{config.origins['devices']}: {variable}={config.env.get(variable, '')}",
        )
    if config.engine == "mock" and config.device == "auto":
        result.add("devices.not-needed", "the mock engine runs on the CPU")
        return result
    try:
        answer = tvm.get()
    except HangsError:
        answer = Answer("", problem=_HANGS)
    result.facts.update(
        asked=config.device, found=list(answer.found), device=device_of(case, tvm) or None
    )
    if _add_found(result, answer):
        if auto_device.applies(config):
            _add_auto(result, case, answer)
        elif answer.found:
            _add_chosen(result, case, answer)
    return result


def _add_found(result: Section, answer: Answer) -> bool:
    """Tell what exists; tell whether there is more to say."""
    if answer.problem == _HANGS:
        part = f"; {', '.join(answer.found)} was found until then" if answer.found else ""
        result.add(
            "devices.hang",
            f"asking TVM for devices did not end within the time limit{part}",
            "a driver hangs, or TVM takes long to load: look at the machine (nvidia-smi, dmesg); "
            "--limit SECONDS waits longer",
        )
        return bool(answer.found)
    if answer.found:
        missing = [kind for kind in KINDS if kind not in answer.found]
        not_there = f", no {', '.join(missing)}" if missing else ""
        result.add("devices.found", f"TVM finds {', '.join(answer.found)}{not_there}")
        return True
    if answer.problem == auto_device.NO_MODULE or "tvm cannot be imported" in answer.problem:
        result.add("devices.not-asked", "without mlc_llm and tvm nobody can be asked")
        return False
    if answer.problem == "TVM finds no device":
        result.add(
            "devices.none",
            "TVM finds no device, not even a CPU",
            "install a build of mlc-ai and mlc-llm that is made for this machine",
        )
        return False
    result.add(
        "devices.unknown",
        f"which devices there are cannot be told: {answer.problem}",
        "the server finds its device by itself, which takes longer",
    )
    return False


def _add_auto(result: Section, case: Case, now: Answer) -> None:
    before = auto_device.find(case.config, ask=False)
    if before is None:
        result.add(
            "devices.auto",
            f"auto means {now.device}: the first of {', '.join(KINDS)} that exists; not "
            f"remembered yet, so the first start asks TVM ({now.seconds:.1f} s now)",
        )
        return
    line = auto_device.explain(case.config)[-1].strip()
    line = line.removesuffix(f": {before.python}")
    if before.device == now.device:
        result.add("devices.auto-remembered", f"auto means {before.device}: remembered, {line}")
        return
    result.add(
        "devices.auto-outdated",
        f"auto means {before.device}: remembered, {line}; TVM finds {now.device or 'none'} now",
        "if that is not meant, name the device (--mlc-device), or have it asked anew by removing "
        "what is remembered",
        f"rm -r {os.path.join(_remembered_in(), '')}",
    )


def _remembered_in() -> str:
    from pytest_mlc_server import runtime

    return runtime.subdirectory("devices")


def _add_chosen(result: Section, case: Case, answer: Answer) -> None:
    config = case.config
    kind, _, index = config.device.partition(":")
    if kind in KINDS and kind not in answer.found:
        said = engines.unavailable(
            config, 1, f"ValueError: Device is not found on your local environment: {config.device}"
        )
        headline, _, remedy = (said or "").partition("\n")
        hidden = _hidden(kind, case)
        result.add("devices.not-there", f"{headline}{hidden}", remedy)
        return
    allowed = gpus.allowed(kind, case.environment) if kind in gpus.VARIABLES else None
    if index and allowed is not None and int(index) >= len(allowed):
        result.add(
            "devices.not-there",
            f"{config.describe('device')} is not there: "
            f"{gpus.VARIABLES[kind]}={case.environment[gpus.VARIABLES[kind]]} shows "
            f"{len(allowed)} GPU{'' if len(allowed) == 1 else 's'} to the server",
            "indices count among those that are shown: choose a lower one, or show more",
        )
        return
    result.add("devices.chosen", f"{config.describe('device')} is there")


def _hidden(kind: str, case: Case) -> str:
    variable = gpus.VARIABLES.get(kind, "")
    if variable not in case.environment or gpus.allowed(kind, case.environment):
        return ""
    return f" ({variable}={case.environment[variable]!r} hides all of them)"


def interpreter_of(case: Case) -> str:
    """Return the interpreter of a server, as it is called."""
    return case.config.python or sys.executable
