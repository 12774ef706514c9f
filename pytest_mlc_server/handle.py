"""What a handle knows of its server, and how it hears of it."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pytest_mlc_server import engines, logs, masking, preflight, slots
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.errors import ConfigError
from pytest_mlc_server.leases import GuardianLostError, Lease
from pytest_mlc_server.life import Life
from pytest_mlc_server.process import describe_exit

if TYPE_CHECKING:
    from pytest_mlc_server.sharing import Share


class Handle:
    """A server as its holder sees it: its state and its log, from what its guardian says."""

    def _init(self, config: ServerConfig, name: str = "server", share: Share | None = None) -> None:
        __tracebackhide__ = True
        contradictions = config.problems()
        if contradictions:
            # Together with what the file system would show at `start`: not one problem per run.
            raise ConfigError([*contradictions, *preflight.problems(config)])
        config.check()
        if config.api_key == "auto":
            config = config.replace(api_key=secrets.token_urlsafe(24))
        self.config = config
        self.share = share
        """Who else may hold the server; None for nobody."""
        self.slots: slots.Slots | None = None
        """Counts the servers of the run and bounds them; None for no bound."""
        self._slot: int | None = None
        self.reused: Mapping[str, Any] | None = None
        """Of a server that had waited for its next user: when it started, how long it was idle."""
        self.life = Life()
        """Its starts, its memory, its end."""
        self.troubles: list[str] = []
        """Each time that the server died or wedged, with the evidence."""
        self.model = engines.model_name(config) or ""
        self.base_url = ""
        self.openai_v1_base_url = ""
        self.pid: int | None = None
        self.startup_seconds: float | None = None
        self.log_path: str | None = None
        self.keep_log = False
        """Set it to keep a temporary log after `terminate`; a failure sets it."""
        self.returncode: int | None = None
        """How the server's process ended, negative for a signal; None while it is not known."""
        self.startup_phases: Mapping[str, float] = {}
        """Seconds that each phase of the last start took."""
        self.restarts = 0
        """How often the server was started again."""
        self.probe_usage: Mapping[str, int] = {}
        """Tokens that the readiness probe cost, as the server counted them."""
        self.provoked = ""
        """What a test did to end or wedge this server on purpose; empty where nobody did."""
        self.live_output = 2
        """Descriptor that `log_live` copies the log to. Default: standard error."""
        self.on_phase: Callable[[str], None] | None = None
        """Called with each phase of a start as it begins, if it is set."""
        self._name = name
        self._port = config.port
        self._lease: Lease | None = None
        self._pending: Lease | None = None
        self._welcome: Mapping[str, Any] | None = None
        self._generation = 0
        self._door = self._server_port = 0
        self._attached = False
        self._state = "stopped"
        self._evidence = ""
        self._last_request = ""
        self._guardian_lost = False
        self._extra_env: dict[str, str] = {}
        self._sim_token = os.urandom(16).hex() if config.engine == "sim" else ""
        self.died = False
        """Whether the server's process ended or wedged without being stopped."""
        self._live: logs.LiveLog | None = None
        self._temporary: str | None = None
        self._lock = threading.RLock()

    @property
    def held(self) -> bool:
        """Whether this handle has a server, or is attached to one; cheaper than `poll`."""
        return self._lease is not None or self._attached

    @property
    def sim_token(self) -> str:
        """What the control endpoints of the simulator ask for; empty for other engines."""
        return self._sim_token

    @property
    def trouble(self) -> str:
        """What is wrong with the server, with the evidence; empty while nothing is."""
        if self._state == "exited":
            text = f"the server's process ended ({self._ending()})"
        elif self._state == "wedged":
            text = "the server is wedged: its process lives, and generates nothing any more"
        else:
            return ""
        if self._evidence:
            text += f"\n{self._evidence}"
        if self._last_request:
            text += f"\nlast request that it logged: {self._last_request}"
        return text

    def discard_log(self) -> None:
        """Remove a temporary log; one in a directory that was given stays."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None
        if self.config.log_dir is None:
            self.log_path = None

    def hide_secrets(self, text: str) -> str:
        """Return a text without the API key and without values of secret variables."""
        return masking.hide(text, self._secrets())

    def _begin(self) -> None:
        self._guardian_lost = False
        self.pid = self.startup_seconds = self.returncode = None
        self.died = False
        self.provoked = ""
        self.startup_phases = {}
        self._state, self._evidence, self._last_request = "starting", "", ""

    def _set_address(self, address: str, port: int) -> None:
        self._port = self._server_port = port
        host = self.config.host
        # A name may stand for several addresses, and a wildcard is none to connect to.
        if (self.config.port == "auto" and not _is_address(host)) or host in ("0.0.0.0", "::"):  # noqa: S104
            host = address
        self.base_url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self.openai_v1_base_url = f"{self.base_url}/v1"

    def _open_own_door(self) -> None:
        """Have a port of one's own at a simulator that other workers use as well.

        Each port has rules, faults and records of its own: what one worker's test asks of the
        simulator, no other sees.
        """
        if self.share is not None and not self.share.exclusive and self._sim_token:
            self._use_own_door()

    def _use_own_door(self) -> None:
        from pytest_mlc_server.errors import SimulatorError
        from pytest_mlc_server.simulator import control

        with contextlib.suppress(SimulatorError):  # it is going already: that will be told
            self._door = control.open_door(self.base_url, self._sim_token)
            self._port = self._door
            self.base_url = f"{self.base_url.rpartition(':')[0]}:{self._door}"
            self.openai_v1_base_url = f"{self.base_url}/v1"

    def _close_own_door(self) -> None:
        door, self._door = self._door, 0
        if not door or self._state != "ready":
            return
        from pytest_mlc_server.errors import SimulatorError
        from pytest_mlc_server.simulator import control

        with contextlib.suppress(SimulatorError):
            control.close_door(self.base_url, self._sim_token, door)

    def _attach(self) -> None:
        __tracebackhide__ = True
        from pytest_mlc_server import external

        self.model = external.attach(self.config)
        self._set_url()
        self._attached = True

    def _set_url(self) -> None:
        self.base_url = self.config.url or ""
        self.openai_v1_base_url = f"{self.base_url}/v1"
        parts = urlsplit(self.base_url)
        self._port = parts.port or (443 if parts.scheme == "https" else 80)

    def _let_go(self) -> Lease | None:
        lease, self._lease, self._attached = self._lease or self._pending, None, False
        self._pending = None
        if lease is not None and not lease.mine:
            lease.leave()
            return None
        return lease

    def _hear(self, lease: Lease) -> None:
        """Hear what the guardian has said since."""
        try:
            while (message := lease.next(0)) is not None:
                self._take(message)
        except GuardianLostError:
            self._lost()

    def _take(self, message: Mapping[str, Any]) -> None:
        event = message["event"]
        self.life.take(message)
        if event == "spawned":
            self.pid = message["pid"]
            self._state = "starting"
        elif event == "ready":
            self._set_address(message["address"], message["port"])
            self._open_own_door()
            self.life.reached_at(self.base_url)
            self.pid = message["pid"]
            self.startup_seconds = message["seconds"]
            self.startup_phases = message["phases"]
            self.probe_usage = message["usage"]
            self._generation = message["generation"]
            self.restarts = max(self.restarts, self._generation)
            self._state = "ready"
        elif event in ("failed", "stopped") and self._lease is not None and self._lease.shared:
            self._state, self.died = "exited", True
            self._evidence = message.get("detail") or "it was stopped from outside"
        elif event in ("exited", "wedged"):
            self._state, self.died = event, True
            self.keep_log = self.keep_log or not self.provoked
            self.returncode = message.get("returncode")
            self._evidence = message.get("evidence", self._evidence)
            self._last_request = message.get("request", "")
            self.troubles.append(self.trouble)

    def _lost(self) -> None:
        self._guardian_lost = True
        if self._state != "exited":
            self._state, self.died, self.keep_log = "exited", True, True
            self._evidence = "its guardian process was killed, and the server with it"
            self.troubles.append(self.trouble)

    def _ending(self) -> str:
        return "killed" if self.returncode is None else describe_exit(self.returncode)

    def _secrets(self) -> list[str]:
        env = {**self.config.env, **self._extra_env, engines.SIM_TOKEN: self._sim_token}
        return masking.secrets_of(self.config.api_key, env, self.config.url)

    def _end(self) -> None:
        self._leave_slot()
        if self.share is None or not self.share.linger:
            self.life.end()
        self.pid = None
        self._port = self.config.port
        if self._state != "exited":
            self._state = "stopped"
        if self._live is not None:
            self._live.close()
            self._live = None
        if not self.keep_log:
            self.discard_log()

    def _leave_slot(self) -> None:
        if self._slot is not None:
            os.close(self._slot)
            self._slot = None

    def _new_log(self, temporary: str | None = None) -> str:
        """Return the path of a log that is not there yet, in a directory that is."""
        directory = self.config.log_dir
        if directory is None and temporary is not None:
            directory = temporary
        elif directory is None:
            if self._temporary is None:
                self._temporary = tempfile.mkdtemp(prefix="pytest-mlc-server-")
            directory = self._temporary
        else:
            # From the configured directory, not from where a test has moved to since.
            directory = os.path.abspath(os.path.join(self.config.cwd or "", directory))
            try:
                os.makedirs(directory, exist_ok=True)
            except OSError as error:
                raise self._no_log(error) from None
        # A name of this process's own: workers and runs share a directory.
        for number in itertools.count(1):
            path = os.path.join(directory, f"{self._name}-{os.getpid()}-{number}.log")
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            except FileExistsError:
                continue
            except OSError as error:
                raise self._no_log(error) from None
            break
        self.log_path = path
        return path

    def _no_log(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self.config.describe('log_dir')}: there can be no log: {error.strerror}: "
            f"{error.filename}"
        )


def _is_address(host: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
