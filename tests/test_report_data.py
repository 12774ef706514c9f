"""What a report says of each test, from pytest's reports of its phases, and its JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_mlc_server.reporting.report import attempts, data, record, texts
from tests.support_report import made_up

SCHEMA = Path(record.__file__).with_name("schema.json")


def phase(when: str, outcome: str = "passed", **more: Any) -> pytest.TestReport:
    """Return a report of a phase as pytest makes it."""
    order = {"setup": 0.0, "call": 1.0, "teardown": 2.0}.get(when, 0.0)
    start = 100.0 + order if when != "???" else 0.0
    made = pytest.TestReport(
        nodeid=more.pop("nodeid", "a.py::test"),
        location=("a.py", 0, "test"),
        keywords={},
        outcome=outcome,  # type: ignore[arg-type]
        longrepr=more.pop("longrepr", "E  no" if outcome in ("failed", "rerun") else None),
        when=when,  # type: ignore[arg-type]
        sections=more.pop("sections", ()),
        duration=0.5,
        start=start,
        stop=start + 0.5,
    )
    made.__dict__.update(more)
    return made


@pytest.mark.parametrize(
    ("phases", "outcome", "text"),
    [
        ([phase("setup"), phase("call"), phase("teardown")], "passed", ""),
        ([phase("setup"), phase("call", "failed"), phase("teardown")], "failed", "E  no"),
        ([phase("setup", "failed"), phase("teardown")], "error", "E  no"),
        ([phase("setup"), phase("call"), phase("teardown", "failed")], "error", "E  no"),
        (
            [phase("setup"), phase("call", "failed"), phase("teardown", "failed")],
            "failed",
            "E  no\n\nE  no",
        ),
        (
            [phase("setup", "skipped", longrepr=("a.py", 1, "Skipped: no GPU")), phase("teardown")],
            "skipped",
            "no GPU",
        ),
        (
            [phase("setup"), phase("call", "skipped", wasxfail="known"), phase("teardown")],
            "xfailed",
            "known",
        ),
        (
            [phase("setup"), phase("call", wasxfail="known"), phase("teardown")],
            "xpassed",
            "known",
        ),
        ([phase("setup")], "unfinished", ""),
        ([phase("setup"), phase("???", "failed")], "failed", "E  no"),
        (  # a subtest that fails, in a test that its plugin lets pass
            [phase("setup"), phase("call", "failed", context=1), phase("call"), phase("teardown")],
            "failed",
            "E  no",
        ),
        (
            [phase("setup"), phase("call", "skipped", context=1), phase("call"), phase("teardown")],
            "passed",
            "",
        ),
    ],
)
def test_outcomes(phases: list[pytest.TestReport], outcome: str, text: str) -> None:
    found = attempts.Attempts()
    for one in phases:
        found.add(one)
    assert [(test["outcome"], test["text"]) for test in found.tests] == [(outcome, text)]
    assert found.tests[0]["start"] == 100.0
    assert data.counts(found.tests) == {outcome: 1}


@pytest.mark.parametrize("ends", [True, False], ids=["with a teardown", "without"])
def test_reruns_are_attempts_at_one_test(ends: bool) -> None:
    found = attempts.Attempts()
    first = [phase("setup"), phase("call", "rerun", mlc_cost={"requests": 9})]
    first += [phase("teardown")] * ends
    again = [phase("setup"), phase("call"), phase("teardown")]
    for one in again:
        one.start += 60
        one.stop += 60
    for one in [*first, *again]:
        found.add(one)
    (test,) = found.tests
    assert (test["start"], test["stop"]) == (160.0, 162.5)
    assert (test["outcome"], test["text"], test["cost"]) == ("passed", "", None)
    assert [rerun["text"] for rerun in test["reruns"]] == ["E  no"]


def test_the_same_name_twice_or_on_two_workers_is_two_tests() -> None:
    found = attempts.Attempts()
    whole = ("setup", "call", "teardown")
    for worker in ("gw0", "gw1", "gw1"):
        for when in whole:
            found.add(phase(when, worker_id=worker))
    assert [test["worker"] for test in found.tests] == ["gw0", "gw1", "gw1"]
    assert [set(test["durations"]) for test in found.tests] == [set(whole)] * 3


def test_what_servers_tell_is_taken_and_what_others_capture_is_not() -> None:
    found = attempts.Attempts()
    found.add(phase("setup"))
    sections = [("Captured stdout call", "print"), ("mlc server log (mlc, url)", "line")]
    request = {"path": "/v1/models"}
    more: dict[str, Any] = {"mlc_requests": [request], "mlc_trace": "/t.json"}
    found.add(phase("call", "failed", sections=sections, mlc_cost={"requests": 1}, **more))
    found.add(phase("teardown", "failed", sections=sections))
    (test,) = found.tests
    assert test["sections"] == [{"title": "mlc server log (mlc, url)", "text": "line"}]
    assert (test["cost"], test["requests"], test["trace"]) == (
        {"requests": 1},
        [request],
        "/t.json",
    )


def test_texts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "ALL_TEXTS", 50_000)
    found = attempts.Attempts()
    for number in range(3):
        long = f"begin{'x' * 90_000}end"
        found.add(phase("setup", "failed", nodeid=f"a.py::{number}", longrepr=long))
    first, second, third = (test["text"] for test in found.tests)
    assert len(first) < attempts.LONGEST + 60
    assert first.startswith("begin")
    assert first.endswith("end")
    assert "[... 57240 characters left out ...]" in first
    assert len(second) == len(third) < 460
    assert found.left_out == 2


def test_shares_of_a_budget() -> None:
    assert texts.shares([10, 500, 20, 300], 430) == [10, 200, 20, 200]
    assert texts.shares([10, 20], 100) == [10, 20]
    assert texts.shares([], 5) == []


def test_texts_that_cannot_be_written_or_must_not_be() -> None:
    report = made_up(2, hostile=True, failing=1)
    report["tests"][0]["text"] = "the key sk-1 and \udcff"
    report["tests"][0]["outcome"] = "passed"
    report["tests"][0]["start"] = float("nan")
    cleaned = data.cleaned(report, ["sk-1", "passed"])
    assert cleaned["tests"][0]["text"] == "the key *** and \\udcff"
    assert cleaned["tests"][0]["outcome"] == "passed"
    assert cleaned["tests"][0]["start"] is None
    json.dumps(cleaned, ensure_ascii=False, allow_nan=False).encode()


def test_a_report_fits_its_schema() -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    for report in (made_up(0), made_up(60, failing=0.2, hostile=True)):
        check.validate(json.loads(json.dumps(report)))
    report = made_up(1)
    report["tests"][0]["outcome"] = "maybe"
    assert not check.is_valid(json.loads(json.dumps(report)))


def test_the_schema_names_every_field_of_the_types() -> None:
    defined = json.loads(SCHEMA.read_text())
    parts = {"run": data.Run, "server": data.Server, "test": data.Test, "trouble": data.Trouble}
    for name, type_ in parts.items():
        assert set(defined["$defs"][name]["properties"]) == set(type_.__annotations__)
        assert set(defined["$defs"][name]["required"]) == set(type_.__annotations__)
    assert set(defined["properties"]) == set(data.Report.__annotations__)
    assert tuple(defined["$defs"]["outcome"]["enum"]) == data.OUTCOMES
