"""Which JSON schemas a real engine cannot take: it dies of them."""

from __future__ import annotations

import json
import time
from typing import Any

_CONVERTER = "3rdparty/xgrammar/cpp/json_schema_converter.cc"
_DEFINITIONS = "#/$defs/"
_TYPES = ("integer", "number", "string", "boolean", "null", "array", "object")


class _UnconvertibleError(Exception):
    """What the converter of schemas says."""


def schema_death(text: str | None) -> str | None:
    """Return the last words of a real engine that is given this schema, None if it can take it.

    Parameters
    ----------
    text : str or None
        The text of the schema; None for none.
    """
    if text is None:
        return None
    try:
        root = json.loads(text)
    except ValueError as error:
        return _said(1045, _syntax_error(text, error))
    try:
        _visit(root, root, ())
    except _UnconvertibleError as error:
        return str(error)
    return None


def _visit(schema: Any, root: Any, above: tuple[str, ...]) -> None:
    """Go through a schema as the converter does; what it does not look at may be anything."""
    if schema is True:
        return
    if schema is False:
        raise _UnconvertibleError(_said(509, "Check failed: (schema.get<bool>()) is false: "))
    if not isinstance(schema, dict):
        raise _mismatch()
    if "$ref" in schema:
        _visit_reference(schema["$ref"], root, above)
    elif "const" in schema:
        return
    elif "enum" in schema:
        _expect(schema["enum"], list)
    elif "anyOf" in schema:
        for case in _expect(schema["anyOf"], list):
            _visit(case, root, above)
    elif "type" in schema:
        _visit_type(schema, root, above)


def _visit_reference(reference: Any, root: Any, above: tuple[str, ...]) -> None:
    name = _expect(reference, str)
    # A schema within itself is left alone; and what stands elsewhere is taken for any value.
    if name in above or not name.startswith(_DEFINITIONS):
        return
    definitions = _expect(root.get("$defs") if isinstance(root, dict) else None, dict)
    target = definitions.get(name.removeprefix(_DEFINITIONS))
    if not isinstance(target, bool):
        _expect(target, dict)
    _visit(target, root, (*above, name))


def _visit_type(schema: dict[str, Any], root: Any, above: tuple[str, ...]) -> None:
    kind = _expect(schema["type"], str)
    if kind not in _TYPES:
        shown = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
        raise _UnconvertibleError(_said(556, f"Unsupported type {kind} in schema {shown}"))
    if kind == "object":
        _expect(schema.get("required", []), list)
        for member in _expect(schema.get("properties", {}), dict).values():
            _visit(member, root, above)
        _visit(schema.get("additionalProperties") or True, root, above)
    elif kind == "array":
        for item in _expect(schema.get("prefixItems", []), list):
            _visit(_expect(item, dict), root, above)
        _visit(schema.get("items") or True, root, above)


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise _mismatch()
    return value


def _mismatch() -> _UnconvertibleError:
    return _UnconvertibleError('"type mismatch! call is<type>() before get<type>()" && is<T>()')


def _said(line: int, what: str) -> str:
    return f"[{time.strftime('%H:%M:%S')}] {_CONVERTER}:{line}: {what}\n"


def _syntax_error(text: str, error: ValueError) -> str:
    """Say what is wrong as the real engine's parser does: where it stopped reading."""
    position = error.pos if isinstance(error, json.JSONDecodeError) else len(text)
    # That parser has read the letter by which it saw that something is wrong.
    rest = text[position + 1 :]
    line = text.count("\n", 0, position) + 1
    return (
        "Check failed: (err.empty()) is false: Failed to parse JSON: syntax error at line"
        f" {line} near: {rest}. The JSON string is:{text}"
    )
