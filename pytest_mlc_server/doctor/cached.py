"""Where downloads and libraries are kept, and what the policies mean for a run."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass

from pytest_mlc_server import caches
from pytest_mlc_server.doctor.case import Case
from pytest_mlc_server.doctor.findings import Section
from pytest_mlc_server.doctor.memory import readable
from pytest_mlc_server.doctor.programs import Check, HangsError
from pytest_mlc_server.merging import Merged

POLICIES = ("ON", "OFF", "REDO", "READONLY")

#: How long the files of a cache are counted, in seconds: one with many, on a network, takes longer.
COUNT_FOR = 2.0

_JIT = {
    "ON": "a library that is not cached is compiled",
    "OFF": "nothing is compiled, and the cache is not used",
    "REDO": "every start compiles anew",
    "READONLY": "what is cached is used, and nothing is compiled",
}
_DOWNLOAD = {
    "ON": "a model that is not cached is downloaded",
    "OFF": "nothing is downloaded, and the cache is not used",
    "REDO": "every start downloads anew",
    "READONLY": "what is cached is used, and nothing is downloaded",
}


@dataclass
class Size:
    """How much a directory holds.

    Parameters
    ----------
    bytes
        The sizes of its files.
    whole
        Whether all of them were counted in time.
    """

    bytes: int
    whole: bool


def count(path: str) -> Size | None:
    """Return how much is in a directory; None if there is none."""
    if not os.path.isdir(path):
        return None
    deadline = time.monotonic() + COUNT_FOR
    total, waiting = 0, [path]
    while waiting:
        if time.monotonic() > deadline:
            return Size(total, whole=False)
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += _size(entry)
        except OSError:
            continue  # not ours to read
    return Size(total, whole=True)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def home_of(case: Case) -> str:
    """Return the directory of both caches of a server."""
    return os.path.abspath(os.path.join(case.cwd, caches.home(case.environment)))


def section(case: Case, size: Check[Size | None]) -> Section:
    """Tell of the caches of one server."""
    result = Section("caches")
    home = home_of(case)
    result.facts["home"] = home
    result.facts["bytes"] = None
    origin = "MLC_LLM_HOME" if "MLC_LLM_HOME" in case.environment else "the default"
    try:
        counted = size.get()
    except HangsError:
        result.add(
            "check.hangs",
            f"{home} cannot be read within the time limit",
            "look at its file system, or set MLC_LLM_HOME to another one",
        )
        return result
    if counted is None:
        amount = "not there yet"
    else:
        result.facts["bytes"] = counted.bytes
        amount = f"{'' if counted.whole else 'more than '}{readable(counted.bytes)}"
    result.add("caches.place", f"{home} ({origin}): {amount}")
    _add_policies(result, case)
    _add_rights(result, case, home)
    return result


def _add_policies(result: Section, case: Case) -> None:
    environment = case.environment
    downloads = any(model.startswith("HF://") for model in _models(case))
    compiles = Merged(case.config).model_lib is None and case.config.engine == "mlc"
    result.facts["jit_policy"] = caches.jit_policy(environment)
    result.facts["download_policy"] = caches.download_policy(environment)
    for variable, policy, meanings, matters in (
        ("MLC_JIT_POLICY", caches.jit_policy(environment), _JIT, compiles),
        ("MLC_DOWNLOAD_CACHE_POLICY", caches.download_policy(environment), _DOWNLOAD, downloads),
    ):
        if policy not in POLICIES:
            result.add(
                "caches.policy-unknown",
                f"{variable}={policy!r} is none that mlc_llm knows",
                f"set it to one of {', '.join(POLICIES)}, or unset it",
                f"unset {variable}",
            )
        elif matters or variable in environment:
            idle = "" if matters else "; nothing of that in this run"
            result.add("caches.policy", f"{variable}={policy}: {meanings[policy]}{idle}")


def _models(case: Case) -> list[str]:
    more = (m if isinstance(m, str) else m[0] for m in Merged(case.config).additional_models)
    return [m for m in (case.config.model, *more, case.config.embedding_model) if m]


def _add_rights(result: Section, case: Case, home: str) -> None:
    writes = (
        Merged(case.config).model_lib is None
        and caches.jit_policy(case.environment) not in caches.USES_ONLY
    ) or any(model.startswith("HF://") for model in _models(case))
    above = home
    while not os.path.lexists(above) and os.path.dirname(above) != above:
        above = os.path.dirname(above)
    if case.config.engine == "mlc" and writes and not os.access(above, os.W_OK | os.X_OK):
        result.add(
            "caches.read-only",
            f"{above} cannot be written to, and mlc_llm keeps there what it compiles and downloads",
            "set MLC_LLM_HOME to a directory of your own, or the policies to READONLY",
        )
