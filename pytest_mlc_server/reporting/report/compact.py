"""What the page's script gets: the tests as rows of an array, small enough for thousands.

The script's names for the places of a row are in ``templates/model.js``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pytest_mlc_server.reporting.report import texts, timeline
from pytest_mlc_server.reporting.report.data import BAD, OUTCOMES, Report, Test
from pytest_mlc_server.reporting.report.timeline import Timeline

#: Characters of all failures' texts, and requests of all tests, that a page holds at most.
TEXTS, REQUESTS = 1_300_000, 18_000

#: Characters of a test's name and of what a request says that a page holds at most.
NAME, WORD = 240, 160


def drawn(tests: Sequence[Test]) -> dict[int, Sequence[dict[str, Any]]]:
    """Return the requests that the page holds, by the index of their test.

    Where there are too many, each test keeps as many of its first as all can have, those that went
    wrong before the others.
    """
    found: dict[int, Sequence[dict[str, Any]]] = {}
    room = REQUESTS
    for bad in (True, False):
        indices = [n for n, test in enumerate(tests) if (test["outcome"] in BAD) is bad]
        sizes = [len(tests[index]["requests"]) for index in indices]
        for index, many in zip(indices, texts.shares(sizes, room), strict=True):
            if many:
                found[index] = tests[index]["requests"][:many]
                room -= many
    return found


class Compact:
    """The rows, and the tables that they refer to.

    Parameters
    ----------
    report
        The run.
    lanes
        Its timeline.
    requests
        The requests that are shown, from `drawn`.
    path
        Where the page is going to be.
    """

    def __init__(
        self,
        report: Report,
        lanes: Timeline,
        requests: Mapping[int, Sequence[dict[str, Any]]],
        path: str,
    ) -> None:
        self._report = report
        self._lanes = lanes
        self._requests = requests
        self._directory = os.path.dirname(path)
        self._words: dict[str, int] = {}
        self._servers: dict[str, int] = {}
        for index, server in enumerate(report["servers"]):
            for url in (server["base_url"], *server["urls"]):
                self._servers.setdefault(url, index)
        self.labels = timeline.labels(report["servers"])
        self.cut: list[str] = []

    def json(self) -> str:
        """Return it as JSON that may stand inside a ``script`` element."""
        tests = self._report["tests"]
        details = self._details(tests)
        self._note_requests(tests)
        rows = [self._row(index, test) for index, test in enumerate(tests)]
        data = {
            "start": self._lanes.start * 1000,
            "length": self._lanes.length,
            "outcomes": OUTCOMES,
            "bad": BAD,
            "servers": [texts.visible(label) for label in self.labels],
            "lanes": [self._lane(lane) for lane in self._lanes.lanes],
            "tests": rows,
            "details": details,
            "words": [texts.visible(word) for word in self._words],
        }
        return embedded(data)

    def _lane(self, lane: Any) -> dict[str, Any]:
        parts = [[_ms(a), _ms(b), texts.visible(t), kind] for a, b, t, kind in lane.parts]
        return {
            "kind": lane.kind,
            "label": self._shown(lane.label),
            "y": lane.y,
            "h": lane.height,
            "p": parts,
        }

    def _shown(self, label: str) -> str:
        return texts.visible(shortened(label, WORD))

    def _word(self, text: str, limit: int = WORD) -> int:
        return self._words.setdefault(shortened(text, limit), len(self._words))

    def _row(self, index: int, test: Test) -> list[Any]:
        durations = [
            _ms(test["durations"][phase] * 1000) if phase in test["durations"] else None
            for phase in ("setup", "call", "teardown")
        ]
        start = _ms((test["start"] - self._lanes.start) * 1000)
        return [
            self._word(test["file"]),
            texts.visible(shortened(test["name"], NAME)),
            OUTCOMES.index(test["outcome"]),
            self._word(test["worker"]),
            start,
            _ms((test["stop"] - test["start"]) * 1000),
            durations,
            self._cost(test),
            self._own_requests(index, test),
            len(test["requests"]),
            self._link(test["trace"]),
            len(test["reruns"]),
        ]

    def _cost(self, test: Test) -> list[Any] | int:
        cost = test["cost"]
        if cost is None:
            return 0
        each = cost.get("servers") or []
        servers = [self._server(str(one.get("server", ""))) for one in each]
        shared = str(cost.get("shared") or cost.get("note") or "")
        names = ("requests", "errors", "prompt_tokens", "completion_tokens")
        return [
            *(cost.get(name) for name in names),
            _short(cost.get("ttft_s")),
            int(bool(cost.get("ttft_at_least"))),
            _short(cost.get("tokens_per_s")),
            self._word(shared),
            servers,
        ]

    def _server(self, url: str) -> int:
        if url not in self._servers:
            # Not handed over, because its worker ended early, or under another of its ports.
            self._servers[url] = len(self.labels)
            self.labels.append(url)
        return self._servers[url]

    def _own_requests(self, index: int, test: Test) -> list[Any]:
        rows = self._lanes.rows.get(index)
        shown = self._requests.get(index, ())
        return [
            [
                self._word(f"{request.get('method') or ''} {request.get('path') or ''}".strip()),
                request.get("status"),
                None
                if request.get("start") is None
                else _ms((request["start"] - test["start"]) * 1000),
                None if request.get("seconds") is None else _ms(request["seconds"] * 1000),
                _short(request.get("ttft_s")),
                request.get("prompt_tokens"),
                request.get("completion_tokens"),
                self._word(str(request.get("error") or "")),
                self._word(str(request.get("source") or "")),
                rows[place] if rows else -1,
            ]
            for place, request in enumerate(shown)
        ]

    def _note_requests(self, tests: Sequence[Test]) -> None:
        every = sum(len(test["requests"]) for test in tests)
        shown = sum(map(len, self._requests.values()))
        if shown < every:
            self.cut.append(f"{every - shown} of {every} requests are not listed")

    def _details(self, tests: Sequence[Test]) -> dict[str, list[Any]]:
        with_text = [index for index, test in enumerate(tests) if test["text"] or test["sections"]]
        sizes = [_size(tests[index]) for index in with_text]
        given = texts.shares(sizes, TEXTS)
        shortened = sum(part < size for part, size in zip(given, sizes, strict=True))
        if shortened:
            self.cut.append(f"the texts of {shortened} tests are shortened in the middle")
        return {
            str(index): self._detail(tests[index], part)
            for index, part in zip(with_text, given, strict=True)
        }

    def _detail(self, test: Test, room: int) -> list[Any]:
        parts = [test["text"], *(section["text"] for section in test["sections"])]
        given = texts.shares([_encoded(part) for part in parts], room)
        shown = [
            texts.visible(texts.bounded(part, len(part) * share // max(_encoded(part), 1)))
            for part, share in zip(parts, given, strict=True)
        ]
        titles = [texts.visible(section["title"]) for section in test["sections"]]
        return [shown[0], list(zip(titles, shown[1:], strict=True))]

    def _link(self, trace: str | None) -> list[str] | int:
        """Return a trace's address as seen from the page, and its name."""
        if trace is None:
            return 0
        relative = os.path.relpath(trace, self._directory)
        # Without any sign that could make it another kind of address.
        return [f"./{quote(relative)}", texts.visible(os.path.basename(trace))]


def embedded(data: Any) -> str:
    """Return JSON in which nothing ends the element that it stands in, or begins a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def shortened(text: str, limit: int) -> str:
    """Return one line with its middle left out."""
    if len(text) <= limit:
        return text
    half = limit // 2 - 1
    return f"{text[:half]} … {text[-half:]}"


def _encoded(text: str) -> int:
    """Return how many bytes of the page a text takes, near enough."""
    escaped = sum(map(text.count, '"\\\n\t')) + 5 * sum(map(text.count, "<>&"))
    return len(text.encode()) + escaped


def _size(test: Test) -> int:
    return _encoded(test["text"]) + sum(
        _encoded(section["text"]) + len(section["title"]) for section in test["sections"]
    )


def _ms(value: float) -> float:
    """Return milliseconds with one digit after the point, as an integer where that is nothing."""
    rounded = round(value, 1)
    return int(rounded) if rounded == int(rounded) else rounded


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
