"""A Docker daemon, if one answers, and an image with the child that needs no registry.

The image holds what an interpreter that runs the child has opened: itself, its shared libraries,
its modules. Nothing is pulled.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

#: The port of the child in its container.
PORT = 8000

#: What tells where the containers are: their label, whose value is the directory of the run.
LABEL = "pytest-mlc-server.benchmark"

NO_DAEMON = "needs a Docker daemon: not measured here"
NO_CLIENT = "needs the package docker: not measured here"

#: testcontainers' own way to remove what a killed run has left.
RYUK = "testcontainers/ryuk"

CHILD = "/child.py"

_LOADED = """
import encodings.ascii, encodings.idna, encodings.latin_1
import json, os, runpy, select, signal, socket, sys, time
files = [m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)]
files += [m.__cached__ for m in list(sys.modules.values()) if getattr(m, "__cached__", None)]
files += [os.path.join(os.path.dirname(os.__file__), "os.py"), sys.executable]
with open("/proc/self/maps") as maps:
    files += [line.split(None, 5)[5].strip() for line in maps if line.count("/") > 1]
print(json.dumps([f for f in set(files) if os.path.isfile(f)]))
"""


def _client() -> Any:
    import docker  # type: ignore[import-untyped, unused-ignore]

    return docker.from_env(timeout=60)


@functools.cache
def missing() -> str:
    """Return why no container can run here; empty if one can."""
    if importlib.util.find_spec("docker") is None:
        return NO_CLIENT
    try:
        client = _client()
        client.ping()
        client.close()
    except Exception:  # the client's own, and those of what it stands on
        return NO_DAEMON
    return ""


def version() -> str:
    """Return the daemon's version, or why there is none."""
    if missing():
        return "none answers" if missing() == NO_DAEMON else missing()
    client = _client()
    try:
        return str(client.version()["Version"])
    finally:
        client.close()


@functools.cache
def ryuk() -> bool:
    """Tell whether the image of testcontainers' reaper is here."""
    if missing():
        return False
    client = _client()
    try:
        return any(tag.startswith(RYUK) for image in client.images.list() for tag in image.tags)
    finally:
        client.close()


def _files() -> list[str]:
    """Return all files that the child's interpreter needs, and those of `cat`."""
    python = os.path.realpath(sys.executable)
    done = subprocess.run(
        [python, "-IS", "-c", _LOADED], capture_output=True, text=True, check=True
    )
    # pytest-docker-tools has `cat` tell it which ports are listening.
    cat = shutil.which("cat") or "/bin/cat"
    return [*json.loads(done.stdout), cat, *_libraries(cat), *_libraries(python)]


def _libraries(program: str) -> Iterator[str]:
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    for word in done.stdout.split():
        if word.startswith("/"):
            yield word


def _archive() -> bytes:
    """Return the image's file system."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.dereference = True
        for path in sorted(set(_files())):
            archive.add(path, path.lstrip("/"))
        child = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_child.py")
        archive.add(child, CHILD.lstrip("/"))
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o777
        archive.addfile(folder)
    return buffer.getvalue()


@contextmanager
def image() -> Iterator[str]:
    """Make the image for as long as the block runs; its name is empty where no daemon answers."""
    if missing():
        yield ""
        return
    client = _client()
    name = f"pytest-mlc-server-benchmark:{uuid.uuid4().hex[:12]}"
    repository, _, tag = name.partition(":")
    python = os.path.realpath(sys.executable)
    entry = json.dumps([python, "-IS", CHILD])
    try:
        client.api.import_image_from_data(
            _archive(), repository=repository, tag=tag, changes=[f"ENTRYPOINT {entry}"]
        )
        yield name
    finally:
        with suppress(Exception):
            client.images.remove(name, force=True)
        client.close()


def containers(word: str, *, stopped: bool = False) -> list[Any]:
    """Return the containers whose label is this word, or a path below it."""
    client = _client()
    try:
        found = client.containers.list(all=stopped, filters={"label": LABEL})
    finally:
        client.close()
    return [one for one in found if str(one.labels.get(LABEL, "")).startswith(word)]


def remove(word: str) -> int:
    """Remove these containers; return how many there were."""
    if missing():
        return 0
    found = containers(word, stopped=True)
    for one in found:
        with suppress(Exception):
            one.remove(force=True)
    return len(found)
