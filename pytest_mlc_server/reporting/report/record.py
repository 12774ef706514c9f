"""Collects what a report shows while the tests run, and has it written at the end of the run."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlc_server import masking, reading
from pytest_mlc_server.reporting.report import data, texts, writing
from pytest_mlc_server.reporting.report.attempts import Attempts
from pytest_mlc_server.reporting.watch import warn

if TYPE_CHECKING:
    from pytest_mlc_server.session import Session

#: Packages whose versions a reader may want to know.
PACKAGES = ("pytest", "pytest-mlc-server", "pytest-xdist", "mlc-llm", "openai")


class Recorder:
    """Records a run in the process that sees all its tests: the controller, or the only one.

    Parameters
    ----------
    session
        The plugin's session, with reports to write.
    servers
        Returns the servers of all processes, as data, once the tests are over.
    """

    def __init__(
        self, session: Session, servers: Callable[[], Sequence[Mapping[str, Any]]]
    ) -> None:
        self._session = session
        self._servers = servers
        self._attempts = Attempts()
        self._began = time.time()
        self._ended = ""
        self._uncollected: list[data.Trouble] = []
        self._crashed: list[data.Trouble] = []
        self._internal: list[data.Trouble] = []
        self._missed = ""
        self._lines: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a phase of a test."""
        try:
            self._attempts.add(report)
        except Exception as error:  # a report that another plugin made must not end the run
            self._missed = self._missed or f"{report.nodeid}: {_said(error)}"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take what could not be collected."""
        if report.failed:
            text = texts.bounded(report.longreprtext, 8_000)
            trouble = data.Trouble(where=report.nodeid, text=text)
            if trouble not in self._uncollected:
                self._uncollected.append(trouble)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """Take a worker that crashed."""
        if error:
            self._crashed.append(data.Trouble(where=str(node.gateway.id), text=str(error)))

    def pytest_internalerror(self, excrepr: object) -> None:
        """Take an error of pytest or of a plugin."""
        text = texts.bounded(str(excrepr), 8_000)
        self._internal.append(data.Trouble(where="pytest", text=text))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Remember what stopped the run: Ctrl-C, ``pytest.exit``, or pytest itself."""
        text = str(excinfo.value)
        kind = excinfo.typename
        self._ended = f"{kind}: {text}" if text else kind

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports: whatever happens to them, the run ends as it would without."""
        try:
            report = self._report(session)
        except Exception as error:  # a defect of ours must not fail anybody's tests
            warn(session.config, f"there is no report of this run: {_said(error)}")
            return
        if self._missed:
            warn(session.config, f"the report lacks something of {self._missed}")
        for path in dict.fromkeys(self._session.reports):
            self._write(session.config, path, report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say where the reports are."""
        if self._lines and terminalreporter.verbosity > -2:
            terminalreporter.ensure_newline()
            for line in self._lines:
                terminalreporter.line(line)

    def _write(self, config: pytest.Config, path: str, report: data.Report) -> None:
        try:
            text = _text(report, path)
        except Exception as error:
            # A defect of the page: what it would have shown is kept as data.
            warn(config, f"the report {path} could not be made: {_said(error)}")
            path = f"{path.removesuffix('.html')}.json"
            text = _json(report)
        try:
            writing.write(path, text)
        except OSError as error:
            self._write_elsewhere(config, path, text, error)
        else:
            self._lines.append(f"mlc report: {path}")

    def _write_elsewhere(
        self, config: pytest.Config, path: str, text: str, problem: OSError
    ) -> None:
        try:
            elsewhere = writing.write_elsewhere(path, text)
        except OSError as error:
            warn(
                config,
                f"the report {path} could not be written: {_said(problem)}; nor in the directory "
                f"for temporary files: {_said(error)}",
            )
            return
        warn(config, f"the report {path} could not be written: {_said(problem)}; see {elsewhere}")
        self._lines.append(f"mlc report: {elsewhere} (not {path}: {_said(problem)})")

    def _report(self, session: pytest.Session) -> data.Report:
        tests = self._attempts.tests
        left_out = self._attempts.left_out
        report = data.Report(
            schema=data.SCHEMA,
            run=self._run(session, tests),
            servers=[data.server(known) for known in self._servers()],
            tests=tests,
            collection_errors=self._uncollected,
            crashed_workers=self._crashed,
            internal_errors=self._internal,
            cut=f"{left_out} texts of failures are cut to 400 characters" if left_out else "",
        )
        return data.cleaned(report, self._secrets())

    def _run(self, session: pytest.Session, tests: list[data.Test]) -> data.Run:
        workers = {test["worker"] for test in tests if test["worker"]}
        stopped = session.shouldstop or session.shouldfail
        return data.Run(
            started_at=self._began,
            ended_at=time.time(),
            exit_status=int(session.exitstatus),
            ended=self._ended or (str(stopped) if stopped else ""),
            workers=len(workers),
            counts=data.counts(tests),
            versions=_versions(),
            settings=[_setting(one) for one in self._session.given.values()],
            root=str(session.config.rootpath),
        )

    def _secrets(self) -> list[str]:
        found: list[str] = []
        for config in self._session.configs:
            found += masking.secrets_of(config.api_key, config.env, config.url)
        return found


def _setting(one: Any) -> data.Setting:
    # As an error would show it: keys and passwords are masked there.
    name = one.setting.name
    shown = reading.written(one)
    value = shown.removeprefix(f"{name} = ").removesuffix(f" (from {one.source})")
    return data.Setting(name=name, value=value, source=str(one.source))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _text(report: data.Report, path: str) -> str:
    if path.endswith(".json"):
        return _json(report)
    from pytest_mlc_server.reporting.report import page

    return page.page(report, path)


def _json(report: data.Report) -> str:
    return json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}"
