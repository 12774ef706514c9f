"""What is wrong with a model's files: configuration, tokenizer, weights, library.

Only what makes the real server fail is a problem here. What cannot be told is left to the server.
"""

from __future__ import annotations

import json
import os
import platform
import struct
import sys
from collections.abc import Iterator
from typing import Any

CONFIG = "mlc-chat-config.json"

#: The list of weights, and its name before TVM renamed it.
WEIGHTS = ("tensor-cache.json", "ndarray-cache.json")

#: Keys of the configuration whose product is the number of GPUs that the model runs on.
PARALLEL = ("tensor_parallel_shards", "pipeline_parallel_stages")

#: Files of which one is enough for a tokenizer (upstream's ``cpp/tokenizers/tokenizers.cc``); the
#: tuple needs all of its files.
TOKENIZERS = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("merges.txt", "vocab.json", "added_tokens.json"),
    ("tokenizer_model",),
)

#: Names of this machine's architecture in the headers of shared libraries.
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183, "riscv64": 243, "ppc64le": 21, "s390x": 22}
_MACH_MACHINES = {"x86_64": 0x01000007, "arm64": 0x0100000C}


def weights_bytes(path: str) -> int | None:
    """Return the bytes of a model's weights, as their list names them; None without a list.

    Parameters
    ----------
    path
        The model's directory.
    """
    for name in WEIGHTS:
        loaded, problem = _load(os.path.join(path, name))
        if not problem and isinstance(loaded, dict) and isinstance(loaded.get("records"), list):
            sizes = [r.get("nbytes") for r in loaded["records"] if isinstance(r, dict)]
            return sum(size for size in sizes if isinstance(size, int))
    return None


def parallelism(path: str) -> dict[str, int]:
    """Return how many shards and stages a model's configuration asks for, where it says so.

    Parameters
    ----------
    path
        The model's directory.
    """
    loaded, _ = _load(os.path.join(path, CONFIG))
    outer = loaded if isinstance(loaded, dict) else {}
    inner = outer.get("model_config")
    # The outer ones win, as in upstream's `mlc_llm/interface/jit.py`.
    merged = {**(inner if isinstance(inner, dict) else {}), **outer}
    return {key: merged[key] for key in PARALLEL if isinstance(merged.get(key), int)}


def model_problems(path: str, *, weights: bool) -> Iterator[str]:
    """Yield what is wrong with a model directory.

    Parameters
    ----------
    path
        The directory.
    weights
        Whether the engine loads weights.
    """
    if not os.path.exists(path):
        yield f"there is no directory {os.path.abspath(path)}"
        return
    if not os.path.isdir(path):
        yield f"this is a file; give the model's directory, {os.path.dirname(path) or '.'}"
        return
    config_path = os.path.join(path, CONFIG)
    if not os.path.isfile(config_path):
        yield (
            f"the directory has no {CONFIG}; `mlc_llm gen_config` makes one, and "
            "`mlc_llm convert_weight` the weights"
        )
        return
    config, problem = _load(config_path)
    if problem:
        yield problem
    elif not isinstance(config, dict):
        yield f"{config_path} is no JSON object; make it anew with `mlc_llm gen_config`"
    else:
        yield from _tokenizer_problems(path, config)
    if weights:
        yield from _weights_problems(path)


def _load(path: str) -> tuple[Any, str]:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file), ""
    except OSError as error:
        return None, f"cannot read {path}: {error.strerror}"
    except (ValueError, RecursionError) as error:  # thousands of brackets, in a file that is none
        return None, f"{path} is not valid JSON ({error}); copy or make it anew"


def _tokenizer_problems(path: str, config: dict[str, Any]) -> Iterator[str]:
    if any(all(os.path.exists(os.path.join(path, f)) for f in files) for files in TOKENIZERS):
        return
    named = config.get("tokenizer_files")
    names = [str(name) for name in named] if isinstance(named, list) else []
    missing = [name for name in names if not os.path.exists(os.path.join(path, name))]
    yield (
        f"there is no tokenizer in {path}: {', '.join(missing or ['tokenizer.json'])} "
        f"{'are' if len(missing) > 1 else 'is'} missing; copy the tokenizer's files there, "
        "`mlc_llm gen_config` does"
    )


def _weights_problems(path: str) -> Iterator[str]:
    lists = [os.path.join(path, name) for name in WEIGHTS]
    found = next((name for name in lists if os.path.isfile(name)), None)
    if found is None:
        yield f"there are no weights: {lists[0]} is missing; `mlc_llm convert_weight` makes it"
        return
    loaded, problem = _load(found)
    if problem:
        yield problem
        return
    records = loaded.get("records") if isinstance(loaded, dict) else None
    for record in records if isinstance(records, list) else ():
        name = record.get("dataPath") if isinstance(record, dict) else None
        if isinstance(name, str):
            yield from _shard_problems(os.path.join(path, name), record.get("nbytes"), found)


def _shard_problems(shard: str, wanted: object, named_in: str) -> Iterator[str]:
    again = "download or convert the weights again"
    try:
        size = os.stat(shard).st_size
    except OSError:
        # The real server waits for ever after this one.
        yield f"the weights shard {shard} is missing, which {named_in} names; {again}"
        return
    if isinstance(wanted, int) and size != wanted:
        hint = ""
        if size < 1024:
            hint = " (a Git LFS pointer? run `git lfs pull`)"
        yield f"the weights shard {shard} has {size} bytes instead of {wanted}{hint}; {again}"


def library_problem(path: str) -> str | None:
    """Return why a file cannot be a model library of this machine; None if it may be one."""
    if not os.path.isfile(path):
        return f"there is no file {os.path.abspath(path)}"
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"
    machine = platform.machine()
    if sys.platform.startswith("linux"):
        return _elf_problem(path, head, machine)
    if sys.platform == "darwin":
        return _mach_problem(path, head, machine)
    return None


def _elf_problem(path: str, head: bytes, machine: str) -> str | None:
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return f"{path} is no shared library of Linux ({_guess(head)}); compile it here"
    order = "<" if head[5] == 1 else ">"
    kind, target = struct.unpack_from(f"{order}HH", head, 16)
    known = _ELF_MACHINES.get(machine)
    if known is not None and target != known:
        names = {number: name for name, number in _ELF_MACHINES.items()}
        other = names.get(target, f"machine {target}")
        return f"{path} is compiled for {other}, and this machine is {machine}; compile it here"
    if kind != 3:  # ET_DYN
        return f"{path} is no shared library, but another kind of ELF file; compile it to .so"
    return None


def _mach_problem(path: str, head: bytes, machine: str) -> str | None:
    magic = head[:4]
    if magic in (b"\xca\xfe\xba\xbe", b"\xca\xfe\xba\xbf"):
        return None  # a library for several machines
    if magic != b"\xcf\xfa\xed\xfe" or len(head) < 8:
        return f"{path} is no shared library of macOS ({_guess(head)}); compile it here"
    (target,) = struct.unpack_from("<I", head, 4)
    known = _MACH_MACHINES.get(machine)
    if known is not None and target != known:
        return f"{path} is compiled for another machine than {machine}; compile it here"
    return None


def _guess(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if head[:4] in (b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"):
        return "it is one of macOS"
    if head[:2] == b"MZ":
        return "it is one of Windows"
    if head.startswith(b"\x7fELF"):
        return "it is one of Linux"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: run `git lfs pull`"
    if head.startswith((b"!<arch>", b"\x1f\x8b")):
        return "it is an archive"
    return "its header is that of no known library"
