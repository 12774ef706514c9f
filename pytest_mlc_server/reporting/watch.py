"""Watches the tests of a process that has servers: logs of failing tests, what happened."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlc_server import access_log, lending, logs
from pytest_mlc_server.errors import ConfigError, MLCServerError
from pytest_mlc_server.masking import mask_url
from pytest_mlc_server.reporting.requested import Requests

if TYPE_CHECKING:
    from pytest_mlc_server.health import Health
    from pytest_mlc_server.pool import ServerPool
    from pytest_mlc_server.session import Session

#: Lines of a server's log that a failing test shows at most.
SHOWN_LINES = 100

#: Fixture that all our server fixtures ask for.
FACTORY = "mlc_server_factory"


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
        self._requests = Requests(session, pool, self)
        self._config_fixture: Any = None
        self._last = True
        self._starts: dict[str, int] = {}
        self._shown: dict[str, int] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        """Remember where each log stands when a test begins."""
        self._starts = {path: logs.size(path) for path in self.paths()}
        self._shown = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Give a test that needs the server a working one, before any of its fixtures is made."""
        __tracebackhide__ = True
        if FACTORY in getattr(item, "fixturenames", ()):
            self._check_override(item)
            unused = lending.spare(item, self._pool)
            self._health.before(item.nodeid, item.nodeid.partition("::")[0], unused)
            # A server that was started again, or reset, has logged what is not the test's.
            self._starts = {path: logs.size(path) for path in self.paths()}

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
            lending.begin_for(nextitem, item, self._session, self._pool)

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
        if call.when == "setup":
            self._requests.begin(call.start)
        report = yield
        # Before the server is asked whether it works: those lines are not the test's.
        shows = self._requests.wanted(call)
        ends = {path: logs.size(path) for path in self.paths()} if shows or report.failed else {}
        look = report.failed or self._looks(item, report.when)
        incidents = self._health.after(item.nodeid, failed=report.failed) if look else []
        for incident in incidents:
            title = f"mlc server ({incident.server.engine}, {mask_url(incident.server.base_url)})"
            report.sections.append((title, f"during this test: {incident.text}"))
        unwanted = [incident for incident in incidents if not incident.provoked]
        if unwanted and not report.failed and report.when != "setup":
            # Not an error that a test would see: it is over, and it passed.
            warn(item, f"{item.nodeid} did not fail, although {unwanted[0].text.splitlines()[0]}")
        if report.failed:
            self._pool.keep_logs = True
            self._add_logs(item, report, {} if incidents else ends)
        if shows:
            self._requests.add(report, call, ends)
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

    def paths(self) -> Iterable[str]:
        """Return the logs of all servers of this process."""
        return [server.log_path for server in self._pool.history if server.log_path is not None]

    def start_of(self, path: str) -> int:
        """Return where a log stood when the test began, or when its server became ready."""
        return self._starts.get(path, self._pool.ready_at.get(path, 0))

    def _reached(self, item: pytest.Item) -> bool:
        if not self._pool.history:
            return False
        if FACTORY in getattr(item, "fixturenames", ()):
            return True
        if not self._session.require and self._session.worker is None:
            return False  # nobody counts them
        return any(logs.size(path) > self.start_of(path) for path in self.paths())

    def _add_logs(
        self, item: pytest.Item, report: pytest.TestReport, ends: Mapping[str, int]
    ) -> None:
        for server in self._pool.history:
            path = server.log_path
            if path is None:
                continue
            start = max(self.start_of(path), self._shown.get(path, 0))
            self._shown[path] = size = logs.size(path)
            end = ends.get(path, size)
            log = access_log.own_lines(logs.read(path, start, end))
            text = server.hide_secrets(shortened(log, path))
            if not text:
                continue
            title = f"mlc server log ({server.engine}, {mask_url(server.base_url)})"
            if server.share is not None and not server.share.exclusive:
                title += ": lines may belong to tests of other workers that ran at the same time"
            report.sections.append((title, text))
            property_ = ("mlc_server_log", text)
            item.user_properties.append(property_)
            report.user_properties.append(property_)


def warn(whose: pytest.Item | pytest.Config, text: str) -> None:
    """Add a test's warning, or the run's, whatever the run's filters make of warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn(pytest.PytestWarning(text), stacklevel=1)
    if isinstance(whose, pytest.Config):
        hook, nodeid = whose.hook, ""
    else:
        hook, nodeid = whose.ihook, whose.nodeid
    hook.pytest_warning_recorded.call_historic(
        kwargs={
            "warning_message": caught[0],
            "nodeid": nodeid,
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
