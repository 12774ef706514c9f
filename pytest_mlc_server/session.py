"""What the plugin knows of one pytest session. Loaded once something is configured or asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_mlc_server import preflight
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.errors import ConfigError
from pytest_mlc_server.options import SETTINGS, Given, Setting
from pytest_mlc_server.values import read_session

if TYPE_CHECKING:
    from pytest_mlc_server.health import Health
    from pytest_mlc_server.pool import ServerPool


class Session:
    """Settings and servers of one pytest process.

    Parameters
    ----------
    given
        What was set, and where.
    cwd
        Where pytest was called; the servers' working directory.
    worker
        Id of the pytest-xdist worker, None without xdist.

    Raises
    ------
    ConfigError
        If a setting cannot be read.
    """

    def __init__(self, given: Mapping[str, Given], cwd: str, worker: str | None) -> None:
        self.given = given
        self.worker = worker
        self.config = ServerConfig.from_given(given, cwd=cwd)
        problems = preflight.override_problems(self.config)
        if problems:
            raise ConfigError(problems)
        # All of them, used or not: a wrong one ends the run.
        own = {setting.name: self._own(setting) for setting in SETTINGS if setting.field is None}
        self.unavailable: str = own["unavailable"]
        self.require: int = own["require"]
        self.restarts: int = own["restarts"]
        self.reset: str = own["reset"]
        self.hurry = False
        """Whether pytest must end soon: its servers' end is left to their guardians."""
        self.health: Health | None = None
        """What happened to the servers, once a test asked for one."""
        self._pool: ServerPool | None = None

    def _own(self, setting: Setting) -> Any:
        one = self.given.get(setting.name)
        return setting.default if one is None else read_session(one)

    @property
    def pool(self) -> ServerPool | None:
        """The servers, once a test asked for one."""
        return self._pool

    def open_pool(self, live_output: int) -> tuple[ServerPool, Health]:
        """Make the pool of servers, and what looks after them."""
        from pytest_mlc_server import leases
        from pytest_mlc_server.health import Health
        from pytest_mlc_server.pool import ServerPool

        if self._pool is None or self.health is None:
            if self.worker:
                leases.also_needed[:] = [os.getppid()]
            name = f"{self.config.engine}-{self.worker}" if self.worker else f"{self.config.engine}"
            self._pool = ServerPool(
                name, port_offset=worker_number(self.worker), live_output=live_output
            )
            self.health = Health(self._pool, self.restarts, self.reset)
        return self._pool, self.health

    def close_pool(self) -> None:
        """Stop all servers, or have them stopped when there is no time to wait."""
        if self._pool is not None:
            self._pool.close(hurry=self.hurry)


def worker_number(worker: str | None) -> int:
    """Return the number of a pytest-xdist worker: 3 for ``gw3``, 0 without xdist.

    Raises
    ------
    ConfigError
        If the worker's id has no number.
    """
    if worker is None:
        return 0
    digits = re.search(r"(\d+)$", worker)
    if digits is None:
        raise ConfigError(
            f"pytest-xdist worker {worker!r} has no number at the end of its id, from which its "
            "port could be told: name the workers gw0, gw1, ..."
        )
    return int(digits.group(1))
