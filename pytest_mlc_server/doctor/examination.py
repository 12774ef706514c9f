"""All checks of a diagnosis: begun together, put together in the order in which people read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pytest_mlc_server import auto_device, engines, preflight
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.device_answers import Answer
from pytest_mlc_server.doctor import (
    cached,
    devices,
    interpreter,
    launch,
    machine,
    memory,
    model,
    port,
    remote,
    servers,
    told,
)
from pytest_mlc_server.doctor.case import Case
from pytest_mlc_server.doctor.findings import Diagnosis, Section, Server
from pytest_mlc_server.doctor.programs import Check, HangsError, Programs
from pytest_mlc_server.doctor.settings import Judged, Settings, judge
from pytest_mlc_server.errors import ConfigError, EngineUnavailableError, MLCServerError
from pytest_mlc_server.session import Session
from pytest_mlc_server.shared_servers import Found

#: What a check may take beyond the time limit of the programs that it asks, in seconds.
GRACE = 5.0


#: What a check may raise: files may be whatever they are, a driver's binding whatever it is.
_TROUBLE = (OSError, ValueError, TypeError, LookupError, MLCServerError, RecursionError)


@dataclass
class _Checks:
    """What is found out beside all else for one server; None for what its engine does not need."""

    identity: Check[interpreter.Identity] | None = None
    tvm: Check[Answer] | None = None
    size: Check[cached.Size | None] | None = None
    answer: Check[str] | None = None


class Examination:
    """Examines what a run with certain settings would find.

    Parameters
    ----------
    settings
        What was set.
    programs
        Runs programs.
    """

    def __init__(self, settings: Settings, programs: Programs) -> None:
        self._settings = settings
        self._programs = programs
        self._limit = programs.limit
        self._shared: dict[object, Check[Any]] = {}

    def diagnose(self) -> Diagnosis:
        """Examine all."""
        there = self._begin(servers.look)
        conftests = self._begin(lambda: told.conftests(self._settings))
        gpus = self._begin(memory.look)
        judged = judge(self._settings)
        made = self._begin(lambda: list(self._cases(judged)))
        try:
            cases, wrong = _divided(made.get())
        except HangsError:
            cases, wrong = [], ["looking at the settings did not end within the time limit"]
        problems = [*judged.problems, *wrong]
        checks = [self._begin_checks(case) for case in cases]  # all of them, before any is awaited
        result = Diagnosis()
        result.sections = [
            told.section(self._settings, cases, problems, conftests),
            machine.pytest_section(self._settings),
            _safe("machine", lambda: machine.section(cases)),
            _safe("servers", lambda: servers.section(there, {case.share for case in cases})),
        ]
        for case, own in zip(cases, checks, strict=True):
            server = Server(case.config.engine or "", engines.model_name(case.config))
            server.sections = list(self._sections(case, own, gpus, there))
            result.servers.append(server)
        return result

    def _begin(self, ask: Callable[[], object]) -> Check[Any]:
        return Check(ask, self._limit + GRACE)

    def _cases(self, judged: Judged) -> Iterator[Case | str]:
        """Yield each server of the run, or why there is none."""
        session = judged.session
        if session is None:
            return
        try:
            session.check_workers(self._settings.workers)
        except ConfigError as error:
            yield from error.problems
        workers = self._settings.workers if session.scope == "worker" else 1
        for config in session.configs:
            if config.engine == "mlc" and config.model is None:
                continue  # that is the problem
            try:
                assigned = session.devices.assign(config)
            except (ConfigError, EngineUnavailableError) as error:
                assigned = config
                if error.text not in judged.problems:
                    yield error.text
            yield Case(assigned, _problems(assigned), workers, _share(session, assigned))

    def _begin_checks(self, case: Case) -> _Checks:
        config = case.config
        if config.engine == "external":
            return _Checks(answer=self._begin(lambda: remote.ask(case, self._limit)))
        if not case.is_real:
            return _Checks()
        same = (config.python, case.cwd, tuple(sorted(case.environment.items())))
        return _Checks(
            identity=self._once(
                ("identity", same), lambda: interpreter.identify(case, self._programs)
            ),
            tvm=self._once(("tvm", same), lambda: self._ask_tvm(case, same)),
            size=self._once(
                ("size", cached.home_of(case)), lambda: cached.count(cached.home_of(case))
            ),
        )

    def _ask_tvm(self, case: Case, same: object) -> Answer:
        """Ask TVM, if the interpreter is one that has it, and the engine needs a device."""
        if case.config.engine == "mock" and case.config.device == "auto":
            return Answer("")
        try:
            identity: interpreter.Identity = self._shared["identity", same].get()
        except HangsError:
            return Answer("", problem=auto_device.NO_MODULE)  # it has nothing to say of TVM, either
        if not identity.can_ask_tvm:
            return Answer("", problem=auto_device.NO_MODULE)
        return devices.find(case, self._programs)

    def _once(self, key: object, ask: Callable[[], object]) -> Check[Any]:
        """Begin a check that servers have in common."""
        if key not in self._shared:
            self._shared[key] = self._begin(ask)
        return self._shared[key]

    def _sections(
        self, case: Case, own: _Checks, gpus: Check[Any], there: Check[Any]
    ) -> Iterator[Section]:
        if own.answer is not None:
            answer = own.answer
            yield _safe("url", lambda: remote.section(case, answer))
            return
        device = case.config.device
        if own.identity is not None and own.tvm is not None and own.size is not None:
            identity, tvm, size = own.identity, own.tvm, own.size
            yield _safe("interpreter", lambda: interpreter.section(case, identity, tvm))
            yield _safe("devices", lambda: devices.section(case, tvm))
            with contextlib.suppress(*_TROUBLE):
                device = devices.device_of(case, tvm)
            yield self._limited("model", lambda: model.section(case))
            yield self._limited("library", lambda: model.library_section(case, device))
            yield _safe("memory", lambda: memory.section(case, tvm, gpus))
            yield _safe("caches", lambda: cached.section(case, size))
        else:
            yield _safe("simulator", lambda: machine.simulator_section(case))
            yield _safe("model", lambda: model.section(case))
        yield _safe("port", lambda: port.section(case, _shared(there)))
        yield _safe("command", lambda: launch.section(case, device))

    def _limited(self, name: str, make: Callable[[], Section]) -> Section:
        """Make a section beside all else: a model may lie on a file system that hangs."""
        check = self._begin(lambda: _safe(name, make))
        try:
            section: Section = check.get()
        except HangsError:
            section = Section(name)
            section.add(
                "check.hangs",
                "reading the files did not end within the time limit",
                "look at the file system that they are on",
            )
        return section


def _problems(config: ServerConfig) -> list[str]:
    try:
        return preflight.problems(config)
    except _TROUBLE as error:
        return [f"the checks of a start cannot be made: {type(error).__name__}: {error}"]


def _share(session: Session, config: ServerConfig) -> str:
    """Return what is equal for servers that the run would use instead of its own."""
    try:
        share = session.share(config)
    except _TROUBLE:
        return ""  # the directory for locks, say: the section of the machine tells
    return share.key if share is not None else ""


def _divided(found: list[Case | str]) -> tuple[list[Case], list[str]]:
    cases = [one for one in found if isinstance(one, Case)]
    return cases, [one for one in found if isinstance(one, str)]


def _shared(there: Check[servers.There]) -> list[Found]:
    try:
        return there.get().shared
    except HangsError:
        return []


def _safe(name: str, make: Callable[[], Section]) -> Section:
    """Make a section; a check that fails is reported as such, and the others go on."""
    try:
        return make()
    except _TROUBLE as error:
        section = Section(name)
        section.add("check.failed", f"this could not be checked: {type(error).__name__}: {error}")
        return section
