"""The tables of the simulator's rules and of its client, from docstrings."""

from __future__ import annotations

import inspect
import re
from typing import get_args

from docs.generating.docstrings import description, section, summary
from pytest_mlc_server import MLCSim, Reply, Rule, SimRequest, When
from pytest_mlc_server.sim import rule_base, rule_faults, rule_replies, rules
from pytest_mlc_server.simulator.faults import Faults

_REGION = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

#: Models of the script file, by the name that a page has for their table.
MODELS = {
    "rule": rules.Rule,
    "match": rule_base.Match,
    "reply": rule_replies.Reply,
    "door_fault": rule_faults.DoorFault,
    "latency": rules.Latency,
    "default": rules.Default,
    "start": rules.Start,
    "imitate": rules.Imitate,
}

#: Classes of the client, by their names.
CLASSES = {kind.__name__: kind for kind in (MLCSim, When, Rule, Reply, SimRequest, Faults)}

#: Methods that only other classes of the package use.
INTERNAL = {"answered", "expect_death", "from_record", "shown"}


def with_tables(page: str) -> str:
    """Return a page with its tables as the code says."""
    return _REGION.sub(lambda region: f"{region[1]}{_table(region[2])}{region[3]}", page)


def _table(name: str) -> str:
    if name in MODELS:
        return _keys(MODELS[name])
    if name == "faults":
        return _faults()
    if name == "conditions":
        return _rows("condition", section(MLCSim.when.__doc__ or "", "Parameters"))
    if name in CLASSES:
        return _members(CLASSES[name])
    raise SystemExit(f"docs/generate.py: there is no table {name}")


def _rows(head: str, entries: dict[str, str]) -> str:
    rows = [f"| {head} | meaning |", "|---|---|"]
    rows += [f"| {_names(names)} | {text} |" for names, text in entries.items()]
    return "\n".join(rows) + "\n"


def _names(names: str) -> str:
    return ", ".join(f"`{name.strip()}`" for name in names.split(","))


def _keys(model: type) -> str:
    entries = section(model.__doc__ or "", "Attributes")
    told = {name.strip() for names in entries for name in names.split(",")}
    fields = {field.alias or name for name, field in model.model_fields.items()}  # type: ignore[attr-defined]
    if told != fields:
        raise SystemExit(f"docs/generate.py: {model.__name__} does not tell {told ^ fields}")
    return _rows("key", entries)


def _faults() -> str:
    rows = ["| kind | what happens | keys |", "|---|---|---|"]
    for model in get_args(rule_faults.Fault):
        kind = model.model_fields["kind"].default
        keys = section(model.__doc__ or "", "Attributes")
        missing = set(model.model_fields) - {"kind", *", ".join(keys).split(", ")}
        if missing:
            raise SystemExit(f"docs/generate.py: {model.__name__} does not tell {missing}")
        told = "<br>".join(f"{_names(names)}: {text}" for names, text in keys.items())
        rows.append(f"| `{kind}` | {description(model.__doc__ or '')} | {told} |")
    return "\n".join(rows) + "\n"


def _members(kind: type) -> str:
    entries = {}
    attributes = section(kind.__doc__ or "", "Attributes")
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        if name.startswith("_") or name in INTERNAL:
            continue
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if not inspect.isfunction(function):
            continue
        shown = name if isinstance(member, property) else f"{name}{_signature(function)}"
        entries[shown] = summary(function.__doc__ or "")
    rows = ["| | |", "|---|---|"]
    rows += [f"| {_names(names)} | {text} |" for names, text in attributes.items()]
    rows += [f"| `{shown}` | {text} |" for shown, text in entries.items()]
    return "\n".join(rows) + "\n"


def _signature(function: object) -> str:
    """Return what a call takes, without annotations."""
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    bare = [p.replace(annotation=p.empty) for p in parameters if p.name != "self"]
    return str(inspect.Signature(bare)).replace("|", "\\|")
