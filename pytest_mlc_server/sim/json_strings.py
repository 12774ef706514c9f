"""Strings that fit a JSON schema."""

from __future__ import annotations

import math
import random
import re
from typing import Any

from pytest_mlc_server.sim.json_schemas import UnsatisfiableError

_FORMATS = {
    "date-time": "2025-01-01T00:00:00Z",
    "date": "2025-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "user@example.com",
    "idn-email": "user@example.com",
    "hostname": "example.com",
    "idn-hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uri-reference": "https://example.com/",
    "iri": "https://example.com/",
    "iri-reference": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "json-pointer": "/example",
    "relative-json-pointer": "0",
    "regex": ".*",
}

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_LONGEST = 12

# How many strings are made of a pattern until one has the right length.
_ATTEMPTS = 200


def make_string(schema: dict[str, Any], choice: random.Random | None = None) -> str:
    """Return a string that fits `schema`.

    A ``pattern`` is met with the package rstr. Without it, the pattern is left aside, as the real
    engine leaves it aside.

    Parameters
    ----------
    schema : dict
        A schema of type ``string``.
    choice : random.Random or None
        What the string follows from; None for the plainest one.

    Raises
    ------
    UnsatisfiableError
        No string was found.
    """
    least, most = int(schema.get("minLength", 0)), schema.get("maxLength", math.inf)
    if least > most:
        raise UnsatisfiableError("no string has the length")
    if "pattern" in schema:
        made = _of_pattern(schema["pattern"], least, most, choice)
        if made is not None:
            return made
    known = _FORMATS.get(schema.get("format", ""))
    if known is not None and least <= len(known) <= most:
        return known
    if choice is None:
        return "x" * least
    length = choice.randint(least, int(min(most, least + _LONGEST)))
    return "".join(choice.choices(_LETTERS, k=length))


def _of_pattern(pattern: str, least: int, most: float, choice: random.Random | None) -> str | None:
    try:
        import rstr
    except ImportError:
        return None
    maker = rstr.Rstr(choice or random.Random(0))  # noqa: S311 (no cipher)
    try:
        compiled = re.compile(pattern)
        for _ in range(_ATTEMPTS):
            made = maker.xeger(pattern)
            if least <= len(made) <= most and compiled.search(made):
                return str(made)
    except (re.error, KeyError, ValueError) as error:
        raise UnsatisfiableError(f"no string for the pattern {pattern}: {error}") from error
    raise UnsatisfiableError(f"no string was found for the pattern {pattern}")
