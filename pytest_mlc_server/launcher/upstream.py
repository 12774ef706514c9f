"""The one room that touches internals of ``mlc_llm``, and what it must find to touch them.

Written against mlc_llm 0.20.dev of July 2026. What is relied on there:

- ``python -m mlc_llm serve ARGUMENTS`` imports the package, then runs ``mlc_llm/__main__.py``,
  which calls ``mlc_llm.cli.serve.main(ARGUMENTS)``. It is run here as it is there, by `runpy`;
  `load` only makes its imports beforehand.
- ``mlc_llm.support.auto_device._device_exists(device)`` runs ``subprocess.run([sys.executable,
  "-m", "mlc_llm.cli.check_device", KIND], …)`` and reads the line ``check_device:0,1`` of its
  output: a process that imports everything again, which is half of a start. Its ``subprocess`` is
  replaced here by one that answers this one command by itself, so that upstream's own code goes on
  from the answer: what it remembers in ``_RESULT_CACHE`` and what it logs is its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import subprocess
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import CodeType, ModuleType
    from typing import Any

MODULE = "mlc_llm"

#: Beginnings of the versions that this was written for. A build from source has the last one
#: whatever its age: of those, the shape of the internals alone decides.
VERSIONS = ("0.20", "0.1.dev0")

AUTO_DEVICE = "mlc_llm.support.auto_device"
CHECK = "mlc_llm.cli.check_device"

#: What `python -m mlc_llm serve` imports before it reads its command line.
IMPORTS = (MODULE, "mlc_llm.support.logging", "mlc_llm.support.argparse", "mlc_llm.cli.serve")


def installed() -> bool:
    """Tell whether this interpreter has the package at all."""
    return importlib.util.find_spec(MODULE) is not None


def load(modules: Sequence[str] = IMPORTS) -> str:
    """Import the package; initialises no device.

    What the package itself raises is not caught: ``python -m mlc_llm`` would end with it as well.

    Parameters
    ----------
    modules
        What else to import. Nothing, where the server runs at once in this process: upstream sets
        up its logging before it imports the rest, and what that logs is to look as it does there.

    Returns
    -------
    str
        What is not as expected; empty if everything is. Nothing is to be touched otherwise.
    """
    importlib.import_module(MODULE)
    try:
        for name in (*modules, AUTO_DEVICE):
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not str(error.name).startswith(f"{MODULE}."):
            raise
        return f"mlc_llm {version()} has no module {error.name}"
    return unknown()


def version() -> str:
    """Return the version that the imported package says it has."""
    return str(getattr(sys.modules[MODULE], "__version__", "of no version"))


def unknown() -> str:
    """Return what is not as expected of the imported package, in one line; empty if nothing."""
    if not version().startswith(VERSIONS):
        return f"mlc_llm {version()} is not among the known versions ({', '.join(VERSIONS)})"
    auto_device = sys.modules[AUTO_DEVICE]
    for name in ("detect_device", "_device_exists"):
        function = getattr(auto_device, name, None)
        if not inspect.isfunction(function) or len(inspect.signature(function).parameters) != 1:
            return f"{AUTO_DEVICE}.{name} is no function of one parameter"
    if not isinstance(getattr(auto_device, "_RESULT_CACHE", None), dict):
        return f"{AUTO_DEVICE}._RESULT_CACHE is no dict"
    if getattr(auto_device, "subprocess", None) is not subprocess:
        return f"{AUTO_DEVICE} does not use the module subprocess"
    code = auto_device._device_exists.__code__
    names = {"subprocess", "run", "executable", "_RESULT_CACHE"}
    if not names <= set(code.co_names) or CHECK not in _constants(code):
        return f"{AUTO_DEVICE}._device_exists does not run {CHECK}"
    if importlib.util.find_spec(CHECK) is None:
        return f"there is no module {CHECK}"
    return ""


def _constants(code: CodeType) -> Iterator[Any]:
    for constant in code.co_consts:
        if isinstance(constant, tuple):
            yield from constant
        yield constant


def answer_device_check(device: str) -> None:
    """Have upstream's check of one device answered in this process, when it comes to it.

    TVM is asked then, and not about devices beyond that one: asking for one that is not there can
    leave an error behind in a GPU's runtime, which upstream avoids by asking in another process.

    Parameters
    ----------
    device
        As on the server's command line: ``cuda:1``, ``cpu``.
    """
    auto_device = sys.modules[AUTO_DEVICE]
    auto_device.subprocess = _Subprocess(subprocess, device)  # type: ignore[attr-defined]


class _Subprocess:
    """The module `subprocess`, but for one command."""

    def __init__(self, real: ModuleType, device: str) -> None:
        self._real = real
        index = device.partition(":")[2]
        self._index = int(index) if index.isdecimal() else 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def run(self, command: Any, **options: Any) -> Any:
        # The kind is upstream's word for it: that of `llvm` is `cpu`.
        if isinstance(command, list) and command[:-1] == [sys.executable, "-m", CHECK]:
            answer = f"check_device:{','.join(map(str, self._existing(command[-1])))}\n"
            return self._real.CompletedProcess(command, 0, answer, "")
        return self._real.run(command, **options)

    def _existing(self, kind: str) -> Iterator[int]:
        runtime = importlib.import_module("tvm.runtime")
        # TVM says of every number that this CPU exists, and upstream takes the first alone.
        for index in range(1 if kind == "cpu" else self._index + 1):
            try:
                exists = bool(runtime.device(kind, index).exist)
            except Exception:  # as upstream's check does
                exists = False
            if not exists:
                return
            yield index
