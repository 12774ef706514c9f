"""The reply to a request for JSON: a value that fits the schema, always the same one."""

from __future__ import annotations

import json
import math
import random
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.sim.json_schemas import (
    Bounds,
    UnsatisfiableError,
    bounds_of,
    guessed_type,
    is_among,
    merged,
    without_first_choices,
)
from pytest_mlc_server.sim.json_strings import make_string

if TYPE_CHECKING:
    from collections.abc import Callable

# Deep enough for any schema that ends; one that goes round in circles is cut here.
_MAX_DEPTH = 24

# From here on only what is required is made.
_FULL_DEPTH = 6

_ANY_OBJECT = {"answer": "simulated"}

_SMALL = 10


def json_reply(schema: str | None, seed: int | None = None) -> str:
    """Return a JSON object, or, with a JSON schema, a value made to fit it.

    Parameters
    ----------
    schema : str or None
        The text of a JSON schema.
    seed : int or None
        What the values follow from; None for the plainest ones.

    Raises
    ------
    ValueError
        `schema` is not JSON, or nothing fits it.
    """
    if schema is None:
        return json.dumps(_ANY_OBJECT)
    root = json.loads(schema)
    return json.dumps(_Maker(root, seed).make(root, 0), ensure_ascii=False)


class _Maker:
    """Makes values that fit the parts of one schema.

    Parameters
    ----------
    root : Any
        The whole schema, in which references are looked up.
    seed : int or None
        What the values follow from; None for the plainest ones.
    """

    def __init__(self, root: Any, seed: int | None) -> None:
        self._root = root
        self._random = None if seed is None else random.Random(seed)  # noqa: S311 (no cipher)

    def make(self, schema: Any, depth: int) -> Any:
        """Return a value that fits `schema`."""
        if schema is False or depth > _MAX_DEPTH:
            raise UnsatisfiableError("nothing fits the schema")
        if not isinstance(schema, dict):
            return {} if depth == 0 else None
        schema = merged(schema, self._root)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._choose(schema["enum"])
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._first_that_can_be_made(schema, keyword, depth)
        return self._of_type(schema, depth)

    def _first_that_can_be_made(self, schema: dict[str, Any], keyword: str, depth: int) -> Any:
        rest = {name: value for name, value in schema.items() if name != keyword}
        cases = list(schema[keyword])
        if self._random is not None:
            self._random.shuffle(cases)
        for case in cases:
            try:
                return self.make({**rest, "allOf": [*rest.get("allOf", []), case]}, depth + 1)
            except UnsatisfiableError:
                continue
        raise UnsatisfiableError(f"no case of {keyword} can be met")

    def _of_type(self, schema: dict[str, Any], depth: int) -> Any:
        kinds = schema.get("type", guessed_type(schema))
        kind = self._choose(kinds) if isinstance(kinds, list) else kinds
        makers: dict[str, Callable[[], Any]] = {
            "object": lambda: self._object(schema, depth),
            "array": lambda: self._array(schema, depth),
            "string": lambda: make_string(schema, self._random),
            "integer": lambda: self._number(schema, whole=True),
            "number": lambda: self._number(schema, whole=False),
            "boolean": lambda: bool(self._random and self._random.random() < 0.5),
            "null": lambda: None,
        }
        return makers[kind]()

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        members = schema.get("properties", {})
        required = schema.get("required", [])
        # In the order of the schema, as the real engine's grammar has them.
        names = [*members, *(name for name in required if name not in members)]
        made: dict[str, Any] = {}
        for name in names:
            if name not in required and not self._wants_optional(schema, len(made), depth):
                continue
            try:
                made[name] = self.make(self._member(schema, name), depth + 1)
            except UnsatisfiableError:
                if name in required:
                    raise
        return self._with_more_members(schema, made, depth)

    def _wants_optional(self, schema: dict[str, Any], members: int, depth: int) -> bool:
        if members >= schema.get("maxProperties", math.inf) or depth >= _FULL_DEPTH:
            return False
        return members < schema.get("minProperties", 0) or (
            self._random is not None and self._random.random() < 0.5
        )

    def _with_more_members(
        self, schema: dict[str, Any], made: dict[str, Any], depth: int
    ) -> dict[str, Any]:
        """Add members that the schema does not name, where it asks for more."""
        number = 0
        while len(made) < schema.get("minProperties", 0):
            number += 1
            if number > _MAX_DEPTH:
                raise UnsatisfiableError("there are not enough names for the members")
            name_schema = schema.get("propertyNames")
            name = f"member{number}"
            if isinstance(name_schema, dict):
                # Other letters for each, where the schema leaves any open.
                other = _Maker(self._root, number)
                name = str(other.make({"minLength": 1, "type": "string", **name_schema}, 1))
            if name not in made:
                made[name] = self.make(self._member(schema, name), depth + 1)
        return made

    def _member(self, schema: dict[str, Any], name: str) -> Any:
        members = schema.get("properties", {})
        return members[name] if name in members else schema.get("additionalProperties", True)

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        prefix = schema.get("prefixItems", [])
        least = schema.get("minItems", 0)
        if "contains" in schema:
            least = max(least, len(prefix) + schema.get("minContains", 1))
        most = schema.get("maxItems", math.inf)
        length = max(least, min(len(prefix), most))
        if self._random is not None and depth < _FULL_DEPTH and not schema.get("uniqueItems"):
            length = int(min(most, length + self._random.randrange(3)))
        items: list[Any] = []
        for index in range(int(length)):
            item = self._item_schema(schema, prefix, index)
            try:
                items.append(self._another(item, items if schema.get("uniqueItems") else [], depth))
            except UnsatisfiableError:
                if index < least:
                    raise
                break
        return items

    def _item_schema(self, schema: dict[str, Any], prefix: list[Any], index: int) -> Any:
        if index < len(prefix):
            return prefix[index]
        item = schema.get("items", True)
        if "contains" in schema and index < len(prefix) + schema.get("minContains", 1):
            return {"allOf": [item, schema["contains"]]}
        return item

    def _another(self, schema: Any, others: list[Any], depth: int) -> Any:
        """Return a value that is not one of `others`."""
        value = self.make(schema, depth + 1)
        if not is_among(value, others):
            return value
        for seed in range(len(others) * 4 + 16):
            value = _Maker(self._root, seed).make(without_first_choices(schema, others), depth + 1)
            if not is_among(value, others):
                return value
        raise UnsatisfiableError("there are not enough different items")

    def _number(self, schema: dict[str, Any], *, whole: bool) -> float:
        bounds = bounds_of(schema)
        step = schema.get("multipleOf")
        if whole and (step is None or int(step) != step):
            # Of a fraction's multiples, the whole ones are multiples of its numerator.
            step = 1 if step is None else math.lcm(1, step.as_integer_ratio()[0])
        if step is None:
            return self._between(bounds)
        first = math.ceil(bounds.low / step) if bounds.low > -math.inf else None
        last = math.floor(bounds.high / step) if bounds.high < math.inf else None
        if first is not None and bounds.low_open and first * step <= bounds.low:
            first += 1
        if last is not None and bounds.high_open and last * step >= bounds.high:
            last -= 1
        if first is not None and last is not None and first > last:
            raise UnsatisfiableError("no number lies between the limits")
        # In decimal, where a tenth is a tenth.
        value = Decimal(str(step)) * self._whole_between(first, last)
        return int(value) if value == int(value) else float(value)

    def _whole_between(self, first: int | None, last: int | None) -> int:
        low = first if first is not None else min(0, 0 if last is None else last - _SMALL)
        high = last if last is not None else max(low, 0) + _SMALL
        if self._random is not None:
            return self._random.randint(low, min(high, low + 10**6))
        return min(max(0, low), high)

    def _between(self, bounds: Bounds) -> float:
        low, high = bounds.low, bounds.high
        if low > high or (low == high and (bounds.low_open or bounds.high_open)):
            raise UnsatisfiableError("no number lies between the limits")
        if self._random is None:
            for plain in (0, low, high):
                if math.isfinite(plain) and bounds.allow(plain):
                    return plain
        inner_low = low if low > -math.inf else min(0.0, high) - _SMALL
        inner_high = high if high < math.inf else max(0.0, inner_low) + _SMALL
        share = 0.5 if self._random is None else self._random.uniform(0.25, 0.75)
        value = inner_low + share * (inner_high - inner_low)
        return round(value, 2) if bounds.allow(round(value, 2)) else value

    def _choose(self, values: list[Any]) -> Any:
        if not values:
            raise UnsatisfiableError("there is nothing to choose from")
        return values[0] if self._random is None else self._random.choice(values)
