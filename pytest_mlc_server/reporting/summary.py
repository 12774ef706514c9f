"""The servers of all processes of a run, in the lines at its end."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlc_server import logs
from pytest_mlc_server.masking import mask_url
from pytest_mlc_server.reporting import ci
from pytest_mlc_server.reporting.header import reused
from pytest_mlc_server.reporting.servers import Servers, describe, described

if TYPE_CHECKING:
    from pytest_mlc_server.session import Session

__all__ = ["Summary", "Teller", "describe", "incident_line", "server_line"]

#: Phases of a start that took less are not shown, in seconds.
NOTICEABLE = 0.1


def server_line(server: Mapping[str, Any]) -> str:
    """Return the line of a server in the summary.

    Parameters
    ----------
    server
        As `describe` returns it.
    """
    # What all workers share is one server, and one line.
    where = f"{server['worker']}: " if server["worker"] and server["scope"] != "run" else ""
    line = f"{where}{server['engine']} {server['model']!r}, device {server['device']}, "
    line += f"{mask_url(server['base_url'])}, scope {server['scope']}{_start(server)}"
    if server["reused_from"] is not None:
        of = server["reused_from"]
        line += f", reused: server of {reused(of['started_at'], of['idle'])}"
        state = "its state was reset" if of["reset"] else "its state was not reset"
        line += f", {state}" + ("" if of["reset"] else " (--mlc-no-debug)")
    if server["restarts"]:
        line += f", restarts: {server['restarts']}"
    if server["peak_memory"]:
        line += f", peak memory {size(server['peak_memory'])}"
    line += _work(server)
    if server["log"] is not None:
        line += f", log {server['log']}"
    return line


def _start(server: Mapping[str, Any]) -> str:
    line, phases = "", dict(server["phases"])
    waits = {name: phases.pop(name) for name in (logs.WAITING, "waiting") if name in phases}
    if server["startup_seconds"] is not None:
        line += f", ready after {server['startup_seconds']:.2f} s"
        long = {name: took for name, took in phases.items() if took >= NOTICEABLE}
        if len(long) > 1:
            line += f" ({', '.join(f'{name} {took:.2f} s' for name, took in long.items())})"
    if logs.WAITING in waits:
        waited = waits[logs.WAITING]
        line += f", waited {waited:.2f} s for another one that compiled or downloaded the model"
    if "waiting" in waits:
        line += f", waited {waits['waiting']:.2f} s until another one was idle"
    return line


def _work(server: Mapping[str, Any]) -> str:
    words = []
    if server["requests"] is not None:
        words.append(f", {server['requests']} request{'' if server['requests'] == 1 else 's'}")
    counts = [server["prompt_tokens"], server["completion_tokens"]]
    if counts != [None, None]:
        known = ["?" if count is None else str(count) for count in counts]
        words.append(f", {known[0]} prompt + {known[1]} completion tokens")
    return "".join(words)


def size(count: int) -> str:
    """Return a number of bytes for people: ``85 MiB``, ``12.3 GiB``."""
    return f"{count / 2**20:.0f} MiB" if count < 2**33 else f"{count / 2**30:.1f} GiB"


def incident_line(incident: Mapping[str, Any]) -> str:
    """Return the line of what happened to a server."""
    where = f"{incident['worker']}: " if incident["worker"] else ""
    what = incident["text"].partition("\n")[0]
    return f"{where}{incident['test']}: {what}; {incident['outcome']}"


class Teller:
    """Tells the controller of a worker's servers as soon as something changes.

    A worker that crashes hands nothing over at its end: what it has told until then is known.

    Parameters
    ----------
    session
        The worker's session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._told: list[Any] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add what has changed to a test's report, which travels to the controller."""
        report = yield
        state = self._state()
        if state != self._told:
            self._told = state
            report.__dict__["mlc_servers"] = described(self._session)
        return report

    def _state(self) -> list[Any]:
        pool, health = self._session.pool, self._session.health
        if pool is None or health is None:
            return []
        starts = [(id(server), len(server.life.starts)) for server in pool.history]
        return [*starts, *(incident.outcome for incident in health.incidents)]


class Summary:
    """Collects the servers of all processes of a run, for the lines at its end.

    Parameters
    ----------
    session
        The plugin's session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._servers = Servers()

    def servers(self) -> list[dict[str, Any]]:
        """Return all servers of the run that are known by now, each as `describe` returns it."""
        self._servers.take(described(self._session))
        return self._servers.all()

    # Innermost: the servers have been stopped by then, and xdist has not sent the output yet.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """In a worker, hand what is known of its servers to the controller."""
        yield
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["mlc_servers"] = described(self._session)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """In the controller, take what a worker that ended says."""
        self._servers.take(getattr(node, "workeroutput", {}).get("mlc_servers", []))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a worker says while it runs, and what tests cost."""
        self._servers.take(getattr(report, "mlc_servers", ()))
        cost = getattr(report, "mlc_cost", None)
        if cost is not None:
            self._servers.add_cost(report.stop, cost)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show what was started."""
        servers = self.servers()
        if not servers or terminalreporter.verbosity < 0:
            return
        lines = [server_line(server) for server in servers]
        incidents = [incident for server in servers for incident in server["incidents"]]
        incidents.sort(key=lambda incident: float(incident["at"]))
        with ci.group(terminalreporter, "mlc servers"):
            for line in dict.fromkeys([*lines, *map(incident_line, incidents)]):
                terminalreporter.line(line)
        for server in servers if ci.service() else ():
            # Nobody can look at the file later, on a machine that is gone by then.
            if server["log_tail"]:
                title = f"mlc server log ({server['engine']}, {mask_url(server['base_url'])})"
                with ci.group(terminalreporter, title):
                    terminalreporter.line(server["log_tail"])
