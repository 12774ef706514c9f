"""Which kinds of devices TVM finds: one process, all kinds, a line for each answer as it comes.

Upstream asks in one process a kind, each of which imports all of ``mlc_llm`` again. What is asked
is the same: whether the first device of a kind exists.
"""

from __future__ import annotations

import glob
import importlib
import importlib.util
import json
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: The kinds in upstream's order: the first that exists is what ``auto`` means.
KINDS = ("cuda", "rocm", "metal", "vulkan", "opencl", "cpu")

#: Parts of the names of libraries that show a device to TVM: their files are told as well.
DRIVERS = ("libcuda.so", "libamdhip64", "libhsa-runtime", "libvulkan", "libOpenCL")


def main(arguments: Sequence[str], _secret: str) -> None:
    """Ask, and write each answer as a line of JSON.

    Parameters
    ----------
    arguments
        How long this may take, in whole seconds, and kinds to leave out.
    """
    # A driver may hang in a place that no thread and no signal handler of Python's reaches, and
    # whoever asked may have been killed meanwhile.
    if hasattr(signal, "alarm"):
        signal.alarm(int(arguments[0]))
    # What libraries print at import is not to stand among the answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    try:
        for answer in _ask(arguments[1:]):
            os.write(answers, json.dumps(answer).encode() + b"\n")
    finally:
        sys.stderr.flush()
        os._exit(0)  # a driver's own end may take long, or crash


def _ask(without: Sequence[str]) -> Any:
    if importlib.util.find_spec("mlc_llm") is None:
        yield {"problem": "the interpreter has no module mlc_llm"}
        return
    try:
        # Alone: what makes importing `mlc_llm` slow is all else.
        tvm: Any = importlib.import_module("tvm")
        runtime: Any = importlib.import_module("tvm.runtime")
    except BaseException as error:  # whatever a broken installation raises
        yield {"problem": f"tvm cannot be imported: {type(error).__name__}: {error}"}
        return
    yield {"tvm": str(getattr(tvm, "__version__", "")), "files": _files(tvm)}
    for kind in KINDS:
        if kind not in without:
            yield {"asking": kind}  # if this process ends now, it was for that
            yield {"kind": kind, "exists": _exists(runtime, kind)}
    yield {"files": _drivers()}


def _exists(runtime: Any, kind: str) -> bool:
    try:
        return bool(runtime.device(kind, 0).exist)
    except Exception:  # as upstream's check does
        return False


def _files(tvm: Any) -> list[str]:
    """Return the files that a new version of TVM would replace."""
    home = os.path.dirname(tvm.__file__)
    libraries = [
        path
        for pattern in ("*.so", "*.dylib", "*.dll")
        for place in ("", "lib")
        for path in glob.glob(os.path.join(glob.escape(home), place, pattern))
    ]
    return [tvm.__file__, *sorted(libraries)]


def _drivers() -> list[str]:
    """Return the drivers' libraries that have been loaded by now."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            paths = {line.split(maxsplit=5)[-1].strip() for line in maps if "/" in line}
    except OSError:
        return []
    return sorted(path for path in paths if any(name in path for name in DRIVERS))
