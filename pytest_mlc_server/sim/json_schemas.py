"""JSON schemas taken apart: references followed, ``allOf`` put together, limits read."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

# What goes round in circles is cut here.
_MAX_REFERENCES = 32

_GREATEST = ("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum", "minContains")
_SMALLEST = ("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum")
_NESTED = ("items", "additionalProperties", "propertyNames", "contains")

_TYPE_OF_KEYWORD = {
    "object": ("properties", "required", "additionalProperties", "minProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "contains"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


class UnsatisfiableError(ValueError):
    """No value was found that fits a schema."""


@dataclass(frozen=True)
class Bounds:
    """What limits a number; an open limit is not allowed itself."""

    low: float
    high: float
    low_open: bool
    high_open: bool

    def allow(self, value: float) -> bool:
        """Tell whether `value` lies between the limits."""
        above = value > self.low or (value == self.low and not self.low_open)
        below = value < self.high or (value == self.high and not self.high_open)
        return above and below


def merged(schema: dict[str, Any], root: Any) -> dict[str, Any]:
    """Return `schema` without ``$ref`` and ``allOf``.

    Parameters
    ----------
    schema : dict
        A part of `root`.
    root : Any
        The schema in which references are looked up.

    Raises
    ------
    UnsatisfiableError
        Its parts contradict each other.
    """
    for _ in range(_MAX_REFERENCES):
        parts: list[Any] = list(schema.get("allOf", ()))
        if "$ref" in schema:
            parts.append(_referred(schema["$ref"], root))
        if not parts:
            return schema
        schema = {name: schema[name] for name in schema if name not in ("allOf", "$ref")}
        for part in parts:
            schema = _both(schema, part)
    # It refers to itself and to nothing else: anything fits.
    return {}


def bounds_of(schema: dict[str, Any]) -> Bounds:
    """Return the limits that `schema` sets to a number."""
    low, open_low = schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf)
    high, open_high = schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf)
    return Bounds(
        max(low, open_low),
        min(high, open_high),
        low_open=open_low >= low and open_low > -math.inf,
        high_open=open_high <= high and open_high < math.inf,
    )


def guessed_type(schema: dict[str, Any]) -> str:
    """Return the type that the keywords of a schema without one are about."""
    for kind, keywords in _TYPE_OF_KEYWORD.items():
        if any(keyword in schema for keyword in keywords):
            return kind
    return "object"


def is_among(value: Any, others: list[Any]) -> bool:
    """Tell whether `value` is one of `others` for JSON, where true is not 1."""
    return any(_canonical(value) == _canonical(other) for other in others)


def without_first_choices(schema: Any, others: list[Any]) -> Any:
    """Return `schema` without those values of its ``enum`` that are among `others`."""
    if not isinstance(schema, dict) or "enum" not in schema:
        return schema
    return {**schema, "enum": [value for value in schema["enum"] if not is_among(value, others)]}


def _referred(reference: Any, root: Any) -> Any:
    """Follow a reference within the document; what stands elsewhere is anything."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return True
    target = root
    for key in reference[1:].split("/")[1:]:
        name = key.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and name.isdigit() and int(name) < len(target):
            target = target[int(name)]
        elif isinstance(target, dict) and name in target:
            target = target[name]
        else:
            return True
    return target


def _both(left: dict[str, Any], right: Any) -> dict[str, Any]:
    """Return a schema that asks for what both ask for."""
    if right is False:
        raise UnsatisfiableError("nothing fits the schema")
    if not isinstance(right, dict):
        return left
    result = dict(left)
    for keyword, value in right.items():
        result[keyword] = _combined(keyword, left[keyword], value) if keyword in left else value
    if "const" in result and "enum" in result and not is_among(result["const"], result["enum"]):
        raise UnsatisfiableError("const and enum contradict each other")
    return result


def _combined(keyword: str, left: Any, right: Any) -> Any:
    if keyword == "type":
        return _common_types(left, right)
    if keyword == "enum":
        return [value for value in left if is_among(value, right)]
    if keyword == "const" and not is_among(left, [right]):
        raise UnsatisfiableError("two constants contradict each other")
    if keyword in _GREATEST:
        return max(left, right)
    if keyword in _SMALLEST:
        return min(left, right)
    if keyword == "required":
        return [*left, *(name for name in right if name not in left)]
    if keyword == "properties":
        return left | {
            name: {"allOf": [left[name], value]} if name in left else value
            for name, value in right.items()
        }
    if keyword in ("anyOf", "oneOf"):
        return [{"allOf": [one, other]} for one in left for other in right]
    if keyword == "allOf":
        return [*left, *right]
    if keyword in _NESTED:
        return {"allOf": [left, right]}
    if keyword == "multipleOf" and isinstance(left, int) and isinstance(right, int):
        return math.lcm(left, right)
    return right


def _common_types(left: Any, right: Any) -> Any:
    lefts = [left] if isinstance(left, str) else left
    rights = [right] if isinstance(right, str) else right
    common = [kind for kind in lefts if kind in rights]
    if not common and "integer" in [*lefts, *rights] and "number" in [*lefts, *rights]:
        common = ["integer"]
    if not common:
        raise UnsatisfiableError("the types contradict each other")
    return common[0] if len(common) == 1 else common


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
