"""What was written, on the command line and elsewhere, and what it means as a value."""

from __future__ import annotations

import os
import re
from typing import Any

from pytest_mlc_server.errors import ConfigError, nearest
from pytest_mlc_server.masking import mask, mask_url, masked_args
from pytest_mlc_server.options import Given
from pytest_mlc_server.values import choice, seconds

#: As the NVIDIA driver writes it, or a beginning; MIG instances of older drivers have slashes.
_UUID = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/-]+")

_HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_][\w-]{0,62}(\.[A-Za-z0-9_][\w-]{0,62})*\.?", re.ASCII
)


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
            return choice(setting.choices)(one.raw)
        if setting.kind == "flag":
            return one.raw if isinstance(one.raw, bool) else read_bool(str(one.raw))
        if setting.kind == "seconds":
            return seconds(one.raw)
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


def _count(value: Any) -> int:
    if isinstance(value, bool) or not str(value).strip().isdecimal():
        raise ValueError("expected a whole number, 0 or more")
    return int(str(value))


def _positive_count(value: Any) -> int:
    count = 0 if isinstance(value, bool) or not str(value).strip().isdecimal() else int(str(value))
    if not count:
        raise ValueError("expected a whole number, 1 or more")
    return count


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
