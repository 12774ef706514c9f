"""What happened to a session's servers, test by test: found, told, survived."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from pytest_mlc_server.errors import StartError
from pytest_mlc_server.server import PopenServer

if TYPE_CHECKING:
    from pytest_mlc_server.pool import ServerPool

BROKEN = ("wedged", "exited")


class Incident:
    """A server that died or wedged.

    Parameters
    ----------
    server
        The server.
    test
        Node id of the test during which it happened.
    text
        What happened, with the evidence.
    """

    def __init__(self, server: PopenServer, test: str, text: str) -> None:
        self.server = server
        self.test = test
        self.text = text
        self.provoked = bool(server.provoked)
        """Whether the test did it on purpose."""
        self.outcome = "not started again"
        self.at = time.time()
        """When it was found, in seconds since 1970."""


class Health:
    """Looks after the servers of one process.

    Parameters
    ----------
    pool
        The servers.
    restarts
        How often servers are started again in all.
    reset
        ``never``, or whether to reset the engine's state before each ``test`` or ``module``.
    """

    def __init__(self, pool: ServerPool, restarts: int, reset: str) -> None:
        self.incidents: list[Incident] = []
        self._pool = pool
        self._restarts = restarts
        self._reset = reset
        self._last_test = ""
        self._last_module = ""
        self._open: dict[int, Incident] = {}
        self._given_up: dict[int, StartError] = {}
        self._seen: dict[int, int] = {}
        pool.on_again = self._again

    def before(self, test: str, module: str, spare: Collection[PopenServer] = ()) -> None:
        """Make sure that a test which needs the servers finds them working.

        Parameters
        ----------
        test
            The test's node id.
        module
            What it shares with the other tests of its module.
        spare
            Servers that the test does not use: those of other models.

        Raises
        ------
        StartError
            If a server is gone and cannot be, or must not be, started again.
        ConfigError
            If the state cannot be reset because the debug endpoints are off.
        RequestError
            If the server refuses to reset it.
        """
        __tracebackhide__ = True
        for server in self._pool.running:
            if server in spare:
                continue
            if id(server) in self._given_up:
                raise self._given_up[id(server)].with_traceback(None)
            # One that ended between two tests did so because of what came before.
            self._note(server, self._last_test or test)
            self._settle(server)
            incident = self._open.pop(id(server), None)
            if incident is not None:
                self._revive(server, incident)
            elif self._reset == "test" or (self._reset == "module" and module != self._last_module):
                server.reset()
        self._last_test, self._last_module = test, module

    def _again(self, server: PopenServer) -> None:
        """Reset a server that waited while other models had their turn: its last user is gone."""
        __tracebackhide__ = True
        if self._reset != "never":
            server.reset()

    def after(self, test: str, *, failed: bool) -> list[Incident]:
        """Find out what happened to the servers during a test.

        Parameters
        ----------
        test
            The test's node id.
        failed
            Whether it failed: only then are the servers asked anything.

        Returns
        -------
        list of Incident
            What happened and was not told yet.
        """
        found = []
        for server in self._pool.running:
            if failed and server.poll() == "ready":
                server.check()
            incident = self._note(server, test)
            if incident is not None:
                found.append(incident)
        self._last_test = test
        # The test that made the first server began before anybody watched.
        self._last_module = self._last_module or test.partition("::")[0]
        return found

    def _note(self, server: PopenServer, test: str) -> Incident | None:
        if id(server) in self._open or id(server) in self._given_up:
            return None
        broken = server.poll() in BROKEN
        times, self._seen[id(server)] = self._seen.get(id(server), 0), len(server.troubles)
        if not broken and (server.share is None or len(server.troubles) <= times):
            return None
        incident = Incident(server, test, server.hide_secrets(_trouble(server)))
        if broken:
            self._open[id(server)] = incident
        else:
            incident.outcome = "started again for another worker of the run"
        self.incidents.append(incident)
        return incident

    def _settle(self, server: PopenServer) -> None:
        """Wait while another worker of the run has the server started again."""
        __tracebackhide__ = True
        try:
            if server.poll() == "starting":
                with self._pool.waiting(server):
                    server.settle()
            else:
                server.settle()
        except StartError as error:
            self._given_up[id(server)] = error
            raise

    def _revive(self, server: PopenServer, incident: Incident) -> None:
        __tracebackhide__ = True
        if server.share is not None and server.poll() == "ready":
            # Another worker has had it started again since this one heard of its end.
            incident.outcome = "started again for another worker of the run"
            return
        happened = f"{incident.text.splitlines()[0]}, during {incident.test}"
        used = sum(one.outcome.startswith("started") and not one.provoked for one in self.incidents)
        if server.share is not None:  # those that other workers asked for count as well
            wanted = sum(one.provoked for one in self.incidents if one.server is server)
            used = max(used, server.restarts - wanted)
        # Tests that end the simulator on purpose use nothing up: there may be many of them.
        if used >= self._restarts and not (incident.provoked and self._restarts):
            error = StartError(
                f"{happened}; it is not started again (--mlc-restarts {self._restarts})",
                log_path=server.log_path,
            )
            self._given_up[id(server)] = error
            raise error
        try:
            with self._pool.waiting(server):
                server.restart()
        except StartError as error:
            incident.outcome = "could not be started again"
            self._given_up[id(server)] = error
            raise
        incident.outcome = (
            f"started again in {server.startup_seconds or 0.0:.2f} s, {server.base_url}"
        )


def _trouble(server: PopenServer) -> str:
    trouble = server.trouble or server.troubles[-1]
    if not server.provoked:
        return trouble
    first, newline, evidence = trouble.partition("\n")
    return f"{first}, on purpose ({server.provoked}){newline}{evidence}"
