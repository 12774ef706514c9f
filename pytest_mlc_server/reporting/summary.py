"""The servers of all processes of a run, in the lines at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlc_server import logs
from pytest_mlc_server.reporting.header import reused

if TYPE_CHECKING:
    from pytest_mlc_server.server import PopenServer
    from pytest_mlc_server.session import Session


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
        line += f", reused: server of {reused(server.reused['started_at'], server.reused['idle'])}"
        state = "its state was reset" if server.reused["reset"] else "its state was not reset"
        line += f", {state}" + ("" if server.reused["reset"] else " (--mlc-no-debug)")
    if server.restarts:
        line += f", restarts: {server.restarts}"
    if server.log_path is not None:
        line += f", log {server.log_path}"
    return line


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
