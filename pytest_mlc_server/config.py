"""What to serve and how: `ServerConfig`. Frozen, validated, and without any I/O.

Names are those of ``mlc_llm serve`` and of ``mlc_llm.serve.config.EngineConfig``.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_mlc_server.contradictions import contradictions_of
from pytest_mlc_server.engine_config import EngineConfig, as_engine_config
from pytest_mlc_server.errors import ConfigError, nearest
from pytest_mlc_server.masking import mask, mask_url, masked_args, masked_env
from pytest_mlc_server.options import SETTINGS, Given
from pytest_mlc_server.overrides import OverrideValue
from pytest_mlc_server.reading import read, written
from pytest_mlc_server.values import CONVERTERS, AdditionalModel


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """What to serve and how. Frozen; every value is checked when the object is made.

    Parameters
    ----------
    engine
        ``mlc``, ``mock``, ``sim`` or ``external``. None means ``external`` when `url` is given,
        else ``mlc``.
    url
        Base URL of a server that is already there, without ``/v1``.
    model
        Model directory or ``HF://org/name``, passed to the server as it is: it is the id that
        the server lists. A relative path starts from `cwd`.
    model_lib
        Compiled model library. None: the server compiles one just in time.
    device
        ``auto``, ``cuda``, ``cuda:1``, ``cpu`` … or a ``tvm.runtime.Device``.
    mode
        ``local``, ``interactive`` or ``server``.
    engine_config
        Our `EngineConfig` or upstream's.
    overrides
        ``"max_num_sequence=4;opt=O2"`` or a mapping. Kept as a mapping.
    additional_models
        Paths, or pairs of path and library.
    embedding_model, embedding_model_lib
        Both or neither.
    speculative_mode, prefix_cache_mode, prefill_mode
        None leaves upstream's default.
    enable_debug, enable_tracing
        The server's debug endpoints and event trace.
    host
        Address that the server binds.
    port
        ``"auto"``: the server chooses, else a number. Default: ``"auto"``.
    api_key
        Key that the server asks for under ``/v1``; of ``"auto"`` each server makes a random one.
    args
        Further arguments for the server's command line, passed on as they are.
    env
        Further environment variables of the server.
    python
        Interpreter that has ``mlc_llm``. Default: the running one.
    launch
        ``plain`` (``python -m mlc_llm``), ``direct`` (upstream's device check in the same process)
        or ``warm`` (forked from a process that has imported ``mlc_llm``; Linux). The same server
        in all three; without meaning for the engines `sim` and `external`.
    sim_script
        TOML file with the simulator's rules, latency and faults; for the engine `sim` alone.
    cwd
        Working directory of the server. Default: the caller's.
    ready
        ``generate`` (one generated token) or ``http`` (``GET /v1/models`` alone).
    startup_timeout
        Time limit of a start, in seconds. Default: 120, upstream's. A download or a compilation
        that makes progress begins it anew.
    startup_limit
        Time limit of a start that makes progress, in seconds. Default: 1,800.
    stop_timeout
        Time limit of an orderly stop, in seconds; 0 kills at once, as upstream does. Default: 10.
    log_dir
        Directory for logs. Default: private and temporary.
    log_live
        Copy the log to the terminal as it comes.
    origins
        Where each field was set, for error messages; not part of the comparison.

    Raises
    ------
    ConfigError
        If a value is not valid by itself. All such problems are reported together.
    """

    engine: str | None = None
    url: str | None = field(default=None, repr=False)  # it may hold a password
    model: str | None = None
    model_lib: str | None = None
    device: str = "auto"
    mode: str = "local"
    engine_config: EngineConfig | None = None
    overrides: Mapping[str, OverrideValue] = field(default_factory=dict)
    additional_models: tuple[AdditionalModel, ...] = ()
    embedding_model: str | None = None
    embedding_model_lib: str | None = None
    speculative_mode: str | None = None
    prefix_cache_mode: str | None = None
    prefill_mode: str | None = None
    host: str = "127.0.0.1"
    port: int | str = "auto"
    api_key: str | None = field(default=None, repr=False)
    enable_debug: bool = True
    enable_tracing: bool = False
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    python: str | None = None
    launch: str = "plain"
    sim_script: str | None = None
    cwd: str | None = None
    ready: str = "generate"
    startup_timeout: float = 120.0
    startup_limit: float = 1800.0
    stop_timeout: float = 10.0
    log_dir: str | None = None
    log_live: bool = False
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    __hash__ = None  # type: ignore[assignment]  # two fields are mappings: use `key()`

    def __post_init__(self) -> None:
        problems: list[str] = []
        for name, convert in CONVERTERS.items():
            try:
                object.__setattr__(self, name, convert(getattr(self, name)))
            except (TypeError, ValueError) as error:
                problems.append(f"{self.describe(name)}: {error}")
        if problems:
            raise ConfigError(problems)
        if self.engine is None:
            object.__setattr__(self, "engine", "external" if self.url else "mlc")
        if self.api_key == "auto" and self.engine == "external":
            raise ConfigError(
                f"{self.describe('url')}: a server that is already there has its own key; "
                "api_key = 'auto' makes one for a server that is started"
            )
        if self.engine_config is not None:
            object.__setattr__(self, "engine_config", as_engine_config(self.engine_config))

    @classmethod
    def from_given(cls, given: Mapping[str, Given], *, cwd: str) -> ServerConfig:
        """Build the configuration from what was set on the command line and elsewhere.

        Parameters
        ----------
        given
            Result of `pytest_mlc_server.options.collect`.
        cwd
            The server's working directory.

        Raises
        ------
        ConfigError
            With all values that cannot be read.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for one in given.values():
            name = one.setting.field
            if name is None:
                continue
            try:
                values[name] = CONVERTERS[name](read(one, cwd))
            except ValueError as error:
                problems.append(f"{written(one)}: {error}")
        if problems:
            raise ConfigError(problems)
        origins = {one.setting.field: one.source for one in given.values() if one.setting.field}
        return cls(**values, cwd=cwd, origins=origins)

    def replace(self, **changes: Any) -> ServerConfig:
        """Return a copy with some fields changed.

        Raises
        ------
        ConfigError
            If there is no such field, or a value is not valid.
        """
        unknown = [name for name in changes if name not in _FIELDS]
        if unknown:
            raise ConfigError(
                [
                    f"{name} = {changes[name]!r}: ServerConfig has no such field"
                    + nearest(name, _FIELDS)
                    for name in unknown
                ]
            )
        if changes.get("url") is not None:
            changes.setdefault("engine", None)  # a URL implies the engine
        origins = {k: v for k, v in self.origins.items() if k not in changes}
        return dataclasses.replace(self, **{"origins": origins, **changes})

    def key(self) -> str:
        """Return a text that is equal for equal configurations."""
        shown = {f: getattr(self, f) for f in _FIELDS if f != "origins"}
        return json.dumps(shown, sort_keys=True, default=vars)

    def describe(self, name: str) -> str:
        """Return a field, its value and where it was set, for an error message."""
        value = mask(getattr(self, name)) if name == "api_key" else getattr(self, name)
        if name == "url" and isinstance(value, str):
            value = mask_url(value)
        if name == "args" and isinstance(value, tuple):
            value = tuple(masked_args(value))
        if name == "env":
            value = masked_env(value) if isinstance(value, Mapping) else "(masked)"
        origin = self.origins.get(name)
        return f"{name} = {value!r}" + (f" (from {origin})" if origin else "")

    def check(self) -> None:
        """Check what needs more than one field, still without any I/O.

        Raises
        ------
        ConfigError
            With all contradictions, each naming both places.
        """
        __tracebackhide__ = True
        problems = self.problems()
        if problems:
            raise ConfigError(problems)
        changed = self.engine_config.changed() if self.engine_config else {}
        for name in ("kv_state_kind", "verbose"):
            if name in changed:
                warnings.warn(
                    f"engine_config.{name} = {changed[name]!r} has no effect: `mlc_llm serve` has "
                    "no flag for it",
                    stacklevel=3,
                )

    def problems(self) -> list[str]:
        """Return all contradictions between fields, each naming both places."""
        return contradictions_of(self)


_FIELDS = tuple(f.name for f in dataclasses.fields(ServerConfig))

if missing := {s.field for s in SETTINGS if s.field} - set(_FIELDS):  # pragma: no cover
    raise AssertionError(f"settings without a field: {missing}")
