"""The page: one file that needs nothing else, and asks no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

from pytest_mlc_server.reporting.report import charts, texts, timeline
from pytest_mlc_server.reporting.report.compact import Compact, drawn, shortened
from pytest_mlc_server.reporting.report.data import BAD, Report
from pytest_mlc_server.reporting.report.figures import count, day, rate, seconds, size

#: The parts of the page's script, in the order in which they need each other.
SCRIPTS = ("base", "model", "details", "table", "failures", "timeline", "pointing", "main")

#: Servers whose memory is drawn: those that used most.
DRAWN_MEMORY = 12


def page(report: Report, path: str) -> str:
    """Return the page of a run.

    Parameters
    ----------
    report
        The run.
    path
        Where the page is going to be: links to traces start there.
    """
    import jinja2

    loader = jinja2.PackageLoader("pytest_mlc_server.reporting.report")
    templates = jinja2.Environment(
        loader=loader,
        autoescape=True,
        finalize=_finalized,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(seconds=seconds, size=size, count=count, day=day)
    sources = {name: loader.get_source(templates, name)[0] for name in _files()}
    style = sources["page.css"]
    script = "".join(f"{sources[name]}\n" for name in _files() if name.endswith(".js"))
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    values = _values(report, path)
    return templates.get_template("page.html").render(
        style=style, script=script, style_hash=_hash(style), script_hash=_hash(script), **values
    )


def _finalized(value: object) -> object:
    # What is of the page itself is marked as safe, and so is no plain text.
    return texts.visible(value) if type(value) is str else value


def _files() -> Iterable[str]:
    return ("page.css", *(f"{name}.js" for name in SCRIPTS))


def _hash(text: str) -> str:
    """Return what the page's policy knows a script by: no other one runs in it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _values(report: Report, path: str) -> dict[str, Any]:
    requests = drawn(report["tests"])
    lanes = timeline.timeline(report, requests)
    compact = Compact(report, lanes, requests, path)
    data = compact.json()
    run = report["run"]
    servers = report["servers"]
    return {
        "run": run,
        "servers": servers,
        "report": report,
        "seconds_taken": run["ended_at"] - run["started_at"],
        "bad": [test for test in report["tests"] if test["outcome"] in BAD],
        "total": len(report["tests"]),
        "shares": _shares(run["counts"], len(report["tests"])),
        "tiles": _tiles(report),
        "starts": {one["id"]: _start(one) for one in servers},
        "timeline": lanes,
        "phase_class": timeline.phase_class,
        "histograms": _histograms(report),
        "charts": charts,
        "memory": _memory(report),
        "memory_left_out": max(0, sum(bool(one["memory"]) for one in servers) - DRAWN_MEMORY),
        "troubles": [
            ("not collected", report["collection_errors"]),
            ("crashed", report["crashed_workers"]),
            ("internal error", report["internal_errors"]),
        ],
        "cut": [*([report["cut"]] if report["cut"] else []), *compact.cut],
        "data": data,
        "shortened": shortened,
    }


def _shares(counted: dict[str, int], total: int) -> list[tuple[str, int, float, float]]:
    """Return each outcome with its number, and where its part of the bar begins and ends."""
    found, at = [], 0.0
    for outcome, number in counted.items():
        width = 1000 * number / total
        found.append((outcome, number, round(at, 2), round(width, 2)))
        at += width
    return found


def _start(server: Any) -> list[tuple[str, float, float, float]]:
    """Return the phases of a start with their seconds, and their parts of a bar of 100."""
    whole = sum(server["phases"].values()) or 1.0
    found, at = [], 0.0
    for name, taken in server["phases"].items():
        width = 100 * taken / whole
        found.append((name, taken, round(at, 2), round(width, 2)))
        at += width
    return found


def _costs(report: Report, name: str) -> list[float]:
    costs = (test["cost"] for test in report["tests"])
    return [cost[name] for cost in costs if cost is not None and cost.get(name) is not None]


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """Return the figures at the head: what, how much, and a remark."""
    servers = report["servers"]
    found = [("servers", count(len(servers)), _restarts(sum(s["restarts"] for s in servers)))]

    def total(name: str) -> int | None:
        known = [s[name] for s in servers if s[name] is not None]  # type: ignore[literal-required]
        return sum(known) if known else (int(sum(_costs(report, name))) or None)

    errors = sum(_costs(report, "errors"))
    remark = f"{errors:.0f} with errors" if errors else ""
    for what, name, note in (
        ("requests", "requests", remark),
        ("prompt tokens", "prompt_tokens", ""),
        ("generated tokens", "completion_tokens", ""),
    ):
        if total(name) is not None:
            found.append((what, count(total(name)), note))
    ttft = sorted(_costs(report, "ttft_s"))
    if ttft:
        middle, late = charts.quantile(ttft, 0.5), charts.quantile(ttft, 0.95)
        remark = f"median; 95 % within {seconds(late)}" if len(ttft) > 1 else ""
        found.append(("time to first token", seconds(middle), remark))
    speed = sorted(_costs(report, "tokens_per_s"))
    if speed:
        found.append(("tokens per second", rate(charts.quantile(speed, 0.5)), "median"))
    peaks = [s["peak_memory"] for s in servers if s["peak_memory"]]
    if peaks:
        remark = "of the largest server" if len(peaks) > 1 else ""
        found.append(("peak memory", size(max(peaks)), remark))
    return found


def _restarts(number: int) -> str:
    return "" if not number else f"{number} restart" + ("s" if number > 1 else "")


def _histograms(report: Report) -> list[dict[str, Any]]:
    """Return the two distributions, each with a row for each model that differs."""
    models = {url: s["model"] for s in report["servers"] for url in (s["base_url"], *s["urls"])}
    found = []
    for name, title, show in (
        ("ttft_s", "Time to first token", seconds),
        ("tokens_per_s", "Tokens per second", rate),
    ):
        values = _costs(report, name)
        chart = charts.histogram(values, show)
        if chart is None:
            continue
        groups: dict[str, list[float]] = {}
        for test in report["tests"]:
            for one in (test["cost"] or {}).get("servers") or ():
                if one.get(name):
                    model = models.get(one.get("server"), str(one.get("server")))
                    groups.setdefault(model, []).append(one[name])
        rows = [(model, *_spread(group, show)) for model, group in sorted(groups.items())]
        found.append({"title": title, "chart": chart, "rows": rows if len(rows) > 1 else []})
    return found


def _spread(values: list[float], show: Any) -> tuple[str, str, str, str]:
    values = sorted(values)
    median, late = charts.quantile(values, 0.5), charts.quantile(values, 0.95)
    return str(len(values)), show(median), show(late), show(values[-1])


def _memory(report: Report) -> list[tuple[Any, charts.Line]]:
    run = report["run"]
    known = [server for server in report["servers"] if server["memory"]]
    known.sort(key=lambda server: -max(sample[1] for sample in server["memory"]))
    lines = (
        (one, charts.line(one["memory"], run["started_at"], run["ended_at"], size))
        for one in known[:DRAWN_MEMORY]
    )
    return [(server, line) for server, line in lines if line is not None]
