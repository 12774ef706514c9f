"""Servers that are there already: shared ones, those of other runs, those of nobody."""

from __future__ import annotations

import glob
import os
import shlex
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from pytest_mlc_server import manage, process, runtime, shared_servers, warm
from pytest_mlc_server.doctor.findings import Section
from pytest_mlc_server.doctor.memory import readable
from pytest_mlc_server.doctor.programs import Check, HangsError
from pytest_mlc_server.errors import MLCServerError
from pytest_mlc_server.shared_servers import Found

#: How many servers of one kind are told of.
MOST = 8


@dataclass
class There:
    """What is there.

    Parameters
    ----------
    shared
        Servers that ``ps`` lists.
    running
        Other servers that this package started: id of the process, and its command line.
    foreign
        Those that it did not start.
    logs
        Directories of logs that are left.
    """

    shared: list[Found] = field(default_factory=list)
    running: list[tuple[int, str]] = field(default_factory=list)
    foreign: list[tuple[int, str]] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)


def look() -> There:
    """Look for servers of this user."""
    result = There()
    try:
        if os.path.isdir(runtime.directory()):
            result.shared = shared_servers.everywhere()
    except MLCServerError:
        pass  # the section of the machine says what is wrong with the directory
    known = {int(server.status.get("pid") or 0) for server in result.shared}
    _add_processes(result, known)
    pattern = os.path.join(glob.escape(tempfile.gettempdir()), "pytest-mlc-server-*")
    private = runtime_name()
    result.logs = sorted(
        path for path in glob.glob(pattern) if os.path.basename(path) != private and _owned(path)
    )
    return result


def runtime_name() -> str:
    """Return the name of the directory for locks, which may lie beside the logs."""
    return f"pytest-mlc-server-{os.getuid()}"


def _owned(path: str) -> bool:
    try:
        return os.lstat(path).st_uid == os.getuid() and os.path.isdir(path)
    except OSError:
        return False


def _add_processes(result: There, known: set[int]) -> None:
    import psutil

    for one in psutil.process_iter():
        try:
            # Other users' servers may use a GPU or a port as well; those are told of there.
            if one.pid in known or one.uids().real != os.getuid():
                continue
            words = one.cmdline()
            if not _serves(words):
                continue
            marked = process.MARK in one.environ()
        except (psutil.Error, OSError):
            continue
        (result.running if marked else result.foreign).append((one.pid, shlex.join(words)))


def _serves(words: list[str]) -> bool:
    """Tell whether a command line is that of ``mlc_llm serve``."""
    if "serve" not in words:
        return False
    before = words[: words.index("serve")]
    return bool(before) and (
        os.path.basename(before[-1]) == "mlc_llm" or before[-1] == "mlc_llm.cli.serve"
    )


def section(there: Check[There], wanted: Collection[str]) -> Section:
    """Tell of the servers that are there.

    Parameters
    ----------
    there
        What is there.
    wanted
        Keys of servers that the run would use instead of starting one.
    """
    result = Section("servers")
    try:
        found = there.get()
    except HangsError:
        result.add(
            "check.hangs",
            "looking for servers did not end within the time limit",
            "a guardian hangs: see `ps`, and the processes of this user",
        )
        return result
    result.facts["shared"] = [manage.facts_of(server) for server in found.shared]
    for server in found.shared[:MOST]:
        if server.key in wanted and server.status.get("idle") is not None:
            result.add("servers.reused", f"{server.id} waits, and this run would use it")
        else:
            _add_shared(result, manage.facts_of(server))
    for pid, command in found.running[:MOST]:
        result.add("servers.running", f"process {pid} is a server of a run that goes on: {command}")
    for pid, command in found.foreign[:MOST]:
        result.add(
            "servers.foreign",
            f"process {pid} is an mlc_llm server that this package did not start: {command}",
            "it has its share of memory and a port; if nobody needs it, end it",
            f"kill -INT {pid}",
        )
    if not result.findings:
        result.add("servers.none", "none runs, and none waits for its next user")
    if found.logs:
        _add_logs(result, found.logs)
    return result


def _add_shared(result: Section, facts: dict[str, Any]) -> None:
    idle = facts["idle"]
    what = "a warm parent" if facts["kind"] == warm.KIND else f"{facts['engine']} {facts['model']}"
    doing = f"{facts['users']} users" if idle is None else f"idle for {idle:.0f} s"
    where = f", {facts['url']}" if facts["url"] else ""
    result.add(
        "servers.shared",
        f"{facts['id']}: {what}, {facts['state']}, {doing}{where}",
        "it ends by itself; to stop it now",
        f"python -m pytest_mlc_server stop {facts['id']}",
    )


def _add_logs(result: Section, logs: list[str]) -> None:
    total = 0
    for directory in logs:
        for name in os.listdir(directory) if os.access(directory, os.R_OK | os.X_OK) else ():
            try:
                total += os.lstat(os.path.join(directory, name)).st_size
            except OSError:
                continue
    several = f"{len(logs)} directories" if len(logs) > 1 else "1 directory"
    place = os.path.dirname(logs[0])
    result.facts["logs"] = logs
    names = ["-name", "pytest-mlc-server-*", "!", "-name", runtime_name()]
    result.add(
        "servers.logs",
        f"{several} with logs of servers in {place} ({readable(total)}): of failed or killed "
        "runs, or of runs that go on",
        "when nobody needs them; this removes those that are older than a day",
        shlex.join(["find", place, "-maxdepth", "1", *names, "-mtime", "+0"])
        + r" -exec rm -r {} +",
    )
