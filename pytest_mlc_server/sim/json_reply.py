"""The reply to a request for JSON: the smallest value that fits the schema, always the same."""

from __future__ import annotations

import json
from typing import Any

# Deep enough for any schema that ends; one that goes round in circles is cut here.
_MAX_DEPTH = 32

_ANY_OBJECT = {"const": {"answer": "simulated"}}


def json_reply(schema: str | None) -> str:
    """Return a JSON object, or, with a JSON schema, a value made to fit it.

    Keywords that limit a value beyond its type, its choices and its required members are not
    looked at.

    Parameters
    ----------
    schema : str or None
        The text of a JSON schema.

    Raises
    ------
    ValueError
        `schema` is not JSON.
    """
    root: Any = _ANY_OBJECT if schema is None else json.loads(schema)
    return json.dumps(_example(root, root, 0), ensure_ascii=False)


def _example(schema: Any, root: Any, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return {} if depth == 0 else None
    schema = _resolve(schema, root)
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    if schema.get("enum"):
        return schema["enum"][0]
    for keyword in ("anyOf", "oneOf", "allOf"):
        if schema.get(keyword):
            return _example(schema[keyword][0], root, depth + 1)
    return _of_type(schema, root, depth)


def _of_type(schema: dict[str, Any], root: Any, depth: int) -> Any:
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        members = schema.get("properties", {})
        required = schema.get("required", [])
        return {name: _example(members.get(name, {}), root, depth + 1) for name in required}
    if kind == "array":
        item = schema.get("items", {})
        return [_example(item, root, depth + 1) for _ in range(schema.get("minItems", 0))]
    if kind == "string":
        return "x" * schema.get("minLength", 0)
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    return False if kind == "boolean" else None


def _resolve(schema: dict[str, Any], root: Any) -> dict[str, Any]:
    """Follow a ``$ref`` within the document."""
    for _ in range(_MAX_DEPTH):
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            break
        target = root
        for key in reference.lstrip("#").split("/")[1:]:
            target = target.get(key, {}) if isinstance(target, dict) else {}
        schema = target if isinstance(target, dict) else {}
    return schema
