"""`PopenServer`: the handle of a server, with or without pytest."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.asking import Asking
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.engine_config import EngineConfig
from pytest_mlc_server.environment import ServerEnv
from pytest_mlc_server.errors import StartError
from pytest_mlc_server.launching import GUARDIAN_GRACE, Launching, port_taken
from pytest_mlc_server.leases import GuardianLostError, Lease
from pytest_mlc_server.process import describe_exit
from pytest_mlc_server.values import AdditionalModel, OverrideValue

if TYPE_CHECKING:
    from tvm.runtime import Device
    from typing_extensions import Self  # in typing from Python 3.11 on

    from pytest_mlc_server.sharing import Share

#: How long one generated token may take when a server is examined, in seconds.
CHECK_DEADLINE = 5.0

#: How long the guardian may take to say how much memory its server holds, in seconds; and in a
#: process that must end soon. It answers at once, unless it is stopped.
MEASURED_WITHIN, MEASURED_IN_HURRY = 5.0, 0.5

NOT_ON_WINDOWS = """\
this package cannot start servers on Windows: its guardian needs POSIX process groups and sockets
Start the server in WSL or on another machine, and attach to it with --mlc-url."""


class PopenServer(Asking, Launching):
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
    speculative_mode, prefix_cache_mode, prefill_mode, api_key, args, env, python, launch, \
    sim_script, cwd, ready, startup_timeout, startup_limit, stop_timeout, log_dir, log_live
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
        launch: str = "plain",
        sim_script: str | os.PathLike[str] | None = None,
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
    def from_config(
        cls, config: ServerConfig, *, name: str = "server", share: Share | None = None
    ) -> PopenServer:
        """Make the handle of a server from a configuration.

        Parameters
        ----------
        config
            The configuration.
        name
            What the log file's name begins with.
        share
            Who else may hold the server; None for nobody. To stop it is then to let it go, and it
            ends when nobody holds it any more.

        Raises
        ------
        ConfigError
            If the configuration contradicts itself.
        """
        __tracebackhide__ = True
        server = cls.__new__(cls)
        server._init(config, name, share)
        return server

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
        launch: str
        sim_script: str | None
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

    def begin(self, extra_env: Mapping[str, str] | None = None) -> None:
        """Begin to start the server, and do not wait until it is ready: `start` does.

        Parameters
        ----------
        extra_env
            Environment variables of the server, on top of `os.environ` and `env`.

        Raises
        ------
        ConfigError
            If a mistake was found before anything was started.
        StartError
            If the server is started already.
        """
        __tracebackhide__ = True
        with self._lock:
            if self._lease is not None or self._attached or self._pending is not None:
                raise StartError(f"this server is started already: {self!r}")
            if self.config.engine == "external":
                return  # it is there: nothing takes time
            if os.name == "nt":
                raise StartError(NOT_ON_WINDOWS)
            self._extra_env = dict(extra_env or {})
            self._pending = self._open()

    def start(self, extra_env: Mapping[str, str] | None = None) -> None:
        """Start the server and wait until it is ready.

        After `begin`, only wait.

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
            if self._pending is None:
                self.begin(extra_env)
            self._complete()

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
            if self.poll() == "starting":  # another holder of a shared server was first
                self.settle()
                return
            state, log = self.poll(), self.log_path or ""
            reason = {"ready": "restart was asked for", "exited": self._ending()}.get(state, state)
            timeout = self.config.stop_timeout if state == "ready" else 0.0
            port = self._server_port
            self.restarts += 1
            try:
                self._again(lease, log, port, timeout, reason)
            except StartError as error:
                if self._device_is_gone(error):  # its guardian would name it for ever
                    self._launch(log, self.config.replace(port=port))
                    return
                if self.config.port != "auto" or not port_taken(error):
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

    def terminate(self) -> None:
        """Stop the server and its whole process tree; of an external server, only detach.

        May be called at any time and any number of times. In a process that was forked from the
        one that started the server it stops nothing.
        """
        with self._lock:
            starting = self._pending is not None
            lease = self._let_go()
            if lease is None:
                return
            self._hear(lease)  # a server that died before it was stopped leaves its log
            if lease.shared:
                self._measure(lease)
                self._close_own_door()
                lease.release(keep_log=self.keep_log)
                self._end()
                return
            # A wedged server ignores SIGINT and SIGTERM for half a minute and more; one that is
            # still loading has nothing to close.
            in_order = self._state != "wedged" and not starting
            timeout = self.config.stop_timeout if in_order else 0.0
            lease.stop(timeout)
            ended = lease.wait(timeout + GUARDIAN_GRACE)
            self.returncode = ended.get("returncode", self.returncode)
            self.life.take(ended)
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
            if self._state == "ready":
                self._measure(lease, MEASURED_IN_HURRY)
            discard = None if self.keep_log else self._temporary
            if lease.shared:
                self._close_own_door()
                lease.release(keep_log=self.keep_log)
            else:
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

    @property
    def peak_memory(self) -> int | None:
        """The most resident memory of the server's process tree, in bytes.

        Over all its starts; shared pages count in each process that has them. None for an external
        server, and for one that was not started.
        """
        self.memory()
        return self.life.peak

    def memory(self) -> list[tuple[float, int]]:
        """Return the resident memory of the server's process tree over time.

        Returns
        -------
        list of tuple
            Seconds since 1970, and bytes; at most some hundred points, from the first start on.
            Empty for an external server.
        """
        with self._lock:
            if self._lease is not None and self._lease.mine:
                self._measure(self._lease)
            return self.life.points

    def _measure(self, lease: Lease, timeout: float = MEASURED_WITHIN) -> None:
        """Ask the guardian how much memory the server holds, for as long as it can be asked."""
        lease.send(op="memory")
        try:
            while (message := lease.next(timeout)) is not None:
                self._take(message)
                if message["event"] == "memory":
                    return
        except GuardianLostError:
            self._lost()

    def poll(self) -> str:
        """Return the state of the server from what is known, without asking it anything.

        Returns
        -------
        str
            ``stopped`` (or not started), ``ready``, ``wedged`` (its process lives, and generates
            nothing any more) or ``exited``; of a shared server also ``starting``, when another of
            its holders has it started again.
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
            if lease is None or not lease.mine or self.settle() != "ready":
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

    def settle(self) -> str:
        """Wait while another holder of a shared server has it started again; return the state.

        Raises
        ------
        StartError
            If the server did not become ready.
        """
        __tracebackhide__ = True
        with self._lock:
            lease = self._lease
            if self.poll() == "starting" and lease is not None:
                try:
                    self._await_ready(lease, self._plan, self.log_path or "")
                except StartError:
                    self._drop(lease)
                    raise
            return self._state

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

    # --- the end ----------------------------------------------------------------------------------


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
