"""How much a real engine takes on at once: batch size, cache capacity, context window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOCAL_MAX_NUM_SEQUENCE = 4
_LOCAL_MAX_TOTAL_SEQUENCE_LENGTH = 8192
_DEFAULT_WINDOW = 2048
_DEFAULT_CHUNK = 2048
_DEFAULT_BATCH = 128

# How many tokens a real engine keeps free in its cache for each sequence, beside a few that its
# prefix cache still holds of earlier requests.
_RESERVE = 12


@dataclass(frozen=True)
class EngineLimits:
    """What one engine can do at once.

    Attributes
    ----------
    max_num_sequence : int
        How many replies are generated at a time; further requests wait.
    max_total_sequence_length : int
        How many tokens all of them may have together.
    max_single_sequence_length : int
        How many tokens a prompt and its reply may have together.
    prefill_chunk_size : int
        How many tokens of a prompt are read in one step.
    """

    max_num_sequence: int
    max_total_sequence_length: int
    max_single_sequence_length: int
    prefill_chunk_size: int

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt that is not refused."""
        return min(self.max_single_sequence_length, self.max_total_sequence_length)

    @property
    def max_cached_prompt_tokens(self) -> int:
        """The longest prompt that a real engine finds room for. One between dies of it."""
        return self.max_total_sequence_length - _RESERVE


def infer_limits(
    config: Mapping[str, Any], mode: str, overrides: Mapping[str, Any] | None = None
) -> EngineLimits:
    """Work out what a real engine would allow itself.

    Parameters
    ----------
    config : Mapping
        The ``mlc-chat-config.json``.
    mode : str
        ``local``, ``interactive`` or ``server``, as ``--mode``.
    overrides : Mapping, optional
        What ``--overrides`` says; None stands for what it leaves open.
    """
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    compiled: Mapping[str, Any] = config.get("model_config") or {}
    single = given.get("context_window_size", config.get("context_window_size", _DEFAULT_WINDOW))
    chunk = config.get("prefill_chunk_size", _DEFAULT_CHUNK)
    batch = {
        "local": min(_LOCAL_MAX_NUM_SEQUENCE, compiled.get("max_batch_size", _DEFAULT_BATCH)),
        "interactive": 1,
        "server": compiled.get("max_batch_size", _DEFAULT_BATCH),
    }[mode]
    batch = given.get("max_num_sequence", batch)
    total = {
        "local": min(single, _LOCAL_MAX_TOTAL_SEQUENCE_LENGTH),
        "interactive": single,
        "server": batch * single,
    }[mode]
    total = given.get("max_total_seq_length", total)
    if mode != "server":
        chunk = min(chunk, total, single)
    return EngineLimits(batch, total, single, given.get("prefill_chunk_size", chunk))
