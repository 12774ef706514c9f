"""The run as lanes over time: what the SVG of the page is drawn from.

A unit of x is a millisecond of the run and a unit of y a pixel. All bars of one kind in a lane are
one path, so that five thousand tests are a few elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_mlc_server.reporting.report.data import Report, Server, Start, Test

#: Pixels: a server's lane, a worker's row of tests, one of its rows of requests, and gaps.
SERVER, TEST, REQUEST, GAP = 20, 20, 5, 8

#: Requests of a worker that are drawn one below the other at most.
ROWS = 6

#: Phases of a start whose colour a reader recognises.
PHASES = ("launching", "detecting devices", "downloading", "compiling", "loading", "binding")


@dataclass
class Lane:
    """A server, or the tests of a worker.

    Attributes
    ----------
    kind
        ``server`` or ``worker``.
    label
        Its name at the left.
    y, height
        Where it is.
    paths
        SVG path data by CSS class, in the order of drawing.
    parts
        Of a server: start, end, text and class of each bar, for whoever points at it.
    """

    kind: str
    label: str
    y: int
    height: int
    index: int = 0
    paths: dict[str, list[str]] = field(default_factory=dict)
    parts: list[tuple[float, float, str, str]] = field(default_factory=list)

    def bar(self, kind: str, start: float, end: float, top: int, height: int) -> None:
        """Draw a bar."""
        y = self.y + top
        path = f"M{number(start)} {y}h{number(max(end - start, 0))}v{height}H{number(start)}z"
        self.paths.setdefault(kind, []).append(path)


@dataclass
class Timeline:
    """All lanes."""

    start: float
    """Epoch seconds at x = 0."""
    length: float
    """Milliseconds."""
    height: int
    lanes: list[Lane]
    phases: list[tuple[str, str]]
    """Phases that occur, with their classes, for the legend."""
    rows: dict[int, list[int]]
    """For each test with requests that are drawn: the row of each, or -1."""


def labels(servers: Sequence[Server]) -> list[str]:
    """Return a short name for each server, which no other one has."""
    found = [_short(server["model"]) or server["base_url"] for server in servers]
    for more in ("worker", "device", "base_url", "id"):
        seen = list(found)
        for index, label in enumerate(seen):
            if seen.count(label) > 1 and servers[index][more]:
                found[index] = f"{_short(servers[index]['model'])} {servers[index][more]}"
    return found


def _short(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2].removesuffix("-MLC")


def number(value: float) -> str:
    """Return a number as short as a tenth of a millisecond allows."""
    return f"{value:.1f}".removesuffix(".0")


def timeline(report: Report, drawn: Mapping[int, Sequence[dict[str, Any]]]) -> Timeline:
    """Lay out a run.

    Parameters
    ----------
    report
        The run.
    drawn
        Requests of each test, by the test's index, that are to be drawn.
    """
    start = report["run"]["started_at"]
    ends = [report["run"]["ended_at"], *(test["stop"] for test in report["tests"])]
    length = max(1.0, (max(ends) - start) * 1000)
    found = Timeline(start, length, 0, [], [], {})
    names = labels(report["servers"])
    y = GAP // 2
    for index, server in enumerate(report["servers"]):
        lane = Lane("server", names[index], y, SERVER, index)
        _draw_server(lane, server, found)
        found.lanes.append(lane)
        y += SERVER + GAP
    for worker, indices in _by_worker(report["tests"]).items():
        lane = Lane("worker", worker or "tests", y, TEST)
        rows = _draw_worker(lane, report["tests"], indices, drawn, found)
        lane.height += rows * REQUEST + (2 if rows else 0)
        found.lanes.append(lane)
        y += lane.height + GAP
    found.height = y
    used = {(text, kind) for lane in found.lanes for _, _, text, kind in lane.parts}
    found.phases = sorted(((t, k) for t, k in used if k.startswith("phase")), key=lambda p: p[1])
    return found


def _draw_server(lane: Lane, server: Server, found: Timeline) -> None:
    end = found.length if server["ended_at"] is None else _x(found, server["ended_at"])
    starts = server["starts"] or _only_start(server)
    for place, begun in enumerate(starts):
        until = _x(found, starts[place + 1]["at"]) if place + 1 < len(starts) else end
        ready = _draw_start(lane, begun, found)
        broke = [one["at"] for one in server["incidents"] if one.get("at") is not None]
        # Between its end and its next start a server serves nobody.
        over = min([_x(found, at) for at in broke if ready <= _x(found, at) <= until] + [until])
        if over > ready:
            _part(lane, ready, over, "serving", "serving")
    for incident in server["incidents"]:
        if incident.get("at") is not None:
            x = _x(found, incident["at"])
            lane.paths.setdefault("incident", []).append(f"M{number(x)} {lane.y}v{SERVER}")
            text = str(incident.get("text", "")).partition("\n")[0]
            lane.parts.append((x, x, text, "incident"))


def _only_start(server: Server) -> list[Start]:
    begin, ready = server["launched_at"], server["ready_at"]
    if begin is None:
        return []
    seconds = sum(server["phases"].values()) if ready is None else ready - begin
    return [Start(at=begin, seconds=seconds, phases=server["phases"])]


def _draw_start(lane: Lane, begun: Start, found: Timeline) -> float:
    """Draw the phases of a start, and return when it was over."""
    at = (begun["at"] - found.start) * 1000
    ready = at + begun["seconds"] * 1000
    for name, seconds in begun["phases"].items():
        # The phases of a start that was measured on another clock must not reach beyond it.
        until = min(at + seconds * 1000, ready)
        if until > max(at, 0.0):  # what was before the run is not of the run
            _part(lane, max(at, 0.0), min(until, found.length), name, phase_class(name))
        at = until
    return min(max(ready, 0.0), found.length)


def _part(lane: Lane, start: float, end: float, text: str, kind: str) -> None:
    lane.bar(kind, start, end, 0, SERVER)
    lane.parts.append((start, end, text, kind))


def phase_class(name: str) -> str:
    """Return the CSS class of a phase."""
    return f"phase{PHASES.index(name)}" if name in PHASES else "phase9"


def _by_worker(tests: Sequence[Test]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, test in enumerate(tests):
        found.setdefault(test["worker"], []).append(index)
    # gw2 before gw10.
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


def _draw_worker(
    lane: Lane,
    tests: Sequence[Test],
    indices: Iterable[int],
    drawn: Mapping[int, Sequence[dict[str, Any]]],
    found: Timeline,
) -> int:
    """Draw a worker's tests and what they asked; return how many rows the requests take."""
    rows = 0
    for place, index in enumerate(indices):
        test = tests[index]
        start, stop = _x(found, test["start"]), _x(found, test["stop"])
        call = test["durations"].get("call", 0.0) * 1000
        begin = start + test["durations"].get("setup", 0.0) * 1000
        for rerun in test["reruns"]:
            lane.bar("rerun", _x(found, rerun["start"]), _x(found, rerun["stop"]), 0, TEST)
        # Neighbours differ a little, so that one sees where a test ends.
        kind = f"{test['outcome']} {'odd' if place % 2 else 'even'}"
        lane.bar(f"around {kind}", start, stop, 0, TEST)
        if call:
            lane.bar(kind, begin, min(begin + call, stop), 0, TEST)
        rows = max(rows, _draw_requests(lane, drawn.get(index, ()), index, found))
    order = {"around": 0, "rerun": 1, "passed": 2, "skipped": 2}
    paths = sorted(lane.paths.items(), key=lambda item: order.get(item[0].split()[0], 3))
    lane.paths = dict(paths)
    return rows


def _draw_requests(
    lane: Lane, requests: Sequence[dict[str, Any]], index: int, found: Timeline
) -> int:
    ends: list[float] = []
    taken: list[int] = []
    for request in requests:
        if request.get("start") is None:
            taken.append(-1)
            continue
        start = _x(found, request["start"])
        end = start + (request.get("seconds") or 0.0) * 1000
        free = [row for row, ended in enumerate(ends) if ended <= start]
        row = free[0] if free else min(len(ends), ROWS - 1)
        if row == len(ends):
            ends.append(end)
        ends[row] = max(end, ends[row])
        taken.append(row)
        top = TEST + 2 + row * REQUEST
        lane.bar("wrong" if _is_wrong(request) else "request", start, end, top, REQUEST - 1)
    if any(row >= 0 for row in taken):
        found.rows[index] = taken
    return len(ends)


def _is_wrong(request: Mapping[str, Any]) -> bool:
    return bool(request.get("error")) or (request.get("status") or 200) >= 400


def _x(found: Timeline, epoch: float) -> float:
    return min(max(0.0, (epoch - found.start) * 1000), found.length)
