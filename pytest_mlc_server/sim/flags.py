"""The flags of ``mlc_llm serve``, with its words: mistakes are answered with its own help."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable

_SHOWN_DEFAULT = ' (default: "%(default)s")'

_MODEL = """\
A path to ``mlc-chat-config.json``, or an MLC model directory that contains `mlc-chat-config.json`.
It can also be a link to a HF repository pointing to an MLC compiled model. (required)
"""

_DEVICE = """\
The device used to deploy the model such as "cuda" or "cuda:0". Will detect from local available
GPUs if not specified.
"""

_MODEL_LIB = """\
The full path to the model library file to use (e.g. a ``.so`` file). If unspecified, we will use
the provided ``model`` to search over possible paths. It the model lib is not found, it will be
compiled in a JIT manner.
"""

_MODE = """\
The engine mode in MLC LLM. We provide three preset modes: "local", "interactive" and "server". The
default mode is "local". The choice of mode decides the values of "max_num_sequence",
"max_total_seq_length" and "prefill_chunk_size" when they are not explicitly specified. 1. Mode
"local" refers to the local server deployment which has low request concurrency. So the max batch
size will be set to 4, and max total sequence length and prefill chunk size are set to the context
window size (or sliding window size) of the model. 2. Mode "interactive" refers to the interactive
use of server, which has at most 1 concurrent request. So the max batch size will be set to 1, and
max total sequence length and prefill chunk size are set to the context window size (or sliding
window size) of the model. 3. Mode "server" refers to the large server use case which may handle
many concurrent request and want to use GPU memory as much as possible. In this mode, we will
automatically infer the largest possible max batch size and max total sequence length. You can
manually specify arguments "max_num_sequence", "max_total_seq_length" and "prefill_chunk_size" via
"--overrides" to override the automatic inferred values. For example: --overrides
"max_num_sequence=32;max_total_seq_length=4096"
"""

_ADDITIONAL_MODELS = """\
The model paths and (optional) model library paths of additional models (other than the main
model). When engine is enabled with speculative decoding, additional models are needed. The way of
specifying additional models is: "--additional-models model_path_1 model_path_2 ..." or
"--additional-models model_path_1,model_lib_1 model_path_2 ...". When the model lib of a model is
not given, JIT model compilation will be activated to compile the model automatically.
"""

_SPECULATIVE_MODE = """\
The speculative decoding mode. Right now four options are supported: - "disable", where speculative
decoding is not enabled, - "small_draft", denoting the normal speculative decoding (small draft)
style, - "eagle", denoting the eagle-style speculative decoding. - "medusa", denoting the
medusa-style speculative decoding. The default mode is "disable".
"""

_PREFIX_CACHE_MODE = """\
The prefix cache mode. Right now two options are supported: - "disable", where prefix cache is not
enabled, - "radix", denoting the normal paged radix tree based prefix cache, The default mode is
"radix".
"""

_PREFILL_MODE = """\
The prefill mode. "chunked" means the basic prefill with chunked input enabled. "hybrid" means the
hybrid prefill or split-fuse, so that decode step will be converted into prefill.
"""

_OVERRIDES = """\
Overriding extra configurable fields of EngineConfig and model compilation config. Supporting
fields that can be be overridden: "tensor_parallel_shards", "max_num_sequence",
"max_total_seq_length", "prefill_chunk_size", "max_history_size", "gpu_memory_utilization",
"spec_draft_length", "prefix_cache_max_num_recycling_seqs", "context_window_size",
"sliding_window_size", "attention_sink_size". Please check out the documentation of EngineConfig in
mlc_llm/serve/config.py for detailed docstring of each field. Example: --overrides
"max_num_sequence=32;max_total_seq_length=4096;tensor_parallel_shards=2"
"""

_TRACING = """\
Enable Chrome Tracing for the server. After enabling, you can send POST request to the
"debug/dump_event_trace" entrypoint to get the Chrome Trace. For example, "curl -X POST
http://127.0.0.1:8000/debug/dump_event_trace -H "Content-Type: application/json" -d '{"model":
"dist/llama"}'"
"""

# In the real server's order. Every text is as its help shows it, wrapped for here.
_FLAGS: list[tuple[str, str, dict[str, Any]]] = [
    (
        "model",
        _MODEL,
        {},
    ),
    (
        "--device",
        _DEVICE + _SHOWN_DEFAULT,
        {"default": "auto"},
    ),
    (
        "--model-lib",
        _MODEL_LIB + _SHOWN_DEFAULT,
        {},
    ),
    (
        "--mode",
        _MODE + _SHOWN_DEFAULT,
        {"choices": ["local", "interactive", "server"], "default": "local"},
    ),
    (
        "--enable-debug",
        "whether we enable debug end points and debug config when accepting requests",
        {"action": "store_true"},
    ),
    ("--additional-models", _ADDITIONAL_MODELS, {"nargs": "*"}),
    (
        "--embedding-model",
        "Path to the embedding model weight directory (enables /v1/embeddings endpoint)",
        {},
    ),
    (
        "--embedding-model-lib",
        "Path to the compiled embedding model library (.so/.dylib file)",
        {},
    ),
    (
        "--speculative-mode",
        _SPECULATIVE_MODE + _SHOWN_DEFAULT,
        {"choices": ["disable", "small_draft", "eagle", "medusa"], "default": "disable"},
    ),
    (
        "--prefix-cache-mode",
        _PREFIX_CACHE_MODE + _SHOWN_DEFAULT,
        {"choices": ["disable", "radix"], "default": "radix"},
    ),
    (
        "--prefill-mode",
        _PREFILL_MODE + _SHOWN_DEFAULT,
        {"choices": ["hybrid", "chunked"], "default": "hybrid"},
    ),
    ("--overrides", _OVERRIDES, {"default": ""}),
    ("--enable-tracing", _TRACING, {"action": "store_true"}),
    ("--host", "host name" + _SHOWN_DEFAULT, {"default": "127.0.0.1"}),
    ("--port", "port" + _SHOWN_DEFAULT, {"type": int, "default": 8000}),
    ("--allow-credentials", "allow credentials", {"action": "store_true"}),
    *(
        (
            f"--allow-{what}",
            f"allowed {what}" + _SHOWN_DEFAULT,
            {"type": json.loads, "default": ["*"]},
        )
        for what in ("origins", "methods", "headers")
    ),
    (
        "--api-key",
        "API key for authentication. If not provided, authentication is disabled.",
        {},
    ),
]


def add_serve_flags(parser: ArgumentParser, parse_overrides: Callable[[str], Any]) -> None:
    """Add to `parser` all that ``mlc_llm serve`` understands.

    Parameters
    ----------
    parser : ArgumentParser
        The parser of the command line.
    parse_overrides : callable
        What parses the value of ``--overrides``.
    """
    for name, text, how in _FLAGS:
        if name == "--overrides":
            how = {**how, "type": parse_overrides}
        # argparse reads help as a format, in which only the default is meant to be one.
        parser.add_argument(name, help=text, **how)
