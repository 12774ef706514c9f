"""The model's files and its library: given, cached, or made by the run."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator

from pytest_mlc_server import builds, caches, engines, masking, model_files
from pytest_mlc_server.doctor.case import Case, with_remedy
from pytest_mlc_server.doctor.findings import Section
from pytest_mlc_server.doctor.memory import readable
from pytest_mlc_server.errors import MLCServerError
from pytest_mlc_server.guardian.building import Build
from pytest_mlc_server.launcher.devices import KINDS
from pytest_mlc_server.merging import Merged

_GIVE = "give the model's directory, or HF://organisation/name, with --mlc-model"


def section(case: Case) -> Section:
    """Tell of the directories of all models of a server."""
    result = Section("model")
    config = case.config
    if config.engine == "sim":
        name = engines.model_name(config)
        result.add("model.built-in", f"the simulator serves {name!r}: any name will do")
        return result
    if config.engine == "mock" and config.model is None:
        result.add("model.built-in", "the mock engine brings a model without weights")
        return result
    wrong = case.add_problems(result, "model.wrong", _GIVE)
    result.facts["models"] = []
    for model, weights in _models(case):
        if model.startswith("HF://"):
            _add_download(result, case, model, wrong=wrong)
        elif not wrong or not _is_named(result, model):
            _add_directory(result, case, model, weights=weights)
    return result


def _models(case: Case) -> Iterator[tuple[str, bool]]:
    merged = Merged(case.config)
    mock = case.config.engine == "mock" or (merged.model_lib or "").startswith("mock://")
    if case.config.model is not None:
        yield case.config.model, not mock
    for more in merged.additional_models:
        yield (more if isinstance(more, str) else more[0]), True
    if case.config.embedding_model is not None:
        yield case.config.embedding_model, True


def _is_named(result: Section, model: str) -> bool:
    return any(repr(model) in finding.text for finding in result.findings)


def _add_directory(result: Section, case: Case, model: str, *, weights: bool) -> None:
    path = os.path.join(case.cwd, model)
    # Those of additional models are not among the run's own checks.
    problems = list(model_files.model_problems(path, weights=weights))
    for problem in problems:
        result.add("model.wrong", *with_remedy(f"{model!r}: {problem}", _GIVE))
    if not problems:
        result.add("model.directory", f"{model}: {_contents(path, weights=weights)}")
    _add_facts(result, model, path, "given")


def _add_facts(result: Section, model: str, path: str | None, how: str) -> None:
    size = model_files.weights_bytes(path) if path else None
    result.facts["models"].append({"model": model, "path": path, "how": how, "weights": size})


def _contents(path: str, *, weights: bool) -> str:
    parts = ["configuration and tokenizer are there"]
    if weights:
        size = model_files.weights_bytes(path)
        parts.append("weights are whole" + (f", {readable(size)}" if size else ""))
    return "; ".join(parts)


def _add_download(result: Section, case: Case, model: str, *, wrong: bool) -> None:
    """Tell of a model that is downloaded, or was."""
    policy = caches.download_policy(case.environment)
    places = [os.path.join(case.cwd, p) for p in caches.places(model, case.environment)]
    there = next((place for place in places if os.path.isdir(place)), None)
    _add_facts(result, model, there, "cached" if there else "absent")
    if there is None or policy == "REDO":
        if not wrong:
            _add_future_download(result, case, model, places[-1], policy)
        return
    problems = list(model_files.model_problems(there, weights=True))
    for problem in problems:
        text, _ = with_remedy(problem, "")
        result.add(
            "model.cache-broken",
            f"{model}: {text}",
            "mlc_llm takes this directory as it is: remove it, so that it is downloaded again",
            f"rm -r {shlex.quote(there)}",
        )
    if not problems:
        whole = _contents(there, weights=True)
        result.add("model.cached", f"{model} was downloaded to {there}: {whole}")


def _add_future_download(result: Section, case: Case, model: str, place: str, policy: str) -> None:
    again = ", each time anew (MLC_DOWNLOAD_CACHE_POLICY=REDO)" if policy == "REDO" else ""
    free = _free_space(place)
    room = f"; {readable(free)} are free there" if free is not None else ""
    result.add(
        "model.would-download",
        f"{model} would be downloaded to {place}{again}{room}",
        "download it ahead of time, outside the clock of the first test; needs git and git-lfs",
        prepare_command(case),
    )
    # git finds its own commands in another directory as well.
    missing = [tool for tool in ("git", "git-lfs") if _which(tool, case) is None]
    if missing:
        result.add(
            "model.tools-missing",
            f"mlc_llm downloads with git and git-lfs, and {' and '.join(missing)} cannot be found",
            f"install {' and '.join(missing)}, or give the directory of a model",
        )


def prepare_command(case: Case) -> str:
    """Return the command that downloads and compiles for a server: it reads no ini file."""
    config = case.config
    merged = Merged(config)
    more = [m if isinstance(m, str) else ",".join(m) for m in merged.additional_models]
    flags: list[tuple[str, str | None]] = [
        ("python", config.python),
        ("model", config.model),
        ("model-lib", merged.model_lib),
        ("device", config.device if config.device != "auto" else None),
        ("overrides", engines.format_overrides(merged.overrides) or None),
        *(("additional-model", one) for one in more),
        ("embedding-model", config.embedding_model),
        ("embedding-model-lib", config.embedding_model_lib),
        *(("env", f"{name}={value}") for name, value in masking.masked_env(config.env).items()),
    ]
    shown = [f"--mlc-{name}={value}" for name, value in flags if value is not None]
    return shlex.join([sys.executable, "-m", "pytest_mlc_server", "prepare", *shown])


def _which(tool: str, case: Case) -> str | None:
    return shutil.which(tool, path=case.environment.get("PATH"))


def _free_space(path: str) -> int | None:
    while not os.path.isdir(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def library_section(case: Case, device: str) -> Section:
    """Tell of the compiled library, or of how the run comes by one.

    Parameters
    ----------
    case
        The server.
    device
        The device that it would get; empty where that is not known.
    """
    result = Section("library")
    config = case.config
    library = Merged(config).model_lib
    if config.engine == "sim":
        result.add("library.built-in", "the simulator needs none")
    elif config.engine == "mock" or (library or "").startswith("mock://"):
        used = library or engines.MOCK_LIBRARY
        result.add("library.built-in", f"{used}: no compiled library, it echoes")
    elif not case.add_problems(
        result, "library.wrong", "compile it for this machine, or leave --mlc-model-lib out"
    ):
        if library is not None:
            result.add("library.given", f"{library}: a shared library of this machine")
            _add_other_device(result, library, device)
        else:
            _add_compilation(result, case)
    return result


def _add_other_device(result: Section, library: str, device: str) -> None:
    """Tell when a name, which upstream's documentation ends with the device, ends with another."""
    named = os.path.splitext(os.path.basename(library))[0].rpartition("-")[2]
    kind = device.partition(":")[0]
    if named in KINDS and kind in KINDS and named != kind:
        result.add(
            "library.other-device",
            f"its name is that of a library for {named}, and the server would get {device}",
            f"compile it for {kind}, choose the device with --mlc-device {named}, or leave "
            "--mlc-model-lib out",
        )


def _add_compilation(result: Section, case: Case) -> None:
    policy = caches.jit_policy(case.environment)
    place = os.path.join(case.cwd, caches.libraries(case.environment))
    prepare = prepare_command(case)
    if policy == "OFF":
        result.add(
            "library.cannot-compile",
            "no library is given, and MLC_JIT_POLICY=OFF forbids to compile one",
            "give one with --mlc-model-lib, or unset MLC_JIT_POLICY",
        )
    elif policy == "REDO":
        result.add(
            "library.always-compiled",
            "MLC_JIT_POLICY=REDO compiles it anew for each start, which takes minutes",
            "unset MLC_JIT_POLICY to use what was compiled before",
        )
    elif policy == "READONLY":
        result.add(
            "library.must-be-cached",
            f"MLC_JIT_POLICY=READONLY: the start fails unless {place} has a library for exactly "
            "these settings, which only mlc_llm can tell",
            "compile it beforehand, with the same settings and without the policy",
            f"MLC_JIT_POLICY=ON {prepare}",
        )
    elif _is_known(case):
        result.add("library.known", "compiled by an earlier start of these settings, and unchanged")
    else:
        result.add(
            "library.would-compile",
            f"would be compiled just in time, unless {place} has it: only mlc_llm can tell",
            "compile it ahead of time, outside the clock of the first test, with these settings",
            prepare,
        )


def _is_known(case: Case) -> bool:
    """Tell whether an earlier start has left a stamp, and all that it names is as it was."""
    try:
        stamps = builds.of(case.config, case.environment, case.cwd)
    except MLCServerError:
        return False  # the directory for locks cannot be used: that is told elsewhere
    return bool(stamps.files) and Build(stamps.files).nothing_to_build()
