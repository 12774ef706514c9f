"""The page as a file: what is in it, what is left out, and that nothing in it is markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("jinja2")

from pytest_mlc_server.reporting.report import charts, compact, data, figures, page, texts, timeline
from tests.support_report import HOSTILE, MODELS, START, made_up

MEGABYTE = 1_000_000


class Seen(HTMLParser):
    """Collects the elements and attributes of a page, as a browser would read it."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.comments: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def seen(text: str) -> Seen:
    parser = Seen()
    parser.feed(text)
    parser.close()
    return parser


def data_of(text: str) -> Any:
    """Return the data that the page's script gets."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_hostile_names_are_text_everywhere() -> None:
    report = made_up(12, hostile=True, failing=1)
    for name in HOSTILE:
        server = report["servers"][0]
        server.update({"model": name, "base_url": name, "device": name, "log": name})
        server["phases"] = {name: 1.0}
        server["incidents"] = [{"test": name, "text": name, "outcome": name, "at": START + 2}]
        report["run"]["ended"] = report["run"]["root"] = name
        report["run"]["versions"] = {name: name}
        report["run"]["settings"] = [{"name": name, "value": name, "source": name}]
        report["collection_errors"] = [{"where": name, "text": name}]
        report["tests"][0].update({"worker": name, "trace": f"/a/{name}"})
        plain = seen(page.page(made_up(12, failing=1), "/a/report.html"))
        text = page.page(data.cleaned(report, []), "/a/report.html")
        attacked = seen(text)
        assert set(attacked.elements) <= set(plain.elements) | {"details", "summary", "pre"}
        assert attacked.elements.count("script") == 2
        assert not attacked.comments
        assert not set("<>&") & set(text.split('id="data">')[1].split("</script>")[0])
        assert not [one for one in attacked.attributes if one[0].startswith("on")]
        assert "\0" not in text
        assert "\x1b" not in text
        assert "\u2028" not in text.split('id="data"')[1]
        text.encode()  # no lone surrogate
        shown = json.dumps(data_of(text), ensure_ascii=False)
        assert json.dumps(texts.visible(texts.clean(name)), ensure_ascii=False)[1:-1] in shown


def test_a_page_asks_for_nothing_from_elsewhere() -> None:
    found = seen(page.page(made_up(5), "/a/report.html"))
    policy = next(value for _, value in found.attributes if "default-src" in value)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    addresses = [value for name, value in found.attributes if name in ("src", "href", "action")]
    assert addresses
    assert all(one.startswith(("#", "data:")) for one in addresses)


def test_links_to_traces_are_relative_and_quoted() -> None:
    report = made_up(3)
    trace = {"a": "/runs/out/a b%.json", "b": "/runs/javascript:x.json", "c": "/else/c.json"}
    for test, path in zip(report["tests"], trace.values(), strict=True):
        test["trace"] = path
    links = [row[10] for row in data_of(page.page(report, "/runs/report.html"))["tests"]]
    assert [link[0] for link in links] == [
        "./out/a%20b%25.json",
        "./javascript%3Ax.json",
        "./../else/c.json",
    ]


@pytest.mark.parametrize(
    ("how", "limit"),
    [({}, 2.5), ({"failing": 1, "text": 4, "hostile": True}, 5.0)],
    ids=["usual", "all fail with long texts"],
)
def test_five_thousand_tests_make_a_small_page(how: dict[str, Any], limit: float) -> None:
    report = made_up(5000, workers=8, **how)
    text = page.page(report, "/a/report.html")
    assert len(text.encode()) < limit * MEGABYTE
    found = data_of(text)
    assert len(found["tests"]) == 5000
    if how:
        assert "requests are not listed" not in text
        assert "the texts of 5000 tests are shortened" in text
        shown = found["details"]["4999"]
        assert "AssertionError" in shown[0]
        assert "characters left out" in shown[1][0][1]
    else:
        assert "are shortened" not in text


def test_failures_keep_their_requests_where_others_lose_theirs() -> None:
    report = made_up(300, failing=0.1)
    for test in report["tests"]:
        test["requests"] = [test["requests"][0]] * 100 if test["requests"] else []
    text = page.page(report, "/a/report.html")
    rows = data_of(text)["tests"]
    bad = [len(row[8]) for row in rows if row[2] in (1, 2)]
    assert set(bad) == {100}
    listed = sum(len(row[8]) for row in rows)
    assert compact.REQUESTS - 300 <= listed <= compact.REQUESTS
    assert "requests are not listed" in text


def test_long_names_are_shortened() -> None:
    report = made_up(5000)
    for test in report["tests"]:
        test["name"] = f"test_{'é' * 10_000}_{test['name']}"
    assert len(page.page(report, "/a/report.html").encode()) < 5 * MEGABYTE


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({}, "The test passed"),
        ({"outcome": "failed"}, "1 of 1 test went wrong"),
        ({"outcome": "skipped"}, "The test was skipped"),
    ],
)
def test_the_title_says_how_it_went(change: dict[str, Any], title: str) -> None:
    report = made_up(1, failing=0)
    report["tests"][0].update(change)  # type: ignore[typeddict-item]
    outcome = report["tests"][0]["outcome"]
    report["run"]["counts"] = {outcome: 1}
    assert f">{title}</h1>" in page.page(report, "/a/report.html")


def test_a_run_without_tests_or_servers_has_a_page() -> None:
    report = made_up(0)
    report["run"]["exit_status"] = 5
    text = page.page(report, "/a/report.html")
    assert ">No tests ran</h1>" in text
    assert "There was no server in this run." in text
    report["run"]["ended"] = "KeyboardInterrupt"
    assert "KeyboardInterrupt" in page.page(report, "/a/report.html")


def test_servers_that_nobody_handed_over_are_named_by_their_address() -> None:
    report = made_up(4)
    report["servers"] = []
    found = data_of(page.page(report, "/a/report.html"))
    assert set(found["servers"]) <= {"http://127.0.0.1:9000", "http://127.0.0.1:9001"}
    assert found["servers"]


def test_the_timeline_has_every_start_and_gap() -> None:
    report = made_up(40)
    lanes = timeline.timeline(report, compact.drawn(report["tests"]))
    assert [lane.kind for lane in lanes.lanes] == ["server", "server", "worker", "worker"]
    broken = lanes.lanes[0].parts
    words = [text for _, _, text, kind in broken if kind != "incident"]
    assert words == [*_phases(report, 0), "serving", *_phases(report, 1), "serving"]
    for (_, end, *_), (start, *_) in pairwise(broken[:-1]):
        assert start >= end - 0.1
    (incident,) = [part for part in broken if part[3] == "incident"]
    served = [part for part in broken if part[3] == "serving"]
    assert served[0][1] == incident[0]
    assert max(end for _, end, *_ in broken) <= lanes.length


def _phases(report: Any, start: int) -> list[str]:
    return list(report["servers"][0]["starts"][start]["phases"])


def test_what_was_before_the_run_is_not_drawn() -> None:
    report = made_up(1)
    report["run"]["ended_at"] = START + 60
    server = report["servers"][0]
    server["ended_at"] = None
    server["starts"] = [{"at": START - 500, "seconds": 3, "phases": {"loading": 3}}]
    lane = timeline.timeline(report, {}).lanes[0]
    assert [(start, text) for start, _, text, _ in lane.parts] == [(0, "serving")]
    phases = {"launching": 1.0, "compiling": 4.0, "loading": 1.0}
    server["starts"] = [{"at": START - 2, "seconds": 6, "phases": phases}]
    lane = timeline.timeline(report, {}).lanes[0]
    assert [(round(start), text) for start, _, text, _ in lane.parts] == [
        (0, "compiling"),
        (3000, "loading"),
        (4000, "serving"),
    ]


def test_requests_at_the_same_time_are_drawn_below_each_other() -> None:
    report = made_up(1)
    test = report["tests"][0]
    request = {**test["requests"][0], "seconds": 1.0}
    test["requests"] = [{**request, "start": START + at} for at in (1.0, 1.5, 2.1, 1.9)]
    test["requests"].append({**request, "start": None})
    lanes = timeline.timeline(report, compact.drawn(report["tests"]))
    assert lanes.rows == {0: [0, 1, 0, 2, -1]}


def test_labels_differ() -> None:
    servers = made_up(2)["servers"] * 2
    servers = [{**one, "worker": f"gw{n}"} for n, one in enumerate(servers)]
    short = "Llama-3.2-1B-Instruct-q4f16_1"
    assert timeline.labels(servers)[0] == f"{short} gw0"
    assert timeline.labels(servers)[2] == f"{short} gw2"
    assert timeline.labels(servers[:2])[0] == short
    assert MODELS[0].endswith(f"{short}-MLC")


def test_histograms() -> None:
    chart = charts.histogram([0.1, 0.2, 0.2, 0.9, 1.0], figures.seconds)
    assert chart is not None
    assert (chart.median.text, chart.p95.text, chart.logarithmic) == ("200 ms", "980 ms", False)
    assert sum(int(bar.text.split()[0]) for bar in chart.bars) == 5
    wide = charts.histogram([0.001, 0.01, 5.0], figures.seconds)
    assert wide is not None
    assert wide.logarithmic
    assert charts.histogram([], figures.seconds) is None
    alone = charts.histogram([0.25], figures.seconds)
    assert alone is not None
    assert len(alone.bars) == 1


def test_memory_keeps_its_peak_when_it_is_thinned() -> None:
    samples = [(float(n), 100.0) for n in range(100_000)]
    samples[77_777] = (77_777.0, 500.0)
    drawn = charts.line(samples, 0, 100_000, figures.size)
    assert drawn is not None
    assert drawn.peak.text == "500 B"
    assert len(drawn.line) < 5000
    assert charts.line([], 0, 1, figures.size) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "\u2013"), (0, "0 ms"), (0.00005, "50 \u00b5s"), (0.25, "250 ms"), (0.9999, "1 s"),
     (12.34, "12.3 s"), (59.99, "60 s"), (200, "3 min 20 s"), (7260, "2 h 1 min")],
)  # fmt: skip
def test_durations(value: float | None, text: str) -> None:
    assert figures.seconds(value) == text


@pytest.mark.parametrize(
    ("length", "marks"),
    [
        (2, ["0", "0.5 s", "1 s", "1.5 s", "2 s"]),
        (45, ["0", "10 s", "20 s", "30 s", "40 s"]),
        (600, ["0", "2:00", "4:00", "6:00", "8:00", "10:00"]),
        (30 * 3600, ["0", "6:00:00", "12:00:00", "18:00:00", "24:00:00", "30:00:00"]),
    ],
)
def test_moments_of_a_run(length: float, marks: list[str]) -> None:
    assert [figures.moment(at) for at in charts.moments(length, 5)] == marks
