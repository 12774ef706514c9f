"""The reference of the report names every field that the JSON Schema does."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reference" / "report.md").read_text(encoding="utf-8")
SCHEMA = json.loads(
    (ROOT / "pytest_mlc_server" / "reporting" / "report" / "schema.json").read_text()
)


def test_every_field_is_told() -> None:
    told = set(re.findall(r"`(\w+)`", PAGE))
    fields = set(SCHEMA["properties"])
    for part in SCHEMA["$defs"].values():
        fields |= set(part.get("properties", ()))
    assert fields - told == set()


def test_every_outcome_and_source_is_told() -> None:
    definitions = SCHEMA["$defs"]
    words = definitions["outcome"]["enum"] + definitions["request"]["properties"]["source"]["enum"]
    for word in words:
        assert f"`{word}`" in PAGE
