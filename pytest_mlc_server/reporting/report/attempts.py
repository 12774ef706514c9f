"""From pytest's reports of a test's phases to one entry for the test."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import pytest

from pytest_mlc_server.reporting.report import texts
from pytest_mlc_server.reporting.report.data import BAD, Rerun, Section, Test

#: Characters of a failure's text and of one section that are kept at most.
LONGEST = 32_768

#: Characters of all texts of a run that are kept at most; then they are left out.
ALL_TEXTS = 32_000_000


class Attempts:
    """The tests of a run, from the reports of their phases in the order in which these come."""

    def __init__(self) -> None:
        self.tests: list[Test] = []
        self.left_out = 0
        """Failures and sections whose text is not kept, because there is too much of it."""
        self._room = ALL_TEXTS
        self._open: dict[tuple[str, str], Test] = {}

    def add(self, report: pytest.TestReport) -> None:
        """Take a report of a phase."""
        test = self._entry(report)
        if str(report.outcome) == "rerun":  # pytest-rerunfailures: the next attempt follows
            test["reruns"].append(_attempt(test, self._failure(report)))
            _begin_again(test)
            return
        if report.when == "teardown" and test["reruns"] and "setup" not in test["durations"]:
            return  # of the attempt before
        if test["reruns"] and not test["durations"]:
            test["start"] = report.start  # not before what was waited for between the two
        subtest = getattr(report, "context", None) is not None
        phase = str(report.when)
        if phase in ("setup", "call", "teardown") and not subtest:
            test["durations"][phase] = report.duration
        if not subtest or report.failed:  # one of several passed or skipped: not the test
            self._take(test, report, phase)
        self._take_extras(test, report)
        if phase == "teardown":
            self._open.pop((test["worker"], test["nodeid"]), None)
            if test["outcome"] == "unfinished":
                test["outcome"] = "passed"

    def _entry(self, report: pytest.TestReport) -> Test:
        """Return the entry of the report's test, begun where there is none."""
        key = (worker_of(report), report.nodeid)
        # What xdist makes up for a crash has no times, or 0.
        start = getattr(report, "start", 0) or time.time()
        stop = max(getattr(report, "stop", 0), start)
        if key not in self._open:
            self._open[key] = _new(report, key[0], start)
            self.tests.append(self._open[key])
        test = self._open[key]
        test["start"], test["stop"] = min(test["start"], start), max(test["stop"], stop)
        return test

    def _take(self, test: Test, report: pytest.TestReport, phase: str) -> None:
        expected = hasattr(report, "wasxfail")
        if report.failed:
            came_to = "error" if phase in ("setup", "teardown") else "failed"
            if test["outcome"] not in ("failed", "error"):
                test["outcome"] = came_to
            text = self._failure(report)
            test["text"] = f"{test['text']}\n\n{text}" if test["text"] else text
            self._take_sections(test, report)
        elif test["outcome"] in BAD[:2]:
            return
        elif report.skipped:
            test["outcome"] = "xfailed" if expected else "skipped"
            test["text"] = str(report.wasxfail) if expected else _reason(report)
        elif expected and phase == "call":
            test["outcome"], test["text"] = "xpassed", str(report.wasxfail)

    def _failure(self, report: pytest.TestReport) -> str:
        text = getattr(report, "mlc_text", None) or report.longreprtext
        return self._kept(str(text))

    def _kept(self, text: str) -> str:
        text = texts.bounded(text, LONGEST)
        if len(text) > self._room:
            self.left_out += 1
            return texts.bounded(text, 400)
        self._room -= len(text)
        return text

    def _take_sections(self, test: Test, report: pytest.TestReport) -> None:
        known = {(one["title"], one["text"]) for one in test["sections"]}
        for title, text in _own(report.sections):
            section = Section(title=title, text=self._kept(text))
            if (section["title"], section["text"]) not in known:
                test["sections"].append(section)

    def _take_extras(self, test: Test, report: pytest.TestReport) -> None:
        extras = report.__dict__
        if extras.get("mlc_cost"):
            test["cost"] = dict(extras["mlc_cost"])
        if extras.get("mlc_requests"):
            test["requests"] = [dict(one) for one in extras["mlc_requests"]]
        if extras.get("mlc_trace"):
            test["trace"] = str(extras["mlc_trace"])


def worker_of(report: Any) -> str:
    """Return the id of the pytest-xdist worker that a report came from; empty without xdist."""
    gateway = getattr(getattr(report, "node", None), "gateway", None)
    return str(getattr(report, "worker_id", "") or getattr(gateway, "id", ""))


def _own(sections: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    return (one for one in sections if one[0].startswith("mlc "))


def _reason(report: pytest.TestReport) -> str:
    longrepr = report.longrepr
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr or "")
    return texts.bounded(text.removeprefix("Skipped: "), 400)


def _new(report: pytest.TestReport, worker: str, start: float) -> Test:
    file, _, name = report.nodeid.partition("::")
    return Test(
        nodeid=report.nodeid,
        file=file,
        name=name or file,
        worker=worker,
        outcome="unfinished",
        start=start,
        stop=start,
        durations={},
        text="",
        sections=[],
        cost=None,
        requests=[],
        trace=None,
        reruns=[],
    )


def _attempt(test: Test, text: str) -> Rerun:
    return Rerun(start=test["start"], stop=test["stop"], text=text)


def _begin_again(test: Test) -> None:
    test["outcome"], test["durations"], test["text"] = "unfinished", {}, ""
    test["sections"], test["requests"], test["cost"], test["trace"] = [], [], None, None
