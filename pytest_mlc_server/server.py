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

from pytest_mlc_server import engines, logs, preflight
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.engine_config import EngineConfig
from pytest_mlc_server.errors import EngineUnavailableError, StartError
from pytest_mlc_server.leases import GuardianLostError, Lease
from pytest_mlc_server.process import describe_exit
from pytest_mlc_server.values import AdditionalModel, OverrideValue

if TYPE_CHECKING:
    from tvm.runtime import Device
    from typing_extensions import Self  # in typing from Python 3.11 on

#: How much longer than its own time limits the guardian may take before it is given up, seconds.
GUARDIAN_GRACE = 15.0

NOT_ON_WINDOWS = """\
this package cannot start servers on Windows: its guardian needs POSIX process groups and sockets
Start the server in WSL or on another machine, and attach to it with --mlc-url."""


class PopenServer:
    """An MLC LLM server, owned by a guardian process that ends it when its holder ends.

    The constructor is that of upstream's class of the same name
    (``mlc_llm.serve.server.PopenServer``), with further keyword arguments that have defaults.
    Nothing is started, and no file is read, before `start`.

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
    startup_timeout, stop_timeout, log_dir, log_live
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
        stop_timeout: float = 10.0,
        log_dir: str | os.PathLike[str] | None = None,
        log_live: bool = False,
    ) -> None:
        values: dict[str, Any] = dict(locals())
        values.pop("self")
        self._init(ServerConfig(**values))

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
        self.probe_usage: Mapping[str, int] = {}
        """Tokens that the readiness probe cost, as the server counted them."""
        self.live_output = 2
        """Descriptor that `log_live` copies the log to. Default: standard error."""
        self._name = name
        self._port = config.port
        self._lease: Lease | None = None
        self._attached = False
        self.died = False
        """Whether the server's process ended without being stopped."""
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
            preflight.check(self.config)
            plan = engines.plan(self.config, extra_env=extra_env, mark=os.urandom(16).hex())
            self._begin()
            log = self._new_log()
            lease = Lease(plan.argv, plan.env, plan.cwd, log, plan.order(self.config))
            try:
                self._await_ready(lease, plan, log)
            except BaseException:
                # Ctrl-C included: a holder that gives up waiting gives up the server.
                self.keep_log = True
                lease.stop(0.0)
                lease.wait(GUARDIAN_GRACE)
                self._end()
                raise
            self._lease = lease

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
            lease.stop(self.config.stop_timeout)
            message = lease.wait(self.config.stop_timeout + GUARDIAN_GRACE)
            self.returncode = message.get("returncode", self.returncode)
            self._end()
            if message.get("left"):
                warnings.warn(f"processes {message['left']} survived SIGKILL", stacklevel=2)

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
        """Tell whether the server's process runs; of an external one, whether we are attached."""
        lease = self._lease
        if lease is None:
            return self._attached
        if not lease.mine:  # a fork must not take the messages that are meant for its parent
            return self.pid is not None and _runs(self.pid)
        with self._lock:
            return self._hear(lease)

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
        self.pid = self.startup_seconds = self.returncode = None
        self.died = False
        self._port = self.config.port

    def _await_ready(self, lease: Lease, plan: engines.LaunchPlan, log: str) -> None:
        __tracebackhide__ = True
        if self.config.log_live:
            self._live = logs.LiveLog(log, self.live_output, f"[{self._name}] ")
        patience = self.config.startup_timeout + GUARDIAN_GRACE
        while True:
            try:
                message = lease.next(patience)
            except GuardianLostError as error:
                raise self._start_error("the guardian process ended", str(error), log) from None
            if message is None:
                raise self._start_error("the guardian process does not answer", "", log)
            if message["event"] == "spawned":
                self.pid = message["pid"]
            elif message["event"] == "ready":
                self._set_address(message["address"], message["port"])
                self.startup_seconds = message["seconds"]
                self.probe_usage = message["usage"]
                return
            elif message["event"] == "failed":
                raise failed_start(self.config, plan, message, log)
            elif message["event"] == "stopped":
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

    def _hear(self, lease: Lease) -> bool:
        """Hear what the guardian has said since, and tell whether the server still runs."""
        try:
            while (message := lease.next(0)) is not None:
                if message["event"] == "exited":
                    self.returncode = message["returncode"]
                    self.died = True
        except GuardianLostError:
            self.died = True
        self.keep_log = self.keep_log or self.died
        return not self.died

    def _end(self) -> None:
        self.pid = None
        if self._live is not None:
            self._live.close()
            self._live = None
        if self._temporary is not None and not self.keep_log:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None
        if self._temporary is None and self.config.log_dir is None:
            self.log_path = None

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


class ServerEnv(dict[str, str]):
    """The environment variables given to a server; called, those that an application needs."""

    def __init__(self, server: PopenServer) -> None:
        super().__init__(server.config.env)
        self._server = server

    def __call__(self) -> dict[str, str]:
        """Return what an application under test wants in its environment."""
        server = self._server
        if not server.base_url:
            raise RuntimeError(f"the server was not started: {server!r}")
        environment = {
            "OPENAI_BASE_URL": server.openai_v1_base_url,
            # The official client refuses to be made without a key, whatever the server wants.
            "OPENAI_API_KEY": server.config.api_key or "none",
            "OPENAI_MODEL": server.model,
        }
        if server.config.url is None and _has_proxy():
            known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
            host = urlsplit(server.base_url).hostname or ""
            value = ",".join(filter(None, (known, host)))
            environment.update(NO_PROXY=value, no_proxy=value)
        return environment


def failed_start(
    config: ServerConfig, plan: engines.LaunchPlan, message: Mapping[str, Any], log: str
) -> StartError:
    """Turn the guardian's account of a failed start into the error that explains it."""
    reason, detail, returncode = message["reason"], message["detail"], message["returncode"]
    end = logs.tail(log)
    happened = {
        "exited": f"its process ended ({describe_exit(returncode)})",
        "timeout": f"it was not ready within {config.startup_timeout:g} s",
        "engine": "its engine died while the process lived on",
        "refused": "it answers, but not as this server should",
        "spawn": "its program cannot be executed",
    }[reason]
    kind: type[StartError] = StartError
    remedy = None
    if reason == "exited":
        remedy = engines.unavailable(config, returncode, end)
        kind = EngineUnavailableError if remedy else StartError
    if remedy:
        headline = remedy.partition("\n")[0]
    else:
        headline = f"the MLC server did not start: {happened} (after {message['seconds']:.1f} s)"
        remedy = engines.hints(plan.argv, end)
    if reason == "timeout":
        detail = f"last seen: {detail}"
        remedy = "A start that needs longer: --mlc-startup-timeout (seconds)."
    if not detail and end:
        last = end.splitlines()[-1]
        brief = f"{headline}: {last}" if kind is StartError else headline
    else:
        brief = f"{headline}: {detail.partition(chr(10))[0]}" if detail else headline
    lines = [headline]
    if remedy and kind is StartError:
        lines.append(f"hint: {remedy}")
    elif remedy:
        lines.append(remedy.partition("\n")[2])
    if detail:
        lines.append(detail)
    lines += [f"command: {plan.command}", f"directory: {plan.cwd}", f"log: {log}"]
    lines.append(f"--- end of the log ---\n{end}" if end else "the log is empty")
    return kind("\n".join(lines), brief=brief, returncode=returncode, log_path=log)


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


def _has_proxy() -> bool:
    return any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ)
