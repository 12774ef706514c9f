"""What a test run shows of its servers: header, failure sections, summary, properties."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlc_server import advertise, logs, matrix
from pytest_mlc_server.engines import model_name
from pytest_mlc_server.errors import ConfigError, MLCServerError
from pytest_mlc_server.values import mask_url

if TYPE_CHECKING:
    from pytest_mlc_server.health import Health
    from pytest_mlc_server.options import Given
    from pytest_mlc_server.pool import ServerPool
    from pytest_mlc_server.server import PopenServer
    from pytest_mlc_server.session import Session

#: Lines of a server's log that a failing test shows at most.
SHOWN_LINES = 100

#: Fixture that all our server fixtures ask for.
FACTORY = "mlc_server_factory"


def warn_of_ignored_ini(config: pytest.Config, given: Mapping[str, Given]) -> None:
    """Warn when pytest took a path of ours for a test path, and read no ini file because of it.

    It looks for its ini file before it knows the plugins' flags, and takes the word after an
    unknown flag for a path with tests.
    """
    here = config.invocation_params.dir
    if config.inipath is not None and config.inipath.parent in (here, *here.parents):
        return
    words = {str(word) for word in config.invocation_params.args}
    for one in given.values():
        values = one.raw if isinstance(one.raw, list) else [one.raw]
        taken = [str(value) for value in values if str(value) in words]
        if one.setting.kind == "path" and any(os.path.isabs(value) for value in taken):
            config.issue_config_time_warning(
                pytest.PytestWarning(
                    f"pytest took {taken[0]} for a path with tests, because it stands after a "
                    f"space, and did not look for its ini file in {here}: write "
                    f"{one.setting.flag}={taken[0]}"
                ),
                stacklevel=2,
            )


def header(session: Session, tx: Iterable[object] = ()) -> str:
    """Return the line of the run's header.

    Parameters
    ----------
    session
        The plugin's session.
    tx
        Where pytest-xdist's workers run: its ``--tx``.
    """
    config = session.config
    model = model_name(config) or ("what it serves" if config.url else "not configured")
    if len(session.configs) > 1:
        names = ", ".join(str(one.model) for one in session.configs)
        model = f"{names} (each test with each of {len(session.configs)})"
    if config.engine == "external":
        url = mask_url(config.url or "")
        return f"mlc-server: engine external, {url}, model {model}, scope worker"
    return (
        f"mlc-server: engine {config.engine}, model {model}, device {config.device}, "
        f"port {config.port}, scope {session.scope}{session.devices.describe(config)}"
        f"{advertise.note(session.advertise, tx)}{_waiting(session)}"
    )


def _waiting(session: Session) -> str:
    """Return what the header says of a server that waits for its next user."""
    if not session.reuse:
        return ""
    from pytest_mlc_server import fingerprint, sharing

    try:
        config = session.own_config()
        share = session.share(config)
        key = "" if share is None else share.key
        if session.distributed and session.scope == "run":
            key = fingerprint.fingerprint(config)  # of the workers: they have a run
        waiting = [] if share is None else sharing.found(share.directory, key)
    except MLCServerError:
        waiting = []  # the first test says what is wrong, with all that there is to say
    for server in waiting:
        idle = server.status.get("idle")
        if server.status.get("state") == "ready" and idle is not None:
            return f", reusing server of {_reused(server.status['started_at'], idle)}"
    return f", reuse {session.reuse:g} s"


def _reused(started_at: float, idle: float) -> str:
    """Return since when a server runs, and how long it waited."""
    waited = f"{idle / 60:.0f} min" if idle >= 60 else f"{idle:.0f} s"
    return f"{time.strftime('%H:%M', time.localtime(started_at))}, idle {waited}"


def server_line(server: PopenServer, worker: str | None) -> str:
    """Return the line of a server in the summary."""
    # What all workers share is one server, and one line.
    where = f"{worker}: " if worker and (server.share is None or server.share.exclusive) else ""
    line = f"{where}{server.engine} {server.model!r}, device {server.device}, {server.base_url}"
    if server.startup_seconds is not None:
        line += f", ready after {server.startup_seconds:.2f} s"
    if logs.WAITING in server.startup_phases:
        waited = server.startup_phases[logs.WAITING]
        line += f", waited {waited:.2f} s for another one that compiled or downloaded the model"
    if "waiting" in server.startup_phases:
        waited = server.startup_phases["waiting"]
        line += f", waited {waited:.2f} s until another one was idle"
    if server.reused is not None:
        line += f", reused: server of {_reused(server.reused['started_at'], server.reused['idle'])}"
        state = "its state was reset" if server.reused["reset"] else "its state was not reset"
        line += f", {state}" + ("" if server.reused["reset"] else " (--mlc-no-debug)")
    if server.restarts:
        line += f", restarts: {server.restarts}"
    if server.log_path is not None:
        line += f", log {server.log_path}"
    return line


class TestWatch:
    """Watches the tests of a process that has servers; registered with the first server.

    Parameters
    ----------
    session
        The plugin's session.
    pool
        Its servers.
    health
        What happens to them.
    """

    __test__ = False  # not a test class, whatever its name

    def __init__(self, session: Session, pool: ServerPool, health: Health) -> None:
        self._session = session
        self._pool = pool
        self._health = health
        self._config_fixture: Any = None
        self._last = True
        self._starts: dict[str, int] = {}
        self._shown: dict[str, int] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        """Remember where each log stands when a test begins."""
        self._starts = {path: logs.size(path) for path in self._paths()}
        self._shown = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Give a test that needs the server a working one, before any of its fixtures is made."""
        __tracebackhide__ = True
        if FACTORY in getattr(item, "fixturenames", ()):
            self._check_override(item)
            unused = matrix.spare(item, self._pool)
            self._health.before(item.nodeid, item.nodeid.partition("::")[0], unused)

    def _check_override(self, item: pytest.Item) -> None:
        """Refuse an overridden `mlc_server_config` that pytest would silently not use.

        The server's fixture is the session's: pytest makes it once, with the configuration that
        the first test sees.
        """
        __tracebackhide__ = True
        info = getattr(item, "_fixtureinfo", None)
        found = info.name2fixturedefs.get("mlc_server_config") if info is not None else None
        if not found:
            return
        if self._config_fixture is None:
            self._config_fixture = found[-1]
        if found[-1] is not self._config_fixture:
            raise ConfigError(
                f"mlc_server_config is overridden in {found[-1].baseid or 'the root'!r}, and the "
                f"session's server was made with that of {self._config_fixture.baseid or 'root'!r}"
                ": pytest makes session fixtures once. Use mlc_server_factory(...) or "
                "factories.mlc_server(...) for another server"
            )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """Begin to start the server of the next test beside this one's, if there may be two."""
        self._last = nextitem is None
        if nextitem is not None and self._session.choices and self._session.worker:
            matrix.begin_for(nextitem, item, self._session, self._pool)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Stop a server that was begun early and that no test asked for."""
        self._session.close_pool()

    def pytest_keyboard_interrupt(self) -> None:
        """Leave the servers' end to their guardians: who pressed Ctrl-C does not want to wait."""
        self._session.hurry = True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add the server's log to a failing test, and tell whether the test reached a server."""
        report = yield
        # Before the server is asked whether it works: those lines are not the test's.
        ends = {path: logs.size(path) for path in self._paths()} if report.failed else {}
        look = report.failed or self._looks(item, report.when)
        incidents = self._health.after(item.nodeid, failed=report.failed) if look else []
        for incident in incidents:
            title = f"mlc server ({incident.server.engine}, {incident.server.base_url})"
            report.sections.append((title, f"during this test: {incident.text}"))
        unwanted = [incident for incident in incidents if not incident.provoked]
        if unwanted and not report.failed and report.when != "setup":
            # Not an error that a test would see: it is over, and it passed.
            warn(item, f"{item.nodeid} did not fail, although {unwanted[0].text.splitlines()[0]}")
        if report.failed:
            self._pool.keep_logs = True
            self._add_logs(item, report, {} if incidents else ends)
        if report.when == "call" and not report.skipped and self._reached(item):
            # An attribute of its own travels from an xdist worker to the controller.
            report.__dict__["mlc_reached"] = True
        error = call.excinfo.value if call.excinfo is not None else None
        if isinstance(error, MLCServerError) and error.reported_by is None:
            error.reported_by = item.nodeid
        return report

    def _looks(self, item: pytest.Item, when: str | None) -> bool:
        """Tell whether to look after the servers once a phase went well.

        As rarely as nothing is missed, which keeps short tests short: what happened in a setup is
        found a moment later. The last test's teardown is too late: the servers are stopped by then.
        """
        if when == "call":
            return self._last or FACTORY in getattr(item, "fixturenames", ())
        return when == "teardown"

    def _paths(self) -> Iterable[str]:
        return [server.log_path for server in self._pool.history if server.log_path is not None]

    def _start(self, path: str) -> int:
        return self._starts.get(path, self._pool.ready_at.get(path, 0))

    def _reached(self, item: pytest.Item) -> bool:
        if not self._pool.history:
            return False
        if FACTORY in getattr(item, "fixturenames", ()):
            return True
        if not self._session.require and self._session.worker is None:
            return False  # nobody counts them
        return any(logs.size(path) > self._start(path) for path in self._paths())

    def _add_logs(
        self, item: pytest.Item, report: pytest.TestReport, ends: Mapping[str, int]
    ) -> None:
        for server in self._pool.history:
            path = server.log_path
            if path is None:
                continue
            start = max(self._start(path), self._shown.get(path, 0))
            self._shown[path] = size = logs.size(path)
            end = ends.get(path, size)
            text = server.hide_secrets(shortened(logs.read(path, start, end), path))
            if not text:
                continue
            title = f"mlc server log ({server.engine}, {server.base_url})"
            if server.share is not None and not server.share.exclusive:
                title += ": lines may belong to tests of other workers that ran at the same time"
            report.sections.append((title, text))
            property_ = ("mlc_server_log", text)
            item.user_properties.append(property_)
            report.user_properties.append(property_)


def warn(item: pytest.Item, text: str) -> None:
    """Add a warning to the run's summary, whatever the run's warning filters make of warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn(pytest.PytestWarning(text), stacklevel=1)
    item.ihook.pytest_warning_recorded.call_historic(
        kwargs={
            "warning_message": caught[0],
            "nodeid": item.nodeid,
            "when": "runtest",
            "location": None,
        }
    )


def shortened(text: str, path: str) -> str:
    """Return the last lines of a part of a log, with a word about those left out."""
    lines = text.rstrip("\n").splitlines()
    if len(lines) > SHOWN_LINES:
        left_out = len(lines) - SHOWN_LINES
        lines = [f"[{left_out} lines left out; all of them: {path}]", *lines[-SHOWN_LINES:]]
    return "\n".join(lines)


class Requirement:
    """Counts the tests that reached a server, and fails a run with too few of them.

    Parameters
    ----------
    session
        The plugin's session, with `require` above 0.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._reached: set[str] = set()
        self._text = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count; with xdist the controller gets the reports of all workers."""
        if getattr(report, "mlc_reached", False):
            self._reached.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run if fewer tests reached a server than required."""
        wanted, reached = self._session.require, len(self._reached)
        if reached >= wanted or session.config.option.collectonly:
            return
        source = self._session.given["require"].source
        self._text = (
            f"{reached} tests reached an MLC server, and {wanted} must (require = {wanted}, "
            f"from {source}): the run fails"
        )
        if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say why the run failed."""
        if self._text:
            terminalreporter.write_line(f"ERROR: {self._text}", red=True)


class Summary:
    """Collects the servers of all processes of a run, for the lines at its end.

    Parameters
    ----------
    session
        The plugin's session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lines: list[str] = []

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """In a worker, hand the lines to the controller."""
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["mlc_servers"] = self._own_lines()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """In the controller, take the lines of a worker that ended."""
        for line in getattr(node, "workeroutput", {}).get("mlc_servers", []):
            # A worker that ended early does not know of a restart: one line, that of who knows.
            what, ready, _ = line.partition(", ready after ")
            same = [one for one in self._lines if ready and one.startswith(what + ready)]
            if same:
                self._lines[self._lines.index(same[0])] = max(line, *same, key=len)
            elif line not in self._lines:
                self._lines.append(line)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show what was started."""
        # A server that the controller shares with its workers is one server.
        lines = list(dict.fromkeys([*self._lines, *self._own_lines()]))
        if lines and terminalreporter.verbosity >= 0:
            terminalreporter.ensure_newline()
            terminalreporter.section("mlc servers")
            for line in lines:
                terminalreporter.line(line)

    def _own_lines(self) -> list[str]:
        pool = self._session.pool
        if pool is None:
            return []
        lines = [server_line(server, self._session.worker) for server in pool.history]
        health = self._session.health
        where = f"{self._session.worker}: " if self._session.worker else ""
        incidents = health.incidents if health else []
        return lines + [where + incident.line() for incident in incidents]
