"""What a pytest-xdist worker on another host has of the server that the controller's host serves.

The worker holds no lease and sees no process and no log. It cannot start the server again either:
the controller does, and the worker waits for that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pytest_mlc_server import errors, external
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.errors import ConfigError, StartError
from pytest_mlc_server.observing import CHECK_DEADLINE
from pytest_mlc_server.server import PopenServer

#: How often a server that is being started again on its host is looked for, in seconds.
LOOK_EVERY = 0.25


def described(config: ServerConfig, served: Mapping[str, Any]) -> ServerConfig:
    """Return the configuration as it is on the controller's host.

    Parameters
    ----------
    config
        What this host's settings say: those of the environment may not have come along.
    served
        What the controller told.
    """
    return config.replace(engine=served["engine"], model=served["model"], url=None)


class AttachedServer(PopenServer):
    """A server of the controller's host; made by `attach`."""

    def start(self, extra_env: Mapping[str, str] | None = None) -> None:
        """Attach to the server.

        Raises
        ------
        StartError
            If it does not answer.
        """
        __tracebackhide__ = True
        super().start(extra_env)
        self._found()

    def _found(self) -> None:
        self._state, self._doubted, self.died = "ready", False, False
        if self._sim_token:
            self._set_url()  # a door of before a restart is there no more
            self._use_own_door()

    def terminate(self) -> None:
        """Detach."""
        self._close_own_door()
        super().terminate()

    def release(self) -> None:
        """Detach, without waiting for anything."""
        self._attached = False

    def poll(self) -> str:
        """Return what is known, without asking the server anything: as `PopenServer.poll`."""
        return self._state if self._attached else "stopped"

    def check(self, deadline: float = CHECK_DEADLINE) -> str:
        """Ask the server for an answer, as `PopenServer.check`.

        One that takes its time is not called wedged: who sees its log decides that.
        """
        if self.poll() != "ready":
            return self.poll()
        problem = self._ask(deadline)
        if problem is None:
            self._doubted = True
            return "busy"
        if problem:
            self._take({"event": "exited", "evidence": problem})
        return self.poll()

    def settle(self) -> str:
        """Wait until a server that did not answer in time does, or is found gone."""
        __tracebackhide__ = True
        if self._doubted:
            self.restart()
        return self.poll()

    def restart(self) -> None:
        """Wait until the controller has started the server again.

        Raises
        ------
        StartError
            If it does not answer within the time limit of a start.
        """
        __tracebackhide__ = True
        deadline = time.monotonic() + self.config.startup_timeout
        while (problem := self._ask(CHECK_DEADLINE)) != "":
            if time.monotonic() > deadline:
                raise StartError(
                    f"the server of the controller's host, {self.base_url}, was not there again "
                    f"within {self.config.startup_timeout:g} s: {problem or 'no answer in time'}"
                )
            time.sleep(LOOK_EVERY)
        if not self._doubted:
            self.restarts += 1
            self._found()
        self._doubted = False

    def _ask(self, deadline: float) -> str | None:
        """Return what is wrong: empty for nothing, None for no answer in time."""
        import requests

        limited = self.config.replace(startup_timeout=deadline)
        try:
            external.attach(limited)
        except MLC_ERRORS as error:
            # Raised `from None` for its reader; what it was made of is still known.
            return None if isinstance(error.__context__, requests.Timeout) else str(error)
        return ""

    def _ending(self) -> str:
        return f"{self.base_url} cannot be reached"


MLC_ERRORS = (ConfigError, StartError)


def attach(config: ServerConfig, served: Mapping[str, Any]) -> PopenServer:
    """Return the handle of the server, not attached yet.

    Parameters
    ----------
    config
        The configuration that it serves.
    served
        What the controller told.

    Raises
    ------
    ConfigError, StartError
        As the controller, if the server could not be started.
    """
    __tracebackhide__ = True
    if "error" in served:
        kind: Any = getattr(errors, served["error"], StartError)
        raise kind(served["text"])
    remote = ServerConfig(
        url=served["url"],
        model=served["serves"],
        api_key=served["key"],
        ready="generate" if served["generate"] else "http",
        startup_timeout=config.startup_timeout,
        enable_debug=config.enable_debug,
        cwd=config.cwd,
        origins={"url": "the controller of the run"},
    )
    server = AttachedServer.from_config(remote)
    server._sim_token = served["sim_token"]
    return server
