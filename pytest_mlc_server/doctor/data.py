"""A diagnosis as JSON: ``schema.json`` beside this file says what it has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pytest_mlc_server.doctor.findings import Diagnosis, Finding, Section
from pytest_mlc_server.doctor.hiding import hide

#: The version of the form.
SCHEMA = 1


def text(diagnosis: Diagnosis, secrets: Sequence[str]) -> str:
    """Return a diagnosis as JSON, all of it in ASCII."""
    shown = {
        "schema": SCHEMA,
        "healthy": diagnosis.healthy,
        "counts": diagnosis.counts(),
        "sections": [_section(section) for section in diagnosis.sections],
        "servers": [
            {
                "engine": server.engine,
                "model": server.model,
                "sections": [_section(section) for section in server.sections],
            }
            for server in diagnosis.servers
        ],
    }
    return json.dumps(_hidden(shown, secrets), indent=2)


def _section(section: Section) -> dict[str, Any]:
    return {
        "name": section.name,
        "findings": [_finding(finding) for finding in section.findings],
        "facts": section.facts,
    }


def _finding(finding: Finding) -> dict[str, str]:
    return {"level": finding.level, **asdict(finding)}


def _hidden(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        return hide(value, secrets)
    if isinstance(value, dict):
        return {name: _hidden(one, secrets) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hidden(one, secrets) for one in value]
    return value
