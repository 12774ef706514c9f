"""The interpreter that would run the server, and what is installed there."""

from __future__ import annotations

import glob
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from pytest_mlc_server import engines, hardware
from pytest_mlc_server.device_answers import Answer
from pytest_mlc_server.doctor.case import Case
from pytest_mlc_server.doctor.findings import Section
from pytest_mlc_server.doctor.programs import Check, HangsError, Programs

#: What the interpreter says of itself, without importing anything large. It may be any version of
#: Python, or no Python at all.
ASK = """\
import json, os, sys
def where(name):
    try:
        from importlib.util import find_spec
        spec = find_spec(name)
    except Exception:
        return None
    if spec is None:
        return None
    return spec.origin or (list(spec.submodule_search_locations or []) + [""])[0]
print(json.dumps({
    "doctor": 1, "executable": sys.executable, "version": sys.version.split()[0],
    "number": list(sys.version_info[:2]), "path": [os.path.abspath(p) for p in sys.path],
    "mlc_llm": where("mlc_llm"), "tvm": where("tvm")}))
"""

#: Packages of which one brings the module, by the start of their directories' names.
DISTRIBUTIONS = {"mlc_llm": ("mlc_llm",), "tvm": ("mlc_ai", "apache_tvm", "tvm")}

#: The oldest Python that can run the server's launcher.
OLDEST = (3, 9)


@dataclass
class Identity:
    """What an interpreter says of itself.

    Parameters
    ----------
    executable
        The program.
    version
        Its version.
    number
        The same in numbers: major and minor.
    mlc_llm, tvm
        Where the modules are; None where they are not.
    versions
        Of the packages that bring them, by module.
    problem
        Why nothing is known of it.
    """

    executable: str = ""
    version: str = ""
    number: tuple[int, int] = (0, 0)
    mlc_llm: str | None = None
    tvm: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def can_ask_tvm(self) -> bool:
        """Whether TVM is there, and can be asked."""
        there = self.mlc_llm is not None and self.tvm is not None
        return there and not self.problem and self.number >= OLDEST


def identify(case: Case, programs: Programs) -> Identity:
    """Ask the interpreter of a server what it is.

    Raises
    ------
    HangsError
        If it does not answer.
    """
    python = case.config.python or sys.executable
    program = hardware.interpreter(python, case.environment, case.cwd)
    if program is None:
        return Identity(problem="there is no such program")
    try:
        done = programs.run([program, "-c", ASK], env=case.environment, cwd=case.cwd)
    except subprocess.TimeoutExpired:
        raise HangsError from None
    except OSError as error:
        return Identity(program, problem=f"it cannot be executed: {error.strerror or error}")
    try:
        told = json.loads((done.stdout.splitlines() or [b""])[-1])
        return _identity(told)
    except (ValueError, KeyError, TypeError, IndexError):
        words = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        said = f": {words[-1][:200]}" if words else ""
        return Identity(
            program, problem=f"it does not answer as Python does (status {done.returncode}){said}"
        )


def _identity(told: Any) -> Identity:
    places = [str(place) for place in told["path"]]
    major, minor = told["number"]
    found = Identity(
        executable=str(told["executable"]),
        version=str(told["version"]),
        number=(int(major), int(minor)),
        mlc_llm=None if told["mlc_llm"] is None else str(told["mlc_llm"]),
        tvm=None if told["tvm"] is None else str(told["tvm"]),
    )
    for module, names in DISTRIBUTIONS.items():
        found.versions[module] = _version(places, names)
    if not found.versions["mlc_llm"] and found.mlc_llm:
        found.versions["mlc_llm"] = _written_version(os.path.dirname(found.mlc_llm))
    return found


def _version(places: list[str], names: tuple[str, ...]) -> str:
    """Return the version in the name of a package's directory; reading each would take longer."""
    for place in places:
        for name in names:
            for path in sorted(glob.glob(os.path.join(glob.escape(place), f"{name}*.dist-info"))):
                package, dash, version = os.path.basename(path)[: -len(".dist-info")].partition("-")
                if dash and (package == name or package.startswith(f"{name}_")):
                    return version
    return ""


def _written_version(directory: str) -> str:
    """Return the version that a checkout of upstream's says."""
    try:
        with open(os.path.join(directory, "libinfo.py"), encoding="utf-8") as file:
            found = re.search(r'__version__\s*=\s*"([^"]+)"', file.read(1 << 16))
    except (OSError, ValueError):
        return ""
    return found[1] if found else ""


def section(case: Case, identity: Check[Identity], tvm: Check[Answer]) -> Section:
    """Tell of the interpreter, of mlc_llm and of tvm."""
    result = Section("interpreter")
    config = case.config
    if case.add_problems(
        result,
        "interpreter.wrong",
        "give the interpreter that has mlc_llm with --mlc-python, or leave it out: the one that "
        "runs pytest is used then",
    ):
        return result
    python = config.python or sys.executable
    try:
        found = identity.get()
    except HangsError:
        result.add(
            "interpreter.hangs",
            f"{python} does not answer within the time limit",
            "run it by hand to see what it waits for; --limit SECONDS gives it more time",
            f"{python} -c 'print(1)'",
        )
        return result
    if found.problem or found.number < OLDEST:
        why = found.problem or f"it is Python {found.version}, and mlc_llm needs 3.9 or newer"
        result.add(
            "interpreter.no-python",
            f"{found.executable or python} cannot run a server: {why}",
            "point --mlc-python at the Python that has mlc_llm, or leave it out",
        )
        return result
    result.facts.update(path=found.executable, version=found.version)
    own = os.path.realpath(found.executable) == os.path.realpath(sys.executable)
    whose = "the one that runs pytest" if own else config.describe("python")
    result.add("interpreter.found", f"{found.executable}, Python {found.version}: {whose}")
    _add_mlc_llm(result, case, found)
    if found.mlc_llm is not None:
        _add_tvm(result, found, tvm, config.engine or "")
    return result


def _add_mlc_llm(result: Section, case: Case, found: Identity) -> None:
    if found.mlc_llm is None:
        said = engines.unavailable(case.config, 1, "No module named mlc_llm") or ""
        headline, _, remedy = said.partition("\n")
        result.add("interpreter.no-mlc-llm", headline, remedy)
        return
    version = found.versions.get("mlc_llm") or "of an unknown version"
    directory = os.path.dirname(found.mlc_llm)
    result.add("interpreter.mlc-llm", f"mlc_llm {version} in {directory}")
    result.facts["mlc_llm"] = {"version": version, "path": directory}


def _add_tvm(result: Section, found: Identity, tvm: Check[Answer], engine: str) -> None:
    if found.tvm is None:
        result.add(
            "interpreter.no-tvm",
            "the interpreter has no module tvm, which mlc_llm needs",
            "install mlc-ai from the wheel index of mlc_llm, for the same CUDA version",
        )
        return
    try:
        answer = tvm.get() if engine == "mlc" else None
    except HangsError:
        answer = None  # the section of devices says so
    if answer is not None and "tvm cannot be imported" in answer.problem:
        result.add(
            "interpreter.no-tvm",
            answer.problem,
            "the installation is broken, or made for another CUDA version: install mlc-ai and "
            "mlc-llm again, both from the same wheel index",
            f"{found.executable} -c 'import tvm'",
        )
        return
    version = (answer.tvm if answer is not None else "") or found.versions.get("tvm")
    directory = os.path.dirname(found.tvm)
    result.add("interpreter.tvm", f"tvm {version or 'of an unknown version'} in {directory}")
    result.facts["tvm"] = {"version": version or "", "path": directory}
