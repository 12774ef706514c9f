"""One value for each thing that may be set in several places: flags, overrides, `EngineConfig`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.engine_config import (
    DEFAULTS,
    ENGINE_FIELD_TO_FLAG,
    ENGINE_FIELD_TO_OVERRIDE,
    EngineConfig,
)
from pytest_mlc_server.overrides import OverrideValue, override_value
from pytest_mlc_server.values import CONVERTERS, additional_models

if TYPE_CHECKING:
    from pytest_mlc_server.config import ServerConfig


class Merged:
    """One value for each thing, from `engine_config`, `overrides` and the flags together.

    Parameters
    ----------
    config
        The configuration.

    Attributes
    ----------
    overrides
        Keys and values for ``--overrides``.
    flags
        `speculative_mode`, `prefix_cache_mode` and `prefill_mode`, where they are not at
        upstream's default.
    model_lib, additional_models
        As on the command line.
    problems
        Contradictions; each names both places.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.problems: list[str] = []
        self.overrides: dict[str, OverrideValue] = dict(config.overrides)
        self.flags: dict[str, str] = {}
        self.model_lib = config.model_lib
        self.additional_models = config.additional_models
        for name in ENGINE_FIELD_TO_FLAG:
            value = getattr(config, name)
            if value is not None and value != DEFAULTS[name]:
                self.flags[name] = value
        if config.engine_config is not None:
            self._add_engine_config(config, config.engine_config)

    def _add_engine_config(self, config: ServerConfig, engine_config: EngineConfig) -> None:
        changed = engine_config.changed()
        for name in ("model", "model_lib", "mode"):
            self._check_same(config, name, getattr(engine_config, name))
        if self.model_lib is None:
            self.model_lib = engine_config.model_lib
        if engine_config.kv_cache_page_size != 16:
            self.problems.append(
                f"engine_config.kv_cache_page_size = {engine_config.kv_cache_page_size!r}: the KV "
                "cache supports page size 16 only"
            )
        for name, key in ENGINE_FIELD_TO_OVERRIDE.items():
            if name in changed:
                self._add_override(config, name, key, changed[name])
        for name in ENGINE_FIELD_TO_FLAG:
            if name in changed:
                self._add_flag(config, name, changed[name])
        models = self._checked(
            "additional_models", engine_config.additional_models, additional_models
        )
        if models:
            if self.additional_models and self.additional_models != models:
                self.problems.append(
                    f"engine_config.additional_models = {list(models)!r} and "
                    f"{config.describe('additional_models')} differ: set one of them"
                )
            self.additional_models = models

    def _check_same(self, config: ServerConfig, name: str, theirs: object) -> None:
        ours = getattr(config, name)
        if theirs is None or theirs == ours or (ours is None and name == "model_lib"):
            return  # upstream's rule
        self.problems.append(
            f"engine_config.{name} = {theirs!r} and {config.describe(name)} differ: set "
            f"engine_config.{name} to None or to the same"
        )

    def _add_override(self, config: ServerConfig, name: str, key: str, value: Any) -> None:
        typed = self._checked(name, value, lambda raw: override_value(key, raw))
        if typed is None:
            return
        if key in self.overrides and self.overrides[key] != typed:
            origin = config.origins.get("overrides")
            self.problems.append(
                f"engine_config.{name} = {value!r} and {key}={self.overrides[key]} in overrides"
                + (f" (from {origin})" if origin else "")
                + " differ: set one of them"
            )
        self.overrides[key] = typed

    def _checked(self, name: str, value: Any, convert: Callable[[Any], Any]) -> Any:
        try:
            return convert(value)
        except (TypeError, ValueError) as error:
            self.problems.append(f"engine_config.{name} = {value!r}: {error}")
            return None

    def _add_flag(self, config: ServerConfig, name: str, value: str) -> None:
        if self._checked(name, value, CONVERTERS[name]) is None:
            return
        ours = getattr(config, name)
        if ours is not None and ours != value:
            self.problems.append(
                f"engine_config.{name} = {value!r} and {config.describe(name)} differ: "
                "set one of them"
            )
        self.flags[name] = value
