"""The machine and its pytest: versions, platform, extras, directories."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile

from pytest_mlc_server import runtime
from pytest_mlc_server.doctor.case import Case, with_remedy
from pytest_mlc_server.doctor.findings import Section
from pytest_mlc_server.doctor.memory import readable
from pytest_mlc_server.doctor.settings import Settings
from pytest_mlc_server.errors import ConfigError

#: What the simulator imports (the extra `sim`).
SIMULATOR = ("fastapi", "pydantic", "rstr", "tokenizers", "uvicorn") + (
    ("tomli",) if sys.version_info < (3, 11) else ()
)

#: Below this much space a log may not find room, in bytes.
LITTLE_SPACE = 100 << 20


def pytest_section(settings: Settings) -> Section:
    """Tell of pytest, of this package, and of the packages that some fixtures need."""
    result = Section("pytest")
    versions = {
        "python": platform.python_version(),
        "pytest": settings.pytest,
        "pytest-mlc-server": _version("pytest-mlc-server"),
        "pytest-xdist": _version("pytest-xdist") if settings.xdist else "",
    }
    result.facts.update(versions={name: v for name, v in versions.items() if v})
    shown = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    result.add("pytest.version", shown)
    if settings.hangs:
        result.add(
            "pytest.hangs",
            settings.error,
            "one of its plugins hangs while it is loaded: run `pytest --version -v`; what follows "
            "is without the ini file",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 pytest --version",
        )
    elif settings.error:
        result.add(
            "pytest.cannot-read",
            settings.error,
            "pytest itself ends with this; what follows is without the ini file",
        )
    elif not settings.loaded:
        result.add("pytest.plugin-missing", "pytest does not load this plugin", _loading())
    if settings.workers > 1:
        result.facts["workers"] = settings.workers
        result.add("pytest.workers", f"{settings.workers} pytest-xdist workers on this host")
    if not settings.xdist and any(word.startswith("-n") for word in settings.foreign):
        result.add(
            "extra.missing",
            "-n starts workers of pytest-xdist, which is not installed or not loaded",
            "install the extra `xdist`, or leave -n out",
            "pip install 'pytest-mlc-server[xdist]'",
        )
    _add_extras(result)
    return result


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _loading() -> str:
    if os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        return "unset PYTEST_DISABLE_PLUGIN_AUTOLOAD, or name it: -p pytest_mlc_server.plugin"
    if not _version("pytest-mlc-server"):
        return "install the package: pip install pytest-mlc-server"
    return "leave `-p no:mlc_server` out of the command line, of addopts and of PYTEST_ADDOPTS"


def _add_extras(result: Section) -> None:
    if not _is_there("openai"):
        result.add(
            "extra.not-installed",
            "without openai, the fixtures mlc_client and mlc_async_client cannot be used",
            "install the extra `openai` if tests use them",
            "pip install 'pytest-mlc-server[openai]'",
        )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def simulator_section(case: Case) -> Section:
    """Tell whether the simulator can run."""
    result = Section("simulator")
    missing = [module for module in SIMULATOR if not _is_there(module)]
    if missing:
        result.add(
            "extra.missing",
            f"the simulator needs {', '.join(missing)}: its extra is not installed",
            "install the extra `sim`",
            "pip install 'pytest-mlc-server[sim]'",
        )
    else:
        result.add("simulator.installed", "all that it needs is installed")
        script = case.config.sim_script
        result.facts["script"] = script
    return result


def section(cases: list[Case]) -> Section:
    """Tell whether servers can be started on this machine, and whether their files have room."""
    result = Section("machine")
    starts = any(case.config.engine != "external" for case in cases) or not cases
    result.facts["platform"] = platform.platform()
    _add_platform(result, starts=starts)
    if not starts:
        return result
    for case in cases:
        wrong = case.problems_of("machine")
        for problem in wrong:
            remedy = "choose a directory that is there and that you may write to"
            result.add("machine.directory-wrong", *with_remedy(problem, remedy, case.config))
    if sys.platform != "win32":
        _add_directories(result)
    return result


def _add_platform(result: Section, *, starts: bool) -> None:
    name = platform.platform()
    if sys.platform.startswith("linux"):
        result.add("machine.supported", name)
    elif sys.platform == "win32" and starts:
        result.add(
            "machine.unsupported",
            f"{name}: this package cannot start servers on Windows",
            "start the server elsewhere, in WSL say, and attach to it with --mlc-url",
        )
    elif sys.platform == "win32":
        result.add("machine.supported", f"{name}: enough for a server that is there")
    else:
        result.add("machine.untested", f"{name}: servers start here, but nobody has tested it")


def _add_directories(result: Section) -> None:
    try:
        temporary = tempfile.gettempdir()
    except OSError:
        result.add(
            "machine.no-temporary-directory",
            "there is no directory that temporary files can be written to",
            "set TMPDIR to a directory of your own",
        )
        return
    result.facts["temporary"] = temporary
    wrong = False
    try:
        locks = runtime.directory()
    except ConfigError as error:
        result.add("machine.directory-not-private", *with_remedy(error.text, _OWN))
        wrong, locks = True, ""
    result.facts["locks"] = locks or None
    if locks and not os.path.lexists(locks) and not os.access(os.path.dirname(locks), os.W_OK):
        result.add("machine.directory-not-private", f"{locks} cannot be made", _OWN)
        wrong = True
    free = shutil.disk_usage(temporary).free
    if free < LITTLE_SPACE:
        result.add(
            "machine.disk-full",
            f"{temporary} has {readable(free)} left for logs",
            "make room there, or set TMPDIR to another directory",
        )
    if not wrong:
        result.add(
            "machine.directories",
            f"logs go to {temporary} ({readable(free)} free), locks to {locks}, of this user alone",
        )


_OWN = "set XDG_RUNTIME_DIR to a directory of your own"
