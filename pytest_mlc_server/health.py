"""What happened to a session's servers, test by test: found, told, survived."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mlc_server.errors import ConfigError, StartError
from pytest_mlc_server.server import PopenServer

if TYPE_CHECKING:
    from pytest_mlc_server.pool import ServerPool

#: Time limit of a reset of the engine's state, in seconds.
RESET_TIMEOUT = 60.0

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
        self.outcome = "not started again"

    def line(self) -> str:
        """Return the line of the summary."""
        return f"{self.test}: {self.text.splitlines()[0]}; {self.outcome}"


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

    def before(self, test: str, module: str) -> None:
        """Make sure that a test which needs the servers finds them working.

        Parameters
        ----------
        test
            The test's node id.
        module
            What it shares with the other tests of its module.

        Raises
        ------
        StartError
            If a server is gone and cannot be, or must not be, started again.
        ConfigError
            If the state cannot be reset because the debug endpoints are off.
        """
        __tracebackhide__ = True
        for server in self._pool.running:
            if id(server) in self._given_up:
                raise self._given_up[id(server)].with_traceback(None)
            # One that ended between two tests did so because of what came before.
            self._note(server, self._last_test or test)
            incident = self._open.pop(id(server), None)
            if incident is not None:
                self._revive(server, incident)
            elif self._reset == "test" or (self._reset == "module" and module != self._last_module):
                reset(server)
        self._last_test, self._last_module = test, module

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
        known = id(server) in self._open or id(server) in self._given_up
        if known or server.poll() not in BROKEN:
            return None
        incident = Incident(server, test, server.hide_secrets(server.trouble))
        self._open[id(server)] = incident
        self.incidents.append(incident)
        return incident

    def _revive(self, server: PopenServer, incident: Incident) -> None:
        __tracebackhide__ = True
        happened = f"{incident.text.splitlines()[0]}, during {incident.test}"
        used = sum(incident.outcome.startswith("started") for incident in self.incidents)
        if used >= self._restarts:
            error = StartError(
                f"{happened}; it is not started again (--mlc-restarts {self._restarts})",
                log_path=server.log_path,
            )
            self._given_up[id(server)] = error
            raise error
        try:
            server.restart()
        except StartError as error:
            incident.outcome = "could not be started again"
            self._given_up[id(server)] = error
            raise
        incident.outcome = (
            f"started again in {server.startup_seconds or 0.0:.2f} s, {server.base_url}"
        )


def reset(server: PopenServer) -> None:
    """Reset the state of a server's engine, its prefix cache included.

    Raises
    ------
    ConfigError
        If the server's debug endpoints are off.
    StartError
        If the server refuses.
    """
    import requests

    __tracebackhide__ = True
    if not server.enable_debug:
        off = server.config.describe("enable_debug")
        raise ConfigError(f"reset needs the server's debug endpoints, and {off}")
    with requests.Session() as http:
        http.trust_env = False
        response = http.post(
            f"{server.base_url}/debug/reset_engine",
            json={"model": server.model},
            timeout=RESET_TIMEOUT,
        )
    if response.status_code != 200:
        raise StartError(
            f"POST /debug/reset_engine answers {response.status_code}: {response.text[:200]}"
        )
