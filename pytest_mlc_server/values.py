"""One value by itself: how each field of `ServerConfig` is checked, and what is wrong with it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pytest_mlc_server.errors import nearest
from pytest_mlc_server.options import BY_NAME, ENGINES
from pytest_mlc_server.overrides import read_overrides

#: Device kinds that TVM knows (``tvm.runtime.Device``), upstream's order of detection first.
DEVICE_KINDS = (
    "cuda", "rocm", "metal", "vulkan", "opencl", "cpu",
    "mps", "webgpu", "wgpu", "vpi", "ext_dev", "hexagon", "maia", "trn",
)  # fmt: skip

AdditionalModel = str | tuple[str, str]


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


def choice(choices: tuple[str, ...], *, optional: bool = True) -> Any:
    """Make what checks that a value is one of several."""

    def convert(value: Any) -> Any:
        if value in choices or (value is None and optional):
            return value
        raise ValueError(f"expected one of {', '.join(choices)}" + nearest(str(value), choices))

    return convert


def _engine(value: Any) -> Any:
    return choice(ENGINES)(value)


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


def seconds(value: Any) -> float:
    """Read a time, 0 or more.

    Raises
    ------
    ValueError
        If it is none.
    """
    expected = "expected a number of seconds, 0 or more"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(expected) from None
    if not number >= 0 or isinstance(value, bool) or math.isinf(number):
        raise ValueError(expected)
    return number


def _positive_seconds(value: Any) -> float:
    number = seconds(value)
    if number == 0:
        raise ValueError("expected a number of seconds above 0")
    return number


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
    result: str = choice(BY_NAME["mode"].choices)(value if value is not None else "local")
    return result


#: How each field of `ServerConfig` is checked and converted.
CONVERTERS: dict[str, Any] = {
    "engine": _engine,
    "url": _url,
    "model": _model,
    "model_lib": _text,
    "device": device_string,
    "mode": _mode,
    "overrides": read_overrides,
    "additional_models": additional_models,
    "embedding_model": _text,
    "embedding_model_lib": _text,
    "speculative_mode": choice(BY_NAME["speculative-mode"].choices),
    "prefix_cache_mode": choice(BY_NAME["prefix-cache-mode"].choices),
    "prefill_mode": choice(BY_NAME["prefill-mode"].choices),
    "host": _host,
    "port": _port,
    "api_key": _api_key,
    "enable_debug": _flag,
    "enable_tracing": _flag,
    "args": _args,
    "env": _env,
    "python": _text,
    "launch": choice(BY_NAME["launch"].choices, optional=False),
    "sim_script": _text,
    "cwd": _text,
    "ready": choice(BY_NAME["ready"].choices, optional=False),
    "startup_timeout": _positive_seconds,
    "startup_limit": _positive_seconds,
    "stop_timeout": seconds,
    "log_dir": _text,
    "log_live": _flag,
}
