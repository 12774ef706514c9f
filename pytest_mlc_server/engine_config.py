"""`EngineConfig`: the fields of upstream's class of that name, and upstream's instances."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_mlc_server.errors import ConfigError
from pytest_mlc_server.overrides import OVERRIDES
from pytest_mlc_server.values import AdditionalModel

Mode = Literal["local", "interactive", "server"]
SpeculativeMode = Literal["disable", "small_draft", "eagle", "medusa"]

#: Fields of `EngineConfig` that ``mlc_llm serve`` takes in ``--overrides``, and their keys there.
ENGINE_FIELD_TO_OVERRIDE = {
    "max_total_sequence_length": "max_total_seq_length",
    "max_single_sequence_length": "context_window_size",
    **{key: key for key in OVERRIDES if key not in ("max_total_seq_length", "context_window_size")},
}

#: Fields of `EngineConfig` that are flags of their own.
ENGINE_FIELD_TO_FLAG = ("speculative_mode", "prefix_cache_mode", "prefill_mode")


@dataclass
class EngineConfig:
    """Execution configuration of an MLC engine: the fields of upstream's class of that name.

    The meaning of each field is upstream's (``mlc_llm/serve/config.py``). A field at its default
    leaves the choice to the server.

    Parameters
    ----------
    model, model_lib, additional_models, mode
        As in `ServerConfig`. What is set in both has to be the same: else it is a `ConfigError`.
    tensor_parallel_shards, pipeline_parallel_stages
        How many GPUs share each layer, and how many stages the layers are divided into. A library
        that is given has its own numbers.
    opt
        Optimisation of a library that is compiled just in time: ``O0`` to ``O3``, or single flags
        such as ``"cublas_gemm=1;cudagraph=0"``.
    gpu_memory_utilization
        Share of the GPU's memory that the server may take in all, above 0 and below 1; upstream's
        default is 0.85. The size of the KV cache follows from it.
    kv_cache_page_size
        Tokens in a page of the KV cache: 16 is all that the engine supports.
    max_num_sequence
        How many sequences are worked on at a time: the size of a batch.
    max_total_sequence_length
        How many tokens the KV cache holds, of all sequences together.
    max_single_sequence_length
        How many tokens one sequence may have: the context window.
    prefill_chunk_size
        How many tokens of prompts are worked on at a time.
    sliding_window_size, attention_sink_size
        Tokens of the sliding window, and of the sink before it, for models that have them.
    max_history_size
        How many steps the state of a recurrent model can be rolled back.
    kv_state_kind
        ``kv_cache`` or ``rnn_state``.
    speculative_mode
        ``disable``, ``small_draft``, ``eagle`` or ``medusa``.
    spec_draft_length, spec_tree_width
        How many tokens a draft has (0: the engine adapts it), and how many branches.
    prefix_cache_mode
        ``radix`` or ``disable``.
    prefix_cache_max_num_recycling_seqs
        How many finished sequences the prefix cache keeps. None: as many as `max_num_sequence`; 0:
        none; -1: any number.
    prefill_mode
        ``hybrid`` or ``chunked``.
    verbose
        Whether the engine writes to the log.
    """

    model: str | None = None
    model_lib: str | None = None
    additional_models: Sequence[AdditionalModel] = field(default_factory=list)
    mode: Mode | None = None
    tensor_parallel_shards: int | None = None
    pipeline_parallel_stages: int | None = None
    opt: str | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_page_size: int = 16
    max_num_sequence: int | None = None
    max_total_sequence_length: int | None = None
    max_single_sequence_length: int | None = None
    prefill_chunk_size: int | None = None
    sliding_window_size: int | None = None
    attention_sink_size: int | None = None
    max_history_size: int | None = None
    kv_state_kind: Literal["kv_cache", "rnn_state"] | None = None
    speculative_mode: SpeculativeMode = "disable"
    spec_draft_length: int | None = 0
    spec_tree_width: int | None = 1
    prefix_cache_mode: Literal["disable", "radix"] = "radix"
    prefix_cache_max_num_recycling_seqs: int | None = None
    prefill_mode: Literal["chunked", "hybrid"] = "hybrid"
    verbose: bool = True

    def asjson(self) -> str:
        """Return the configuration as JSON text, as upstream's method does."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(json_str: str) -> EngineConfig:
        """Build a configuration from JSON text, as upstream's method does."""
        return EngineConfig(**json.loads(json_str))

    def changed(self) -> dict[str, Any]:
        """Return the fields that are not at their default, by name."""
        default = DEFAULTS
        return {k: v for k, v in vars(self).items() if v is not None and v != default[k]}


DEFAULTS: dict[str, Any] = vars(EngineConfig())


def as_engine_config(value: object) -> EngineConfig:
    """Take our `EngineConfig`, or an instance of upstream's class, without importing upstream.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    if isinstance(value, EngineConfig):
        return value
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        raise ConfigError(
            f"engine_config = {value!r}: expected pytest_mlc_server.EngineConfig or "
            "mlc_llm.serve.EngineConfig"
        )
    theirs = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    unknown = {
        f.name: theirs[f.name]
        for f in dataclasses.fields(value)
        if f.name not in DEFAULTS and theirs[f.name] != f.default
    }
    if unknown:
        warnings.warn(
            f"engine_config: {', '.join(unknown)} of {type(value).__module__}.EngineConfig "
            "is newer than this package and is not passed on; use args= for its flag",
            stacklevel=3,
        )
    return EngineConfig(**{k: v for k, v in theirs.items() if k in DEFAULTS})
