"""What was found: findings in sections, and what each kind of finding means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

OK, NOTE, WARNING, PROBLEM = LEVELS = ("ok", "note", "warning", "problem")

#: Every kind of finding: its level, and when it is found. A problem is what a run would fail for.
KINDS: dict[str, tuple[str, str]] = {
    # what was set
    "settings.set": (OK, "a setting, its value and where it was set"),
    "settings.none": (NOTE, "nothing is set"),
    "settings.ini": (OK, "the file that pytest reads its settings from"),
    "settings.no-ini": (NOTE, "pytest finds no such file"),
    "settings.ini-ignored": (WARNING, "pytest takes a path of a setting for a path with tests"),
    "settings.override-not-seen": (
        NOTE,
        "a conftest.py defines mlc_server_config; what it changes cannot be told",
    ),
    "settings.unknown-arguments": (
        NOTE,
        "arguments in addopts that no plugin knows: a conftest.py may",
    ),
    "settings.wrong": (PROBLEM, "a value that cannot be read, or that contradicts another one"),
    "settings.not-configured": (PROBLEM, "nothing says what to serve"),
    "settings.perhaps-configured": (
        WARNING,
        "nothing says what to serve but, perhaps, a conftest.py",
    ),
    # pytest and this machine
    "pytest.version": (OK, "the versions of Python, pytest and this package"),
    "pytest.cannot-read": (PROBLEM, "pytest ends before it has read its settings"),
    "pytest.hangs": (PROBLEM, "pytest does not read its settings within the time limit"),
    "pytest.plugin-missing": (PROBLEM, "pytest does not load this package's plugin"),
    "pytest.workers": (OK, "how many processes would want a server"),
    "machine.supported": (OK, "servers can be started on this platform"),
    "machine.untested": (WARNING, "servers can be started on this platform; nobody tested it"),
    "machine.unsupported": (PROBLEM, "no server can be started on this platform"),
    "machine.directories": (OK, "temporary files and locks have a place"),
    "machine.no-temporary-directory": (PROBLEM, "there is no directory for temporary files"),
    "machine.disk-full": (WARNING, "there is hardly any space for logs"),
    "machine.directory-wrong": (PROBLEM, "the directory for logs, or of the server, is no use"),
    "machine.directory-not-private": (PROBLEM, "the directory for locks cannot be used"),
    "extra.missing": (PROBLEM, "a package is missing that the settings need"),
    "extra.not-installed": (NOTE, "a package is missing that some fixtures need"),
    # servers of others
    "servers.none": (OK, "no shared server runs or waits"),
    "servers.reused": (OK, "a server that waits, and that this run would use"),
    "servers.shared": (NOTE, "a server that a run shares or that waits for its next user"),
    "servers.running": (NOTE, "a server of a test run that is on its way"),
    "servers.foreign": (NOTE, "an mlc_llm server that this package did not start"),
    "servers.logs": (NOTE, "logs of earlier servers are left"),
    # the server's interpreter
    "interpreter.found": (OK, "the interpreter that runs the server"),
    "interpreter.wrong": (PROBLEM, "there is no such interpreter"),
    "interpreter.no-python": (PROBLEM, "the program is no Python that can run a server"),
    "interpreter.hangs": (PROBLEM, "the interpreter does not answer within the time limit"),
    "interpreter.mlc-llm": (OK, "mlc_llm and its version"),
    "interpreter.no-mlc-llm": (PROBLEM, "the interpreter has no module mlc_llm"),
    "interpreter.tvm": (OK, "tvm and its version"),
    "interpreter.no-tvm": (PROBLEM, "tvm cannot be imported"),
    "simulator.installed": (OK, "all that the simulator needs is installed"),
    # devices and memory
    "devices.found": (OK, "the kinds of devices that TVM finds"),
    "devices.none": (PROBLEM, "TVM finds no device"),
    "devices.hang": (PROBLEM, "TVM, or a driver, does not answer within the time limit"),
    "devices.unknown": (WARNING, "it cannot be told which devices there are"),
    "devices.not-asked": (NOTE, "nobody can be asked which devices there are"),
    "devices.auto": (OK, "the device that `auto` means"),
    "devices.auto-remembered": (OK, "the device that `auto` means is remembered"),
    "devices.auto-outdated": (
        WARNING,
        "the device that is remembered for `auto` is not the one that is found now",
    ),
    "devices.chosen": (OK, "the device that was asked for is there"),
    "devices.not-there": (PROBLEM, "the device that was asked for is not there"),
    "devices.not-needed": (OK, "the engine needs no GPU"),
    "devices.assigned": (OK, "the GPUs of the setting devices"),
    "memory.gpu": (OK, "a GPU's memory, and the weights that go there"),
    "memory.gpu-too-small": (PROBLEM, "the weights are larger than the GPU's memory"),
    "memory.gpu-busy": (WARNING, "the weights are larger than what is free of the GPU's memory"),
    "memory.gpu-used": (NOTE, "processes that use the GPU"),
    "memory.gpu-unknown": (NOTE, "the GPU's memory cannot be told"),
    "memory.ram": (OK, "this machine's memory, and the weights"),
    "memory.ram-short": (WARNING, "the weights are larger than the memory that is available"),
    # the model and its library
    "model.directory": (OK, "the model's directory is whole"),
    "model.wrong": (PROBLEM, "something is wrong with the model's files, or its name"),
    "model.built-in": (OK, "the engine brings a model of its own"),
    "model.cached": (OK, "the model was downloaded before"),
    "model.cache-broken": (PROBLEM, "the download in the cache is not whole"),
    "model.would-download": (NOTE, "the run would download the model"),
    "model.tools-missing": (WARNING, "what downloads the model cannot be found"),
    "library.given": (OK, "the library is one of this machine"),
    "library.other-device": (WARNING, "the library's name is that of one for another device"),
    "library.wrong": (PROBLEM, "something is wrong with the library"),
    "library.built-in": (OK, "the engine needs no compiled library"),
    "library.known": (OK, "an earlier start of these settings has compiled it"),
    "library.would-compile": (NOTE, "the run would compile the library unless it is cached"),
    "library.always-compiled": (WARNING, "each start compiles the library anew"),
    "library.must-be-cached": (WARNING, "the start fails if the library is not cached"),
    "library.cannot-compile": (PROBLEM, "there is no library, and none may be compiled"),
    "caches.place": (OK, "where downloads and libraries are kept, and how much that is"),
    "caches.policy": (OK, "a policy, and what it means for this run"),
    "caches.policy-unknown": (WARNING, "a policy that mlc_llm does not know"),
    "caches.read-only": (WARNING, "the run would write to a cache that it cannot write to"),
    # the port, the command, the server that is there
    "port.auto": (OK, "the server chooses the port"),
    "port.free": (OK, "the port is free, or those of all workers"),
    "port.wrong": (PROBLEM, "the port cannot be had"),
    "port.ours": (NOTE, "a server that waits for its next user has the port, and makes room"),
    "port.host": (WARNING, "whoever reaches this machine can use the server"),
    "command.line": (OK, "the command line of the server"),
    "command.unknown": (NOTE, "the command line depends on what is wrong"),
    "url.answers": (OK, "the server that is there answers, and lists its models"),
    "url.fails": (PROBLEM, "the server that is there does not answer as it should"),
    # a check itself
    "check.hangs": (WARNING, "a check did not end within the time limit"),
    "check.failed": (WARNING, "a check could not be made"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Parameters
    ----------
    code
        Its kind, one of `KINDS`.
    text
        What it is, for people. Its first line says it; more lines are evidence.
    remedy
        What to do about it; empty where there is nothing to do.
    command
        A command that does it, to be pasted into a shell; empty where there is none.
    """

    code: str
    text: str
    remedy: str = ""
    command: str = ""

    @property
    def level(self) -> str:
        """``ok``, ``note``, ``warning`` or ``problem``."""
        return KINDS[self.code][0]


@dataclass
class Section:
    """The findings of one topic.

    Parameters
    ----------
    name
        Its name, for programs and for people.
    findings
        In the order in which they are shown.
    facts
        The same in numbers and names, for programs.
    """

    name: str
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, code: str, text: str, remedy: str = "", command: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(code, text, remedy, command))


@dataclass
class Server:
    """What was found for the server of one model.

    Parameters
    ----------
    engine
        The engine.
    model
        The model as the server gets it; None for what a server that is there serves.
    sections
        The sections.
    """

    engine: str
    model: str | None
    sections: list[Section] = field(default_factory=list)


@dataclass
class Diagnosis:
    """All that was found.

    Parameters
    ----------
    sections
        What concerns the run.
    servers
        What concerns the server of each model.
    """

    sections: list[Section] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)

    def all_sections(self) -> Iterator[Section]:
        """Yield all sections, those of servers too."""
        yield from self.sections
        for server in self.servers:
            yield from server.sections

    def counts(self) -> dict[str, int]:
        """Return how many findings there are of each level; what is said twice counts once."""
        found = {f for section in self.all_sections() for f in section.findings}
        return {level: _number(found, level) for level in LEVELS}

    @property
    def healthy(self) -> bool:
        """Whether there is no problem."""
        return not self.counts()[PROBLEM]


def _number(findings: Iterable[Finding], level: str) -> int:
    return sum(finding.level == level for finding in findings)
