"""What ``mlc_llm serve --overrides`` takes: its keys, and the types of their values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pytest_mlc_server.errors import nearest
from pytest_mlc_server.options import BY_NAME

#: Keys of ``mlc_llm serve --overrides`` and the type of their values (upstream's
#: ``mlc_llm/cli/serve.py``, ``EngineConfigOverride``).
OVERRIDES: dict[str, type] = {
    "max_num_sequence": int,
    "max_total_seq_length": int,
    "prefill_chunk_size": int,
    "max_history_size": int,
    "gpu_memory_utilization": float,
    "spec_draft_length": int,
    "spec_tree_width": int,
    "prefix_cache_max_num_recycling_seqs": int,
    "context_window_size": int,
    "sliding_window_size": int,
    "attention_sink_size": int,
    "tensor_parallel_shards": int,
    "pipeline_parallel_stages": int,
    "opt": str,
}

#: Upstream takes these keys in ``--overrides`` and then ignores them: only the flag counts.
IGNORED_OVERRIDES = {"prefix_cache_mode": "prefix-cache-mode", "prefill_mode": "prefill-mode"}

OverrideValue = int | float | str

_NAMES = {int: "a whole number", float: "a number", str: "a text"}


def parse_overrides(text: str) -> dict[str, str]:
    """Split ``"k=v;k=v"`` as ``mlc_llm serve --overrides`` does.

    Raises
    ------
    ValueError
        If an item has no value, or a key comes twice with different values.
    """
    result: dict[str, str] = {}
    for item in text.split(";"):
        if not item.strip():
            continue
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key:
            raise ValueError(f"{item.strip()!r} is not of the form key=value")
        if result.get(key, value) != value:
            raise ValueError(f"{key} is given twice, as {result[key]!r} and as {value!r}")
        result[key] = value
    return result


def override_value(key: str, value: Any) -> OverrideValue:
    """Check and convert the value of one override.

    Raises
    ------
    ValueError
        If it is of the wrong type.
    """
    kind = OVERRIDES.get(key, str)
    wrong = ValueError(f"{key} takes {_NAMES[kind]}, not {value!r}")
    if isinstance(value, bool) or (kind is int and isinstance(value, float)):
        raise wrong
    try:
        typed: OverrideValue = kind(value.strip() if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        raise wrong from None
    if isinstance(typed, float) and not math.isfinite(typed):
        raise wrong
    if isinstance(typed, int) and abs(typed) >= 1 << 63:
        raise wrong
    if isinstance(typed, str) and ";" in typed:
        # Upstream splits the whole text at ";", so the server would refuse to start.
        raise ValueError(f"{key} = {value!r}: `mlc_llm serve --overrides` cannot take a ';'")
    return typed


def unknown_overrides(overrides: Mapping[str, object]) -> list[str]:
    """Return the keys that this package does not know; an installed mlc_llm may be newer."""
    return [key for key in overrides if key not in OVERRIDES]


def unknown_override_text(key: str) -> str:
    """Return what to say of an unknown key in overrides."""
    return f"unknown key {key!r} in overrides{nearest(key, tuple(OVERRIDES))}"


def read_overrides(value: Any) -> dict[str, OverrideValue]:
    """Read overrides, a text or a mapping, and check them.

    Raises
    ------
    ValueError
        If a key is given twice, is ignored upstream, or has a value of the wrong type.
    """
    if value is None:
        return {}
    items = parse_overrides(value) if isinstance(value, str) else value
    if not isinstance(items, Mapping):
        raise ValueError("expected 'key=value;key=value' or a mapping")
    result: dict[str, OverrideValue] = {}
    for written_key, item in items.items():
        if item is None:
            continue
        key = _full_key(str(written_key))
        if key in IGNORED_OVERRIDES:
            flag = BY_NAME[IGNORED_OVERRIDES[key]].flag
            raise ValueError(
                f"`mlc_llm serve` ignores {key} inside overrides; use {flag} ({key}=) for it"
            )
        typed = override_value(key, item)
        if result.get(key, typed) != typed:
            raise ValueError(f"{key} is given twice, as {result[key]!r} and as {typed!r}")
        result[key] = typed
    return result


def _full_key(key: str) -> str:
    """Complete the beginning of a key, which upstream's argparse accepts where it is unique."""
    known = (*OVERRIDES, *IGNORED_OVERRIDES)
    matches = [name for name in known if name.startswith(key)]
    return matches[0] if key not in known and len(matches) == 1 else key
