"""JSON replies fit their schemas; `jsonschema` is the judge."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_mlc_server.sim.json_reply import json_reply

jsonschema = pytest.importorskip("jsonschema")
rstr = pytest.importorskip("rstr")

NODE = {
    "type": "object",
    "properties": {
        "value": {"type": "integer"},
        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
    },
    "required": ["value", "children"],
}
VARIANTS = [
    {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]}
    for kind in ("a", "b")
]

SCHEMAS: dict[str, Any] = {
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}\\d{3}$"},
    "pattern and length": {"type": "string", "pattern": "^a*b?$", "minLength": 3, "maxLength": 5},
    "length": {"type": "string", "minLength": 5, "maxLength": 6},
    **{
        name: {"type": "string", "format": name}
        for name in ("date-time", "date", "time", "email", "uuid", "ipv4", "ipv6", "uri")
    },
    "unique references": {
        "type": "array",
        "items": {"$ref": "#/$defs/digit"},
        "minItems": 2,
        "uniqueItems": True,
        "$defs": {"digit": {"type": "integer", "minimum": 3, "maximum": 9}},
    },
    "all of": {
        "allOf": [
            {"properties": {"x": {"type": "number", "exclusiveMinimum": 0}}, "required": ["x"]},
            {"properties": {"x": {"maximum": 1}, "y": {"enum": [1, 2]}}, "required": ["y"]},
        ]
    },
    "one of": {"oneOf": [{"type": "string", "format": "email"}, {"type": "null"}]},
    "any of objects": {"anyOf": VARIANTS},
    "any of within all of": {"allOf": [{"anyOf": VARIANTS}, {"required": ["more"]}]},
    "an impossible case": {"anyOf": [False, {"type": "integer", "minimum": 2, "maximum": 1}, True]},
    "types": {"type": ["integer", "null"], "multipleOf": 7, "minimum": 10},
    "open limits": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "open whole limits": {"type": "integer", "exclusiveMinimum": -5, "exclusiveMaximum": -3},
    "names of members": {"propertyNames": {"pattern": "^[a-c]+$"}, "minProperties": 2},
    "members": {"type": "object", "minProperties": 3, "additionalProperties": {"type": "boolean"}},
    "recursive": {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
    "recursive root": {"properties": {"next": {"$ref": "#"}}, "type": "object"},
    "old definitions": {"$ref": "#/definitions/a", "definitions": {"a": {"const": 5}}},
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "string"}, {"const": 3}],
        "items": False,
        "minItems": 2,
    },
    "contains": {"type": "array", "contains": {"const": "z"}, "items": {"type": "string"}},
    "two booleans": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2},
    "different choices": {
        "type": "array",
        "items": {"enum": [1, 2, 3]},
        "minItems": 3,
        "uniqueItems": True,
    },
    "different objects": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"key": {"type": "integer"}},
            "required": ["key"],
        },
        "minItems": 3,
        "uniqueItems": True,
    },
    "no type": {"minimum": 5},
    "anything": {},
    "true": True,
}


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize("name", SCHEMAS)
def test_reply_is_valid(name: str, seed: int | None) -> None:
    schema = SCHEMAS[name]
    text = json_reply(json.dumps(schema), seed)
    jsonschema.validate(json.loads(text), schema, cls=jsonschema.Draft202012Validator)
    assert text == json_reply(json.dumps(schema), seed)


def _limited(kind: str, least: str, most: str, limits: st.SearchStrategy[Any]) -> Any:
    return st.lists(limits, min_size=2, max_size=2).map(
        lambda two: {"type": kind, least: min(two), most: max(two)}
    )


LEAVES = st.one_of(
    _limited("integer", "minimum", "maximum", st.integers(-50, 50)),
    _limited("number", "minimum", "maximum", st.floats(-50, 50)),
    _limited("string", "minLength", "maxLength", st.integers(0, 20)),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"enum": ["a", 1, None]}, {}, True]),
)


def _nested(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    members = st.dictionaries(st.text("abc", min_size=1, max_size=3), parts, max_size=4)
    return st.one_of(
        st.builds(
            lambda properties, count: {
                "type": "object",
                "properties": properties,
                "required": sorted(properties)[:count],
                "additionalProperties": False,
            },
            members,
            st.integers(0, 4),
        ),
        st.builds(
            lambda item, two: {
                "type": "array",
                "items": item,
                "minItems": min(two),
                "maxItems": max(two),
            },
            parts,
            st.tuples(st.integers(0, 4), st.integers(0, 4)),
        ),
        st.lists(parts, min_size=1, max_size=3).map(lambda cases: {"anyOf": cases}),
        parts.map(lambda part: {"allOf": [part]}),
    )


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(st.recursive(LEAVES, _nested, max_leaves=10), st.none() | st.integers(0, 9))
def test_reply_to_any_schema_is_valid(schema: Any, seed: int | None) -> None:
    value = json.loads(json_reply(json.dumps(schema), seed))
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "string", "minLength": 2, "maxLength": 1},
        {"type": "string", "pattern": "^(?=x)y$"},
        {"enum": []},
    ],
)
def test_a_schema_that_nothing_fits_is_an_error(schema: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        json_reply(json.dumps(schema))
