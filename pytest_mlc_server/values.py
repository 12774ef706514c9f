"""One value by itself: how each setting's text is read, and what is wrong with it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pytest_mlc_server.errors import ConfigError
from pytest_mlc_server.options import BY_NAME, ENGINES, Given

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

#: Device kinds that TVM knows (``tvm.runtime.Device``), upstream's order of detection first.
DEVICE_KINDS = (
    "cuda", "rocm", "metal", "vulkan", "opencl", "cpu",
    "mps", "webgpu", "wgpu", "vpi", "ext_dev", "hexagon", "maia", "trn",
)  # fmt: skip

OverrideValue = int | float | str
AdditionalModel = str | tuple[str, str]

#: As the NVIDIA driver writes it, or a beginning; MIG instances of older drivers have slashes.
_UUID = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/-]+")

_HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_][\w-]{0,62}(\.[A-Za-z0-9_][\w-]{0,62})*\.?", re.ASCII
)

_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)


def written(one: Given) -> str:
    """Return a setting as it was written and where, for an error message."""
    raw = mask(str(one.raw)) if one.setting.name == "api-key" else one.raw
    if one.setting.name == "url":
        raw = mask_url(str(one.raw))
    if one.setting.name == "arg" and isinstance(one.raw, (list, tuple)):
        raw = masked_args([str(argument) for argument in one.raw])
    if one.setting.name == "env" and isinstance(one.raw, (list, tuple)):
        raw = [f"{str(pair).partition('=')[0]}=..." for pair in one.raw]
    return f"{one.setting.name} = {raw!r} (from {one.source})"


def read(one: Given, cwd: str) -> Any:
    """Turn what was written into the value of a field of `ServerConfig`.

    Raises
    ------
    ValueError
        If it cannot be read; the text says what was expected.
    """
    setting, raw = one.setting, one.raw
    if setting.repeatable:
        items = [str(item) for item in (raw if isinstance(raw, (list, tuple)) else [raw])]
        if setting.kind == "path":
            items = [_paths(item, setting.name, one.base, cwd) for item in items]
        if setting.name == "model":
            if len(items) > 1:
                raise ValueError("give one model: only a test run takes several")
            return items[0]
        return dict(_pair(item) for item in items) if setting.kind == "pair" else tuple(items)
    if setting.kind == "path":
        return _paths(str(raw), setting.name, one.base, cwd)
    if setting.kind == "flag":
        return raw if isinstance(raw, bool) else read_bool(str(raw))
    return raw


def read_session(one: Given) -> Any:
    """Read a setting of the test session (`unavailable`, `require`).

    Raises
    ------
    ConfigError
        If it cannot be read.
    """
    setting = one.setting
    try:
        if setting.kind == "choice":
            return _choice(setting.choices)(one.raw)
        if setting.kind == "flag":
            return one.raw if isinstance(one.raw, bool) else read_bool(str(one.raw))
        if setting.kind == "seconds":
            return _seconds(one.raw)
        if setting.kind == "devices":
            return visible_devices(one.raw)
        if setting.kind == "path":
            return _reports(read(one, "")) if setting.repeatable else read(one, "")
        if setting.kind == "address":
            return _address(one.raw)
        return _positive_count(one.raw) if setting.name == "max-servers" else _count(one.raw)
    except ValueError as error:
        raise ConfigError(f"{written(one)}: {error}") from None


def _reports(paths: tuple[str, ...]) -> tuple[str, ...]:
    for path in paths:
        if not path.endswith((".html", ".json")):
            raise ValueError(f"expected a file that ends in .html or .json, not {path!r}")
    return paths


def read_bool(text: str) -> bool:
    """Read yes or no, in the words that pytest takes in ini files."""
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on", "y", "t"):
        return True
    if word in ("0", "false", "no", "off", "n", "f"):
        return False
    raise ValueError("expected true or false")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"{name!r}: expected NAME=VALUE")
    return name, value


def _paths(text: str, name: str, base: str, cwd: str) -> str:
    if name == "additional-model":
        path, comma, library = text.partition(",")
        return _path(path, base, cwd) + comma + (_path(library, base, cwd) if comma else "")
    if name == "python" and not os.path.dirname(text):
        return text  # a command, looked up on PATH
    return _path(text, base, cwd)


def _path(text: str, base: str, cwd: str) -> str:
    """Keep a path as it was written if it means the same to the server, else make it absolute.

    The model's path is also the model's id, so it is not rewritten without need.
    """
    if "://" in text or os.path.isabs(text) or not text:
        return text
    if text.startswith("~"):
        return os.path.expanduser(text)
    if os.path.normpath(base) == os.path.normpath(cwd):
        return text
    return os.path.normpath(os.path.join(base, text))


def nearest(word: str, known: Sequence[str]) -> str:
    """Return a hint at the known word that is nearest, or nothing."""
    import difflib  # only a mistake needs it

    matches = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def mask(secret: str | None) -> str | None:
    """Return a stand-in for a secret."""
    return "***" if secret else secret


def mask_url(url: str) -> str:
    """Return a URL without the name and password that may stand in it."""
    return re.sub(r"//[^/@]*@", "//***@", url)


def masked_args(arguments: Sequence[str]) -> list[str]:
    """Return a copy of a command line in which the API key is masked, however it is spelled."""
    shown: list[str] = []
    secret = False
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        key = not secret and len(flag) > len("--a") and "--api-key".startswith(flag)
        shown.append("***" if secret else f"{flag}=***" if key and equals else argument)
        secret = key and not equals
    return shown


def masked_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return a copy in which the values of variables whose name looks secret are masked."""
    return {k: "***" if _SECRET_NAME.search(str(k)) else v for k, v in env.items()}


def secrets_of(api_key: str | None, env: Mapping[str, str]) -> list[str]:
    """Return the values that must not be shown: the key, and those of variables named like one."""
    values = [value for name, value in env.items() if _SECRET_NAME.search(str(name))]
    # Shorter ones would blot out half of a log, and are no secrets.
    return [value for value in [api_key or "", *values] if len(value) >= 4]


def hide(text: str, hidden: Sequence[str]) -> str:
    """Return a text in which secrets are masked."""
    for value in hidden:
        text = text.replace(value, "***")
    return text


def device_string(device: object) -> str:
    """Turn a device, a string or a ``tvm.runtime.Device``, into the string that TVM reads.

    Raises
    ------
    ValueError
        If it is no device.
    """
    if not isinstance(device, str):
        kind, index = getattr(device, "type", None), getattr(device, "index", None)
        if not hasattr(device, "dlpack_device_type") or not isinstance(kind, str):
            raise ValueError("expected a string such as 'cuda:1' or a tvm.runtime.Device")
        device = f"{kind}:{index}"
    if device == "auto":
        return device
    kind, colon, index = device.partition(":")
    if kind not in DEVICE_KINDS:
        raise ValueError(
            f"unknown device kind {kind!r}; known are auto, {', '.join(DEVICE_KINDS[:6])}"
            + nearest(kind, DEVICE_KINDS)
        )
    if colon and not index.isdecimal():
        raise ValueError(f"{index!r} is no device index; expected for example '{kind}:0'")
    return device


def visible_devices(value: object) -> str | tuple[str, ...]:
    """Read ``auto``, or devices as ``CUDA_VISIBLE_DEVICES`` names them.

    Raises
    ------
    ValueError
        If the list is empty, names one twice, or an item is neither an index nor a UUID.
    """
    expected = "expected 'auto', or GPUs such as '0,1,2,3' (indices, or UUIDs: GPU-..., MIG-...)"
    text = str(value).strip()
    if text == "auto":
        return text
    items = [item.strip() for item in text.split(",")]
    if items == [""]:
        raise ValueError(f"the list is empty; {expected}")
    result: list[str] = []
    for item in items:
        if not (item.isascii() and item.isdigit()) and not _UUID.fullmatch(item):
            raise ValueError(f"{item!r} is no GPU; {expected}{nearest(item, ('auto',))}")
        name = str(int(item)) if item.isdigit() else item
        if name in result:
            raise ValueError(f"{name} is listed twice; to share GPUs: --mlc-share-devices")
        result.append(name)
    return tuple(result)


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


_NAMES = {int: "a whole number", float: "a number", str: "a text"}


def unknown_overrides(overrides: Mapping[str, object]) -> list[str]:
    """Return the keys that this package does not know; an installed mlc_llm may be newer."""
    return [key for key in overrides if key not in OVERRIDES]


def unknown_override_text(key: str) -> str:
    """Return what to say of an unknown key in overrides."""
    return f"unknown key {key!r} in overrides{nearest(key, tuple(OVERRIDES))}"


def _overrides(value: Any) -> dict[str, OverrideValue]:
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


def _choice(choices: tuple[str, ...], *, optional: bool = True) -> Any:
    def convert(value: Any) -> Any:
        if value in choices or (value is None and optional):
            return value
        raise ValueError(f"expected one of {', '.join(choices)}" + nearest(str(value), choices))

    return convert


def _engine(value: Any) -> Any:
    return _choice(ENGINES)(value)


def _port(value: Any) -> int | str:
    expected = "expected 'auto' or a port from 1 to 65535"
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(expected)
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        raise ValueError(expected)
    number = int(value)
    if number > 65535 or number < 0:
        raise ValueError(expected)
    return number or "auto"  # port 0 is how sockets spell "auto"


def _seconds(value: Any) -> float:
    expected = "expected a number of seconds, 0 or more"
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise ValueError(expected) from None
    if not seconds >= 0 or isinstance(value, bool) or math.isinf(seconds):
        raise ValueError(expected)
    return seconds


def _positive_seconds(value: Any) -> float:
    seconds = _seconds(value)
    if seconds == 0:
        raise ValueError("expected a number of seconds above 0")
    return seconds


def _count(value: Any) -> int:
    if isinstance(value, bool) or not str(value).strip().isdecimal():
        raise ValueError("expected a whole number, 0 or more")
    return int(str(value))


def _positive_count(value: Any) -> int:
    count = 0 if isinstance(value, bool) or not str(value).strip().isdecimal() else int(str(value))
    if not count:
        raise ValueError("expected a whole number, 1 or more")
    return count


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text:
        raise ValueError("expected a text that is not empty")
    if "\0" in text:
        raise ValueError("a NUL character cannot be passed to a process")
    return text


def _api_key(value: Any) -> str | None:
    key = _text(value)
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ValueError("an HTTP header must hold it: printable ASCII characters")
    return key


def _model(value: Any) -> str | None:
    text = _text(value)
    if text is not None and text.startswith("-"):
        raise ValueError("`mlc_llm serve` would take this for a flag; write ./ before it")
    return text


def _host(value: Any) -> str:
    text = _text(value)
    if text is None or any(c.isspace() or c in "/@?#" for c in text):
        raise ValueError("expected a host name or an IP address")
    return text.strip("[]")


def _address(value: Any) -> str:
    """Read the name or address of a host, without a scheme and without a port."""
    import ipaddress  # 3 ms that few sessions need

    text = str(value).strip()
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        if not _HOST_NAME.fullmatch(text) or text.rpartition(".")[2].isdecimal():
            raise ValueError(
                "expected a host name or an IP address, without a scheme and without a port"
            ) from None
        return text
    if address.is_unspecified:
        raise ValueError("expected one address of this host, and this stands for all of them")
    return bare


def _url(value: Any) -> str | None:
    text = _text(value)
    if text is None:
        return None
    parts = urlsplit(text)
    _ = parts.port  # raises ValueError where it is no number
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected a URL such as http://127.0.0.1:8000")
    return text.rstrip("/").removesuffix("/v1")


def _args(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ValueError("expected a list of arguments, not one text")
    if not all(isinstance(item, str) and "\0" not in item for item in value):
        raise ValueError("expected a list of texts")
    return tuple(value)


def _env(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    pairs = value if isinstance(value, Mapping) else dict(value)
    for name, text in pairs.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ValueError(f"{name!r} is no name of an environment variable")
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(f"the value of {name} is no text")
    return dict(pairs)


def additional_models(value: Any) -> tuple[AdditionalModel, ...]:
    """Read additional models: each a path, ``PATH,LIB`` or a pair.

    Raises
    ------
    ValueError
        If one is none of these.
    """
    if isinstance(value, str):
        raise ValueError("expected a list of models, not one text")
    result: list[AdditionalModel] = []
    for item in value or ():
        parts = tuple(item.split(",", 1)) if isinstance(item, str) else tuple(map(os.fspath, item))
        if len(parts) not in (1, 2) or not all(parts):
            raise ValueError(f"{item!r} is neither PATH nor PATH,LIB")
        result.append(parts[0] if len(parts) == 1 else (parts[0], parts[1]))
    return tuple(result)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected True or False")
    return value


def _mode(value: Any) -> str:
    result: str = _choice(BY_NAME["mode"].choices)(value if value is not None else "local")
    return result


#: How each field of `ServerConfig` is checked and converted.
CONVERTERS: dict[str, Any] = {
    "engine": _engine,
    "url": _url,
    "model": _model,
    "model_lib": _text,
    "device": device_string,
    "mode": _mode,
    "overrides": _overrides,
    "additional_models": additional_models,
    "embedding_model": _text,
    "embedding_model_lib": _text,
    "speculative_mode": _choice(BY_NAME["speculative-mode"].choices),
    "prefix_cache_mode": _choice(BY_NAME["prefix-cache-mode"].choices),
    "prefill_mode": _choice(BY_NAME["prefill-mode"].choices),
    "host": _host,
    "port": _port,
    "api_key": _api_key,
    "enable_debug": _flag,
    "enable_tracing": _flag,
    "args": _args,
    "env": _env,
    "python": _text,
    "launch": _choice(BY_NAME["launch"].choices, optional=False),
    "sim_script": _text,
    "cwd": _text,
    "ready": _choice(BY_NAME["ready"].choices, optional=False),
    "startup_timeout": _positive_seconds,
    "startup_limit": _positive_seconds,
    "stop_timeout": _seconds,
    "log_dir": _text,
    "log_live": _flag,
}
