"""What the plugin knows of one pytest session. Loaded once something is configured or asked for."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_mlc_server import models, preflight
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.devices import Devices
from pytest_mlc_server.errors import ConfigError
from pytest_mlc_server.options import SETTINGS, Given, Setting
from pytest_mlc_server.reading import read_session, written

if TYPE_CHECKING:
    from pytest_mlc_server.accounts import Accounts
    from pytest_mlc_server.bounds import Bound
    from pytest_mlc_server.health import Health
    from pytest_mlc_server.pool import ServerPool
    from pytest_mlc_server.runs import Run
    from pytest_mlc_server.server import PopenServer
    from pytest_mlc_server.sharing import Share
    from pytest_mlc_server.warm import Parents


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
    run
        The run that the worker belongs to, None without xdist.
    served
        What a worker on another host was told of the server that its controller's host serves.

    Raises
    ------
    ConfigError
        If a setting cannot be read.
    """

    def __init__(
        self,
        given: Mapping[str, Given],
        cwd: str,
        worker: str | None,
        run: Run | None = None,
        served: Mapping[str, Any] | None = None,
    ) -> None:
        self.given = given
        self.worker = worker
        self.configs = models.configs(given, cwd=cwd)
        """One configuration for each model of the run."""
        self.config = self.configs[0]
        self.choices = models.Choices(self.configs)
        """What the servers of single tests differ in."""
        self._served = served
        if served is not None:
            from pytest_mlc_server import attached

            self.config = attached.described(self.config, served)
            self.configs = (self.config,)
        problems = preflight.override_problems(self.config)
        if problems:
            raise ConfigError(problems)
        # All of them, used or not: a wrong one ends the run.
        own = {setting.name: self._own(setting) for setting in SETTINGS if setting.field is None}
        self.unavailable: str = own["unavailable"]
        self.require: int = own["require"]
        self.restarts: int = own["restarts"]
        self.reset: str = own["reset"]
        self.scope: str = own["scope"]
        self.reuse: float = own["reuse"]
        self.warm: float = own["warm"]
        self.start: str = own["start"]
        self.max_servers: int | None = own["max-servers"]
        self.usage: bool = own["usage"]
        self.durations: int = own["durations"]
        self.trace: str = own["trace"]
        self.output: str = os.path.join(cwd, own["output"])
        """Where files of tests go: an absolute path, whatever directory a test changes to."""
        self.reports: tuple[str, ...] = tuple(os.path.join(cwd, path) for path in own["report"])
        if self.trace != "off":
            self._imply_tracing()
        self.run = run
        self._check_scope()
        self.advertise: str | None = own["advertise"]
        if self.advertise is not None and worker is None:
            from pytest_mlc_server import advertise

            problems = advertise.problems(given, self.config, self.scope)
            if problems:
                raise ConfigError(problems)
        self._one_server = self.scope == "run"
        self.devices = Devices(
            own["devices"],
            origin=written(given["devices"]) if "devices" in given else "devices",
            shared=own["share-devices"],
            worker=None if self._one_server else worker,
            run=os.environ.get("PYTEST_XDIST_TESTRUNUID", ""),
        )
        self.distributed = False
        """Whether pytest-xdist workers execute the tests, and this process is their controller."""
        self.hurry = False
        """Whether pytest must end soon: its servers' end is left to their guardians."""
        self.accounts: Accounts | None = None
        """What tests cost at the servers, once a test asked for one and unless it is off."""
        self.health: Health | None = None
        """What happened to the servers, once a test asked for one."""
        self._pool: ServerPool | None = None
        self._parents: Parents | None = None

    def _own(self, setting: Setting) -> Any:
        one = self.given.get(setting.name)
        return setting.default if one is None else read_session(one)

    def _imply_tracing(self) -> None:
        from pytest_mlc_server import tracing

        output = self.output if self.worker is None else None
        problems = tracing.problems(self.given, self.config, output)
        if problems:
            raise ConfigError(problems)
        self.configs = tuple(tracing.traced(config) for config in self.configs)
        self.config = self.configs[0]
        self.choices = models.Choices(self.configs)

    def _assigned(self, config: ServerConfig) -> ServerConfig:
        """Return a configuration with this process's GPUs, and with what the run needs of it."""
        config = self.devices.assign(config)
        if self.trace == "off":
            return config
        from pytest_mlc_server import tracing

        return tracing.traced(config)

    def _check_scope(self) -> None:
        if self.scope == "run" and self.reset != "never":
            raise ConfigError(
                f"{written(self.given['reset'])} resets the engine under the tests of other "
                f"workers, which share it: {written(self.given['scope'])}; give one of them"
            )
        if self.warm and self.config.launch != "warm":
            launch = written(given) if (given := self.given.get("launch")) else "launch plain"
            raise ConfigError(
                f"{written(self.given['warm'])} keeps the warm parent for the next run, and with "
                f"{launch} there is none: give --mlc-launch warm as well, or neither"
            )
        if self.config.engine != "external":
            return
        already = "attaches to a server that is already there"
        problems = []
        if self.scope == "run":
            problems.append(
                f"{written(self.given['scope'])} starts one server for all workers, and "
                f"{self.config.describe('url')} {already}: all workers share it anyhow"
            )
        if self.max_servers is not None:
            problems.append(
                f"{written(self.given['max-servers'])} bounds the servers that are started, and "
                f"{self.config.describe('url')} {already}: give one of them"
            )
        if self.reuse:
            problems.append(
                f"{written(self.given['reuse'])} keeps a server for the next run, and "
                f"{self.config.describe('url')} {already}: whoever started it keeps it"
            )
        if problems:
            raise ConfigError(problems)

    def share(self, config: ServerConfig) -> Share | None:
        """Return who else may hold the server of a configuration; None for nobody."""
        run = self.run if self.scope == "run" else None
        if config.engine == "external" or (run is None and not self.reuse):
            return None
        from pytest_mlc_server import fingerprint, runs, sharing

        directory = sharing.run_directory(run.id) if run is not None else ""
        if run is None:
            key = fingerprint.fingerprint(config)
        else:
            key = fingerprint.of_settings(config)
            if self.reuse:
                key = sharing.agreed(directory, key, lambda: fingerprint.fingerprint(config))
        linger = self.reuse
        if run is not None and run.controller is None:
            linger = max(linger, runs.REMOTE_LINGER)
        return sharing.Share(
            # Without a run's scope each worker has its own, and finds its own again.
            key=key if self.scope == "run" else f"{key}-{worker_number(self.worker)}",
            directory=sharing.reuse_directory() if self.reuse else directory,
            runs=run.holders if run is not None else (),
            exclusive=run is None,
            linger=linger,
            failures=directory,
        )

    def own_config(self) -> ServerConfig:
        """Return the configuration that the session's own server gets, port and GPUs included."""
        from pytest_mlc_server.workers import with_port

        offset = 0 if self._one_server else worker_number(self.worker)
        return with_port(self.devices.assign(self.config), offset)

    def check_workers(self, workers: int) -> None:
        """Check, before any worker starts, that there are GPUs and memory for all their servers.

        Raises
        ------
        ConfigError
            If there are not, or other settings contradict.
        """
        workers = 1 if self._one_server else workers
        for config in self.configs:
            self.devices.check(config, workers)
            if workers > 1:
                from pytest_mlc_server import gpu_memory

                gpu_memory.check(config, self.devices, workers)

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
                controller = self.run.controller if self.run is not None else None
                leases.also_needed[:] = [] if controller is None else [controller[0]]
            name = f"{self.config.engine}-{self.worker}" if self.worker else f"{self.config.engine}"
            self._pool = ServerPool(
                name,
                port_offset=0 if self._one_server else worker_number(self.worker),
                share=self.share,
                live_output=live_output,
                assign=self._assigned,
                elsewhere=self._elsewhere,
                bound=self._bound(),
            )
            self._pool.on_leaving = self._count
            self._pool.parents = self.parents
            self.health = Health(self._pool, self.restarts, self.reset)
        return self._pool, self.health

    @property
    def parents(self) -> Parents | None:
        """The warm parents that this process holds; None where the servers are not forked."""
        if self._parents is None and self.config.launch == "warm":
            from pytest_mlc_server.warm import Parents

            self._parents = Parents(self.warm)
        return self._parents

    def _bound(self) -> Bound:
        from pytest_mlc_server import sharing
        from pytest_mlc_server.bounds import Bound

        # Where another host serves, nobody would remove the run's directory.
        run = self.run if self.scope == "run" and self._served is None else None
        given = self.given.get("max-servers")
        return Bound(
            self.max_servers,
            "max_servers (the default)" if given is None else written(given),
            "" if run is None else sharing.run_directory(run.id),
            waiting=lambda text: sys.stderr.write(f"{text}\n"),
        )

    def _elsewhere(self, config: ServerConfig) -> PopenServer | None:
        """Return the server that the controller's host serves, if it has this configuration."""
        if self._served is None or config.key() != self.config.key():
            return None
        from pytest_mlc_server import attached

        return attached.attach(config, self._served)

    def close_pool(self) -> None:
        """Stop all servers, or have them stopped when there is no time to wait."""
        if self._pool is not None:
            self._pool.close(hurry=self.hurry)
        self.close_parents()

    def close_parents(self) -> None:
        """Let the warm parents go: without a time to stay they end after their last servers."""
        if self._parents is not None:
            self._parents.close()

    def _count(self, server: PopenServer) -> None:
        """Note what a server of several processes has counted: what tests cost does not add up."""
        if self.usage and server.share is not None and not server.share.exclusive:
            from pytest_mlc_server import life

            server.life.counted = life.counted(server)


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
