"""`PopenServer`: the handle of a server, with or without pytest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.asking import Asking
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.engine_config import EngineConfig
from pytest_mlc_server.environment import ServerEnv
from pytest_mlc_server.lifecycle import Lifecycle
from pytest_mlc_server.masking import mask_url
from pytest_mlc_server.overrides import OverrideValue
from pytest_mlc_server.process import describe_exit
from pytest_mlc_server.values import AdditionalModel

if TYPE_CHECKING:
    from tvm.runtime import Device

    from pytest_mlc_server.sharing import Share


class PopenServer(Asking, Lifecycle):
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

    def __repr__(self) -> str:
        parts = [f"engine={self.engine!r}", f"model={self.model!r}", f"device={self.device!r}"]
        if self._attached:
            parts.append(f"attached to {mask_url(self.base_url)}")
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
