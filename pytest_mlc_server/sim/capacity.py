"""What a real engine says about its memory as it starts, and when that is not enough."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.sim.errors import InternalError
from pytest_mlc_server.sim.limits import infer_limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_mlc_server.sim.limits import EngineLimits

MODES = ("local", "interactive", "server")

#: The file that lists a model's weights, by its new name and its old one.
WEIGHTS = ("tensor-cache.json", "ndarray-cache.json")

_MIB = 1024 * 1024

# What no device has: beyond it a real engine's allocation fails, wherever it runs. The memory of
# this machine is no measure, because the model that is simulated would run on another.
_NO_DEVICE_HAS_BYTES = 4 * 1024**4


@dataclass(frozen=True)
class _Sizes:
    """What the memory of an engine is computed from, in bytes and counts."""

    parameters: float
    temporary: float
    kv_per_token: float
    vocabulary: int
    chunk: int
    heads: int
    kv_heads: int
    head_dim: int

    def workspaces(self, batch: int) -> dict[str, float]:
        """Return the parts beside the parameters, under the names of the real engine's log."""
        hidden = self.head_dim * self.heads
        kv_aux = (batch + 1) * 88 + self.chunk * (self.heads + 1) * 8 + 48 * _MIB
        kv_aux += self.chunk * self.head_dim * (self.heads + self.kv_heads) * 4
        model = self.chunk * 4 + batch * 4 + (self.chunk * 2 + batch) * hidden * 2
        return {
            "temp_buffer": self.temporary,
            "kv_aux workspace": kv_aux,
            "model workspace": model,
            "logit processor workspace": batch * 20 + batch * self.vocabulary * 16.125,
        }


def announce_capacity(
    config: Mapping[str, Any], mode: str, overrides: Mapping[str, Any], directory: Path | None
) -> None:
    """Write the lines about batch size and memory that a real engine writes as it starts.

    Parameters
    ----------
    config : Mapping
        The ``mlc-chat-config.json``.
    mode : str
        As ``--mode``.
    overrides : Mapping
        As ``--overrides``.
    directory : Path or None
        The model directory, if it is one.

    Raises
    ------
    InternalError
        What the real engine's thread dies of: no memory at all, or a cache beyond any memory.
    """
    sizes = _sizes(config, directory)
    if overrides.get("gpu_memory_utilization") is not None and directory is not None:
        _check_utilization(sizes, config, mode, overrides)
    for each in MODES:
        decided = infer_limits(config, each, overrides)
        _say(804, f'Under mode "{each}", {"".join(_decisions(decided, overrides))}')
    limits = infer_limits(config, mode, overrides)
    _say(
        885,
        f'The actual engine mode is "{mode}". So max batch size is {limits.max_num_sequence}, max'
        f" KV cache token capacity is {limits.max_total_sequence_length}, prefill chunk size is"
        f" {limits.prefill_chunk_size}.",
    )
    cache = _announce_memory(sizes, limits)
    if cache > _NO_DEVICE_HAS_BYTES:
        raise InternalError("std::bad_alloc")


def native_line(place: str, message: str) -> None:
    """Write a line as the native code of the real server writes it."""
    now = time.strftime("%H:%M:%S")
    sys.stderr.write(f"[{now}] {place}: {message}\n")
    sys.stderr.flush()


def weight_files(directory: Path) -> list[Path]:
    """Return the files that hold the weights of a model, as its own list names them."""
    for name in WEIGHTS:
        if (directory / name).is_file():
            records = _read(directory / name).get("records", [])
            return [directory / record["dataPath"] for record in records]
    return []


def _say(number: int, message: str) -> None:
    native_line(f"cpp/serve/config.cc:{number}", message)


def _announce_memory(sizes: _Sizes, limits: EngineLimits) -> float:
    parts = sizes.workspaces(limits.max_num_sequence)
    cache = parts.pop("kv_aux workspace")
    cache += sizes.kv_per_token * limits.max_total_sequence_length
    temporary = sum(parts.values())
    _say(
        890,
        "Estimated total single GPU memory usage:"
        f" {_mb(sizes.parameters + cache + temporary)} MB (Parameters: {_mb(sizes.parameters)} MB."
        f" KVCache: {_mb(cache)} MB. Temporary buffer: {_mb(temporary)} MB). The actual usage might"
        " be slightly larger than the estimated number.",
    )
    return cache


def _check_utilization(
    sizes: _Sizes, config: Mapping[str, Any], mode: str, overrides: Mapping[str, Any]
) -> None:
    if overrides["gpu_memory_utilization"] > 0:
        return
    for each in MODES:
        limits = infer_limits(config, each, overrides)
        parts = sizes.workspaces(limits.max_num_sequence)
        if each == mode:
            needed = sum(parts.values())
        for number, (name, size) in enumerate(parts.items(), start=730):
            _say(number, f"{name} = {_mb(size)}")
    raise InternalError(
        "Check failed: (output_res.IsOk()) is false: Insufficient GPU memory error: The available"
        " single GPU memory is 0.000 MB, which is less than the sum of model weight size"
        f" ({_mb(sizes.parameters)} MB) and temporary buffer size ({_mb(needed)} MB).\n"
        '1. You can set a larger "gpu_memory_utilization" value.\n'
        "2. If the model weight size is too large, please enable tensor parallelism by passing"
        " `--tensor-parallel-shards $NGPU` to `mlc_llm gen_config` or use quantization.\n"
        "3. If the temporary buffer size is too large, please use a smaller `--prefill-chunk-size`"
        " in `mlc_llm gen_config`."
    )


def _decisions(limits: EngineLimits, overrides: Mapping[str, Any]) -> Iterator[str]:
    yield _decision("max batch size", limits.max_num_sequence, overrides.get("max_num_sequence"))
    yield ", "
    total = limits.max_total_sequence_length
    yield _decision("max KV cache token capacity", total, overrides.get("max_total_seq_length"))
    yield ", "
    chunk = limits.prefill_chunk_size
    yield _decision("prefill chunk size", chunk, overrides.get("prefill_chunk_size"))
    yield ". "


def _decision(what: str, value: int, given: Any) -> str:
    if given is None:
        return f"{what} will be set to {value}"
    return f"{what} {value} is specified by user"


def _sizes(config: Mapping[str, Any], directory: Path | None) -> _Sizes:
    shape: Mapping[str, Any] = config.get("model_config") or {}
    hidden = shape.get("hidden_size", 64)
    inner = shape.get("intermediate_size", 4 * hidden)
    heads = shape.get("num_attention_heads", 4)
    layers = shape.get("num_hidden_layers", 2)
    chunk = shape.get("prefill_chunk_size", config.get("prefill_chunk_size", 2048))
    vocabulary = shape.get("vocab_size", config.get("vocab_size", 512))
    kv_heads = shape.get("num_key_value_heads", heads)
    head_dim = shape.get("head_dim") or hidden // heads
    # A Llama's: embeddings, head and last norm; attention, MLP and two norms in each layer.
    layer = hidden * head_dim * 2 * (heads + kv_heads) + 3 * hidden * inner + 2 * hidden
    guess = 4.0 * (2 * vocabulary * hidden + hidden + layers * layer)
    return _Sizes(
        parameters=_parameter_bytes(directory) or guess,
        # The real one comes from the compiled library. This is what a Llama's is, doubled as there.
        temporary=2.0 * chunk * 4 * (5 * hidden + 2 * inner),
        kv_per_token=head_dim * kv_heads * layers * 4 + 1.25,
        vocabulary=vocabulary,
        chunk=chunk,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
    )


def _parameter_bytes(directory: Path | None) -> float:
    for name in WEIGHTS:
        if directory is not None and (directory / name).is_file():
            return float(_read(directory / name).get("metadata", {}).get("ParamBytes", 0))
    return 0.0


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _mb(size: float) -> str:
    return f"{size / _MIB:.3f}"
