"""Who is compared: names, what they need, and what of that is here."""

from __future__ import annotations

import functools
import importlib.util
from importlib.metadata import PackageNotFoundError, version

import _docker
from _rounds import NotMeasuredError

OURS = "pytest-mlc-server"
POPEN = "plain Popen"
XPROCESS = "pytest-xprocess"
MIRAKURU = "mirakuru"
TESTCONTAINERS = "testcontainers"
DOCKER_TOOLS = "pytest-docker-tools"
DOCKER = "pytest-docker"
XDIST = "pytest-xdist"

#: Is upstream's class here? Without it, its loop is written out: the same requests and signals.
REAL_UPSTREAM = importlib.util.find_spec("mlc_llm") is not None
UPSTREAM = "upstream's PopenServer" if REAL_UPSTREAM else "upstream's loop"

#: The package of each candidate that has one.
PACKAGES = {
    OURS: "pytest-mlc-server",
    XPROCESS: "pytest-xprocess",
    MIRAKURU: "mirakuru",
    TESTCONTAINERS: "testcontainers",
    DOCKER_TOOLS: "pytest_docker_tools",
    DOCKER: "pytest-docker",
    XDIST: "pytest-xdist",
}

#: Who serves from a container.
CONTAINERS = (TESTCONTAINERS, DOCKER_TOOLS)

#: Everyone who can own a server here.
OWNERS = (OURS, POPEN, UPSTREAM, XPROCESS, MIRAKURU, *CONTAINERS)

#: Who takes part in a quick run.
QUICK = (OURS, POPEN, XPROCESS)

NOT_INSTALLED = "not installed"


def version_of(package: str) -> str:
    """Return the version of a package; empty if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def installed(name: str) -> str:
    """Return the version of a candidate's package; empty if it is not installed."""
    return version_of(PACKAGES[name])


@functools.cache
def missing(name: str) -> str:
    """Return why a candidate cannot own a server here; empty if it can."""
    if name in PACKAGES and not installed(name):
        return NOT_INSTALLED
    return _docker.missing() if name in CONTAINERS else ""


def require(name: str) -> None:
    """Raise NotMeasuredError if a candidate cannot own a server here."""
    why = missing(name)
    if why:
        raise NotMeasuredError(why)


def versions() -> dict[str, str]:
    """Return what is installed of everything that is compared, and of what it stands on."""
    found = {name: installed(name) or NOT_INSTALLED for name in PACKAGES}
    for name in ("pytest", "pytest-timeout", "filelock", "mlc_llm"):
        found[name] = version_of(name) or NOT_INSTALLED
    found["Docker daemon"] = _docker.version()
    return found
