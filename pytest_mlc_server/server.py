"""`PopenServer`: the handle of a server, with or without pytest."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pytest_mlc_server import diagnosis, engines, logs, preflight, values
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.engine_config import EngineConfig
from pytest_mlc_server.environment import ServerEnv
from pytest_mlc_server.errors import ConfigError, StartError
from pytest_mlc_server.leases import GuardianLostError, Lease
from pytest_mlc_server.process import describe_exit
from pytest_mlc_server.values import AdditionalModel, OverrideValue

if TYPE_CHECKING:
    from tvm.runtime import Device
    from typing_extensions import Self  # in typing from Python 3.11 on

#: How much longer than its own time limits the guardian may take before it is given up, seconds.
GUARDIAN_GRACE = 15.0

#: How long one generated token may take when a server is examined, in seconds.
CHECK_DEADLINE = 5.0

NOT_ON_WINDOWS = """\
this package cannot start servers on Windows: its guardian needs POSIX process groups and sockets
Start the server in WSL or on another machine, and attach to it with --mlc-url."""


class PopenServer:
    """An MLC LLM server, owned by a guardian process that ends it when its holder ends.

    The constructor is that of upstream's class of the same name
    (``mlc_llm.serve.server.PopenServer``), with further keyword arguments that have defaults.
    Nothing is started before `start`, and no file is read, unless the values contradict each other:
    then what is wrong with the files is reported with them.

    Parameters
    ----------
    model
        Model directory or ``HF://org/name``, passed on as it is. None: the engine's own model
        (`mock`, `sim`), or what the server lists (`external`).
    device
        ``auto``, ``cuda``, ``cuda:1``, ``cpu`` … or a ``tvm.runtime.Device``.
    model_lib
        Compiled model library; None compiles one just in time.
    mode
        ``local``, ``interactive`` or ``server``.
    engine_config
        Our `EngineConfig` or upstream's.
    enable_debug, enable_tracing
        The server's debug endpoints and event trace.
    host, port
        What the server binds. `port` may be ``"auto"``: the server chooses.
    engine, url, overrides, additional_models, embedding_model, embedding_model_lib, \
    speculative_mode, prefix_cache_mode, prefill_mode, api_key, args, env, python, cwd, ready, \
    startup_timeout, startup_limit, stop_timeout, log_dir, log_live
        As in `ServerConfig`.

    Attributes
    ----------
    config : ServerConfig
        All of the above, checked.
    base_url : str
        ``http://127.0.0.1:8082``; empty before the first start.
    openai_v1_base_url : str
        `base_url` with ``/v1``.
    pid : int or None
        Process id of the server; None when it is not started, and for `external`.
    log_path : str or None
        The server's log; None when there is none, and for `external`.
    startup_seconds : float or None
        How long the start took; None for `external`.

    Raises
    ------
    ConfigError
        If a value is not valid or two contradict each other. It is a `ValueError`, as upstream's.
    """

    def __init__(
        self,
        model: str | None,
        device: str | Device = "auto",
        *,
        model_lib: str | None = None,
        mode: str = "local",
        engine_config: object = None,
        enable_debug: bool = True,
        enable_tracing: bool = False,
        host: str = "127.0.0.1",
        port: int | str = 8082,
        engine: str | None = None,
        url: str | None = None,
        overrides: str | Mapping[str, OverrideValue] | None = None,
        additional_models: Sequence[AdditionalModel] = (),
        embedding_model: str | None = None,
        embedding_model_lib: str | None = None,
        speculative_mode: str | None = None,
        prefix_cache_mode: str | None = None,
        prefill_mode: str | None = None,
        api_key: str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        python: str | os.PathLike[str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        ready: str = "generate",
        startup_timeout: float = 120.0,
        startup_limit: float = 1800.0,
        stop_timeout: float = 10.0,
        log_dir: str | os.PathLike[str] | None = None,
        log_live: bool = False,
    ) -> None:
        parameters: dict[str, Any] = dict(locals())
        parameters.pop("self")
        self._init(ServerConfig(**parameters))

    @classmethod
    def from_config(cls, config: ServerConfig, *, name: str = "server") -> PopenServer:
        """Make the handle of a server from a configuration.

        Parameters
        ----------
        config
            The configuration.
        name
            What the log file's name begins with.

        Raises
        ------
        ConfigError
            If the configuration contradicts itself.
        """
        __tracebackhide__ = True
        server = cls.__new__(cls)
        server._init(config, name)
        return server

    def _init(self, config: ServerConfig, name: str = "server") -> None:
        __tracebackhide__ = True
        contradictions = config.problems()
        if contradictions:
            # Together with what the file system would show at `start`: not one problem per run.
            raise ConfigError([*contradictions, *preflight.problems(config)])
        config.check()
        self.config = config
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
        self.live_output = 2
        """Descriptor that `log_live` copies the log to. Default: standard error."""
        self._name = name
        self._port = config.port
        self._lease: Lease | None = None
        self._attached = False
        self._state = "stopped"
        self._evidence = ""
        self._last_request = ""
        self._guardian_lost = False
        self._extra_env: dict[str, str] = {}
        self.died = False
        """Whether the server's process ended or wedged without being stopped."""
        self._live: logs.LiveLog | None = None
        self._temporary: str | None = None
        self._lock = threading.RLock()

    # --- the parameters ---------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        # Reached for names that are not set on the object: the parameters that nothing changes.
        config = self.__dict__.get("config")
        if config is None or name.startswith("_") or name == "origins":
            raise AttributeError(name)
        try:
            return getattr(config, name)
        except AttributeError:
            raise AttributeError(f"PopenServer has no attribute {name!r}") from None

    if TYPE_CHECKING:
        device: str
        model_lib: str | None
        mode: str
        enable_debug: bool
        enable_tracing: bool
        host: str
        engine: str
        url: str | None
        overrides: Mapping[str, OverrideValue]
        additional_models: tuple[AdditionalModel, ...]
        embedding_model: str | None
        embedding_model_lib: str | None
        speculative_mode: str | None
        prefix_cache_mode: str | None
        prefill_mode: str | None
        api_key: str | None
        args: tuple[str, ...]
        python: str | None
        cwd: str | None
        ready: str
        startup_timeout: float
        startup_limit: float
        stop_timeout: float
        log_dir: str | None
        log_live: bool

    @property
    def engine_config(self) -> EngineConfig:
        """The engine configuration; all defaults where none was given, as upstream's attribute."""
        if self.config.engine_config is None:
            return EngineConfig()
        return self.config.engine_config

    @property
    def port(self) -> int | str:
        """The port: the real one once started, before that the one asked for."""
        return self._port

    @property
    def env(self) -> ServerEnv:
        """The parameter `env`; called, what an application needs in order to find the server.

        ``server.env()`` is ``OPENAI_BASE_URL``, ``OPENAI_API_KEY`` and ``OPENAI_MODEL``, and
        ``NO_PROXY`` where the environment has a proxy that would come between the application and
        a server on this machine.
        """
        return ServerEnv(self)

    # --- the life of the server -------------------------------------------------------------------

    def start(self, extra_env: Mapping[str, str] | None = None) -> None:
        """Start the server and wait until it is ready.

        Parameters
        ----------
        extra_env
            Environment variables of the server, on top of `os.environ` and `env`.

        Raises
        ------
        ConfigError
            If a mistake was found before anything was started.
        StartError
            If the server is started already, or did not become ready; nothing is left running.
        EngineUnavailableError
            If the engine or its hardware is not on this machine.
        """
        __tracebackhide__ = True
        with self._lock:
            if self._lease is not None or self._attached:
                raise StartError(f"this server is started already: {self!r}")
            if self.config.engine == "external":
                self._attach()
                return
            if os.name == "nt":
                raise StartError(NOT_ON_WINDOWS)
            preflight.check(self.config, extra_env)
            self._extra_env = dict(extra_env or {})
            self._launch(self._new_log(), self.config)

    def restart(self) -> None:
        """Stop the server and start it again, behind the same handle and in the same log.

        The port stays the same where it can be had. A server that is known to be wedged or that
        ended is not asked to stop: it would not.

        Raises
        ------
        StartError
            If there is no server to restart, or the new one did not become ready. An external
            server cannot be restarted.
        """
        __tracebackhide__ = True
        with self._lock:
            lease = self._lease
            if lease is None or not lease.mine:
                raise StartError(f"there is no server of this process to restart: {self!r}")
            state, log = self.poll(), self.log_path or ""
            reason = {"ready": "restart was asked for", "exited": self._ending()}.get(state, state)
            timeout = self.config.stop_timeout if state == "ready" else 0.0
            port = int(self._port)
            self.restarts += 1
            try:
                self._again(lease, log, port, timeout, reason)
            except StartError as error:
                if self.config.port != "auto" or not _port_taken(error):
                    raise
                # Somebody took the port between the old server and the new one.
                self._launch(log, self.config)
                with warnings.catch_warnings():
                    # Never an error, whatever the filters say: the server is there and works.
                    warnings.simplefilter("always")
                    warnings.warn(
                        f"the restarted MLC server could not have port {port} again and is on "
                        f"{self._port}: whoever remembers the old URL will not find it",
                        stacklevel=2,
                    )

    def _again(self, lease: Lease, log: str, port: int, timeout: float, reason: str) -> None:
        __tracebackhide__ = True
        if self._guardian_lost:
            # Nobody is there who could start the server again: another guardian is.
            self._drop(lease)
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"\n--- {reason}; started again ---\n")
            self._launch(log, self.config.replace(port=port))
            return
        self._begin()
        lease.send(op="restart", port=port, timeout=timeout, reason=reason[:200])
        try:
            self._await_ready(lease, self._plan, log, timeout)
        except BaseException:
            self._drop(lease)
            raise

    def terminate(self) -> None:
        """Stop the server and its whole process tree; of an external server, only detach.

        May be called at any time and any number of times. In a process that was forked from the
        one that started the server it stops nothing.
        """
        with self._lock:
            lease = self._let_go()
            if lease is None:
                return
            self._hear(lease)  # a server that died before it was stopped leaves its log
            # A wedged server ignores SIGINT and SIGTERM for half a minute and more.
            timeout = 0.0 if self._state == "wedged" else self.config.stop_timeout
            lease.stop(timeout)
            ended = lease.wait(timeout + GUARDIAN_GRACE)
            self.returncode = ended.get("returncode", self.returncode)
            self._end()
            if ended.get("left"):
                warnings.warn(f"processes {ended['left']} survived SIGKILL", stacklevel=2)

    def release(self) -> None:
        """Have the guardian stop the server, and do not wait for it.

        For a process that is in a hurry: pytest-xdist gives its workers about five seconds after
        Ctrl-C.
        """
        with self._lock:
            lease = self._let_go()
            if lease is None:
                return
            discard = None if self.keep_log else self._temporary
            lease.stop(self.config.stop_timeout, discard=discard)
            lease.leave()
            if discard is not None:
                self._temporary = None
            self._end()

    def __enter__(self) -> Self:
        """Start the server."""
        __tracebackhide__ = True
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Stop the server; a temporary log stays when the block failed."""
        if exc_type is not None:
            self.keep_log = True
        self.terminate()

    def is_alive(self) -> bool:
        """Tell whether the server's process runs; of an external one, whether we are attached.

        A server that is alive need not work: see `check`.
        """
        lease = self._lease
        if lease is None:
            return self._attached
        if not lease.mine:  # a fork must not take the messages that are meant for its parent
            return self.pid is not None and _runs(self.pid)
        return self.poll() in ("ready", "wedged")

    def poll(self) -> str:
        """Return the state of the server from what is known, without asking it anything.

        Returns
        -------
        str
            ``stopped`` (or not started), ``ready``, ``wedged`` (its process lives, and generates
            nothing any more) or ``exited``.
        """
        with self._lock:
            if self._lease is None:
                return "ready" if self._attached else "stopped"
            if self._lease.mine:
                self._hear(self._lease)
            return self._state

    def check(self, deadline: float = CHECK_DEADLINE) -> str:
        """Find out whether the server works: ask it for one token.

        A slow answer alone is no proof: a server that works off a queue is asked again for as long
        as its log or its metrics move.

        Parameters
        ----------
        deadline
            How long the token may take, in seconds.

        Returns
        -------
        str
            As `poll`, or ``busy``: slow, but working.
        """
        with self._lock:
            lease = self._lease
            if lease is None or not lease.mine or self.poll() != "ready":
                return self.poll()
            lease.send(op="check", deadline=deadline)
            try:
                while (message := lease.next(10 * deadline + GUARDIAN_GRACE)) is not None:
                    self._take(message)
                    if message["event"] == "checked":
                        return self._state if self._state != "ready" else str(message["state"])
            except GuardianLostError:
                self._lost()
            return self._state

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
        return values.hide(text, self._secrets())

    def __repr__(self) -> str:
        parts = [f"engine={self.engine!r}", f"model={self.model!r}", f"device={self.device!r}"]
        if self._attached:
            parts.append(f"attached to {self.base_url}")
        elif self._lease is None:
            parts.append(f"not started, port={self.port!r}")
        else:
            parts.append(f"at {self.base_url}, pid={self.pid}")
            parts.append(f"ready after {self.startup_seconds:.2f} s")
            if self.returncode is not None:
                parts.append(f"ended: {describe_exit(self.returncode)}")
        if self.log_path:
            parts.append(f"log {self.log_path}")
        return f"<PopenServer {', '.join(parts)}>"

    # --- the start --------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._guardian_lost = False
        self.pid = self.startup_seconds = self.returncode = None
        self.died = False
        self.startup_phases = {}
        self._state, self._evidence, self._last_request = "starting", "", ""

    def _launch(self, log: str, config: ServerConfig) -> None:
        """Start a guardian and its server, and wait until the server is ready."""
        __tracebackhide__ = True
        plan = engines.plan(config, extra_env=self._extra_env, mark=os.urandom(16).hex())
        self._begin()
        self._port = config.port
        order = plan.order(config)
        lease = Lease(plan.argv, plan.env, plan.cwd, log, order, secret=plan.secret, lock=plan.lock)
        try:
            self._await_ready(lease, plan, log)
        except BaseException:
            # Ctrl-C included: a holder that gives up waiting gives up the server.
            self._drop(lease)
            raise
        self._lease, self._plan = lease, plan

    def _drop(self, lease: Lease) -> None:
        """End a lease whose server did not become ready."""
        self.keep_log = True
        self._lease = None
        self._state = "stopped"
        lease.stop(0.0)
        lease.wait(GUARDIAN_GRACE)
        self._end()

    def _await_ready(
        self, lease: Lease, plan: engines.LaunchPlan, log: str, stop_timeout: float = 0.0
    ) -> None:
        __tracebackhide__ = True
        if self.config.log_live and self._live is None:
            prefix = f"[{self._name}] "
            self._live = logs.LiveLog(log, self.live_output, prefix, self._secrets())
        patience = stop_timeout + self.config.startup_limit + GUARDIAN_GRACE
        while True:
            try:
                message = lease.next(patience)
            except GuardianLostError as error:
                raise self._start_error("the guardian process ended", str(error), log) from None
            if message is None:
                raise self._start_error("the guardian process does not answer", "", log)
            event = message["event"]
            if event == "spawned":
                self.pid = message["pid"]
            elif event == "ready":
                self._set_address(message["address"], message["port"])
                self.startup_seconds = message["seconds"]
                self.startup_phases = message["phases"]
                self.probe_usage = message["usage"]
                self._state = "ready"
                return
            elif event == "failed":
                raise diagnosis.failed_start(self.config, plan, message, log, self._secrets())
            elif event == "stopped":
                raise self._start_error("the start was interrupted from outside", "", log)

    def _start_error(self, what: str, evidence: str, log: str) -> StartError:
        text = f"the MLC server did not start: {what}\n"
        text += f"{evidence}\nlog: {log}" if evidence else f"log: {log}"
        return StartError(text, log_path=log)

    def _set_address(self, address: str, port: int) -> None:
        self._port = port
        host = self.config.host
        # A name may stand for several addresses, and a wildcard is none to connect to.
        if (self.config.port == "auto" and not _is_address(host)) or host in ("0.0.0.0", "::"):  # noqa: S104
            host = address
        self.base_url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self.openai_v1_base_url = f"{self.base_url}/v1"

    def _attach(self) -> None:
        __tracebackhide__ = True
        from pytest_mlc_server import external

        self.model = external.attach(self.config)
        self.base_url = self.config.url or ""
        self.openai_v1_base_url = f"{self.base_url}/v1"
        parts = urlsplit(self.base_url)
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._attached = True

    # --- the end ----------------------------------------------------------------------------------

    def _let_go(self) -> Lease | None:
        lease, self._lease, self._attached = self._lease, None, False
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
        if event in ("exited", "wedged"):
            self._state, self.died, self.keep_log = event, True, True
            self.returncode = message.get("returncode")
            self._evidence = message.get("evidence", self._evidence)
            self._last_request = message.get("request", "")

    def _lost(self) -> None:
        self._guardian_lost = True
        if self._state != "exited":
            self._state, self.died, self.keep_log = "exited", True, True
            self._evidence = "its guardian process was killed, and the server with it"

    def _ending(self) -> str:
        return "killed" if self.returncode is None else describe_exit(self.returncode)

    def _secrets(self) -> list[str]:
        return values.secrets_of(self.config.api_key, {**self.config.env, **self._extra_env})

    def _end(self) -> None:
        self.pid = None
        self._port = self.config.port
        if self._state != "exited":
            self._state = "stopped"
        if self._live is not None:
            self._live.close()
            self._live = None
        if not self.keep_log:
            self.discard_log()

    def _new_log(self) -> str:
        """Return the path of a log that is not there yet, in a directory that is."""
        directory = self.config.log_dir
        if directory is None:
            if self._temporary is None:
                self._temporary = tempfile.mkdtemp(prefix="pytest-mlc-server-")
            directory = self._temporary
        else:
            # From the configured directory, not from where a test has moved to since.
            directory = os.path.abspath(os.path.join(self.config.cwd or "", directory))
            os.makedirs(directory, exist_ok=True)
        # A name of this process's own: workers and runs share a directory.
        for number in itertools.count(1):
            path = os.path.join(directory, f"{self._name}-{os.getpid()}-{number}.log")
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            except FileExistsError:
                continue
            break
        self.log_path = path
        return path


def _port_taken(error: StartError) -> bool:
    return "address already in use" in str(error) or "its port is reserved" in str(error)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_address(host: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
