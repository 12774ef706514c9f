"""Fails a run in which too few tests reached a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_mlc_server.session import Session


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
