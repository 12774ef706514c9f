"""Writes the servers' event trace of a test to a file."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_mlc_server import access_log, logs, traces
from pytest_mlc_server.masking import mask_url
from pytest_mlc_server.reporting.watch import FACTORY, warn

if TYPE_CHECKING:
    from pytest_mlc_server.pool import ServerPool
    from pytest_mlc_server.reporting.watch import TestWatch
    from pytest_mlc_server.server import PopenServer
    from pytest_mlc_server.session import Session

TITLE = "mlc server trace"

HOW = "open it at https://ui.perfetto.dev or chrome://tracing"


class Traces:
    """Writes the trace of each test that used a server, or of each that failed.

    Parameters
    ----------
    session
        The plugin's session, with `trace` other than ``off``.
    pool
        Its servers.
    tests
        Knows where each log stood when the test began.
    """

    def __init__(self, session: Session, pool: ServerPool, tests: TestWatch) -> None:
        self._session = session
        self._pool = pool
        self._tests = tests
        self._began = 0.0
        self._done = False
        self._warned: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Write the trace once the test has had its say, or failed before or after that."""
        if call.when == "setup":
            self._began, self._done = call.start, False
        report = yield
        wanted = report.failed or (self._session.trace == "on" and report.when == "call")
        if wanted and not report.skipped and not self._done:
            self._done = True
            self._write(item, report, call.stop)
        return report

    def _write(self, item: pytest.Item, report: pytest.TestReport, ended: float) -> None:
        found, lines = [], []
        for server in self._used(item):
            try:
                # Not what asked it whether it is ready.
                began = max(self._began, server.life.usable_since)
                events = traces.between(traces.dump(server), began, ended)
            except traces.TraceError as error:
                lines.append(
                    f"no trace of {mask_url(server.base_url)}: {server.hide_secrets(str(error))}"
                )
                if isinstance(error, traces.NoTracingError) or not report.failed:
                    self._warn(item, f"--mlc-trace: {lines[-1]}", server.base_url)
                continue
            if events:
                found.append((f"mlc server ({server.engine}, {mask_url(server.base_url)})", events))
                lines += _shared(server)
        if found:
            try:
                path = self._file(item, ended, found)
            except OSError as error:
                lines = [f"no trace: {error.strerror}: {error.filename or self._session.output}"]
                self._warn(item, f"--mlc-trace: {lines[0]}", "file")
            else:
                lines.insert(0, f"{path}\n{HOW}")
                report.__dict__["mlc_trace"] = path
                for properties in (item.user_properties, report.user_properties):
                    # A test that is run again has that of the run before.
                    properties[:] = [one for one in properties if one[0] != "mlc_trace"]
                    properties.append(("mlc_trace", path))
        if report.failed and lines:
            report.sections.append((TITLE, "\n".join(lines)))

    def _file(
        self, item: pytest.Item, ended: float, found: list[tuple[str, list[traces.Event]]]
    ) -> str:
        trace = traces.of_test(item.nodeid, self._began, ended, found)
        return traces.write(trace, self._session.output, item.nodeid)

    def _used(self, item: pytest.Item) -> list[PopenServer]:
        asks = FACTORY in getattr(item, "fixturenames", ())
        return [
            server
            for server in self._pool.history
            if (
                self._logged(server.log_path)
                if server.log_path is not None
                else asks and server.config.engine == "external" and server in self._pool.running
            )
        ]

    def _logged(self, path: str) -> bool:
        text = logs.read(path, self._tests.start_of(path))
        return bool(access_log.own_lines(text).strip())

    def _warn(self, item: pytest.Item, text: str, what: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            warn(item, text)


def _shared(server: PopenServer) -> list[str]:
    if server.share is not None and not server.share.exclusive:
        return ["requests of other workers' tests at the same time are in it as well"]
    if server.config.engine == "external":
        return ["requests of others to that server at the same time are in it as well"]
    return []
