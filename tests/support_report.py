"""Made-up reports of runs: of any size, and with names and logs that attack whoever shows them."""

from __future__ import annotations

import random
from typing import Any

from pytest_mlc_server.reporting.report import data

START = 1_780_000_000.0

MODELS = (
    "dist/Llama-3.2-1B-Instruct-q4f16_1-MLC",
    "HF://mlc-ai/Qwen2.5-0.5B-Instruct-q4f16_1-MLC",
)

PHASES = {
    "launching": 1.9,
    "detecting devices": 2.1,
    "compiling": 3.2,
    "loading": 4.5,
    "binding": 0.4,
}

#: Names that are markup, end an element, or are no valid text at all.
HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "</script><!-- <script> \u2028\u2029",
    "nul\x00 \x1b[31mred\x1b[0m {{ 7 * 7 }}",
    "lone \udcff surrogate",
    "javascript:document.title='owned'",
)


def made_up(
    number: int,
    *,
    workers: int = 2,
    failing: float = 0.05,
    hostile: bool = False,
    text: int = 1,
    seed: int = 1,
) -> data.Report:
    """Return a report.

    Parameters
    ----------
    number
        How many tests it has.
    workers
        How many pytest-xdist workers; 0 for none.
    failing
        The share of tests that fail.
    hostile
        Whether the first tests have the names of `HOSTILE`, and logs have markup.
    text
        How many times as long as usual tracebacks and logs are.
    seed
        For another report of the same kind.
    """
    draw = random.Random(seed)
    names = [f"gw{index}" for index in range(workers)] or [""]
    clocks = dict.fromkeys(names, START + 0.6)
    servers = [_server(place, number, bool(workers)) for place in range(min(2, number))]
    tests = []
    for index in range(number):
        worker = names[index % len(names)]
        server = servers[draw.randrange(len(servers))]
        outcome = _outcome(draw, failing)
        test = _test(draw, index, clocks[worker], outcome, server)
        if hostile and index < len(HOSTILE):
            test["name"] = HOSTILE[index]
            test["nodeid"] = f"{test['file']}::{test['name']}"
        test["worker"] = worker
        if outcome in data.BAD:
            _fail(test, server["base_url"], text, HOSTILE[2] if hostile else "")
        tests.append(test)
        clocks[worker] = test["stop"] + 0.002
    _end(draw, servers, tests, max(clocks.values()) + 0.5)
    return data.cleaned(_report(tests, servers, workers), [])


def _report(tests: list[data.Test], servers: list[data.Server], workers: int) -> data.Report:
    end = max([START + 1, *(test["stop"] for test in tests)]) + 0.5
    run = data.Run(
        started_at=START,
        ended_at=end,
        exit_status=int(any(test["outcome"] in data.BAD for test in tests)),
        ended="",
        workers=workers,
        counts=data.counts(tests),
        versions={"python": "3.11.7", "pytest": "9.0.0"},
        settings=[data.Setting(name="model", value=repr(MODELS), source="--mlc-model")],
        root="/home/me/project",
    )
    return data.Report(
        schema=data.SCHEMA,
        run=run,
        servers=servers,
        tests=tests,
        collection_errors=[],
        crashed_workers=[],
        internal_errors=[],
        cut="",
    )


def _server(place: int, number: int, shared: bool) -> data.Server:
    launched = START + 0.4 + place * 0.3
    seconds = sum(PHASES.values())
    url = f"http://127.0.0.1:{9000 + place}"
    return data.server(
        {
            "id": f"server-{place}",
            "engine": "mlc",
            "model": MODELS[place],
            "device": f"cuda:{place}",
            "scope": "run" if shared else "worker",
            "base_url": url,
            "urls": [url],
            "launched_at": launched,
            "ready_at": launched + seconds,
            "startup_seconds": seconds,
            "phases": PHASES,
            "starts": [{"at": launched, "seconds": seconds, "phases": PHASES}],
            "peak_memory": (2 + place) << 30,
            "requests": number * 2,
            "prompt_tokens": number * 60,
            "completion_tokens": number * 40,
            "log": f"/tmp/pytest-mlc-server/mlc-{place}.log",
            "shared": shared,
        }
    )


def _outcome(draw: random.Random, failing: float) -> str:
    if draw.random() < failing:
        return draw.choice(["failed", "failed", "failed", "error"])
    return draw.choices(["passed", "skipped", "xfailed"], [94, 5, 1])[0]


def _test(
    draw: random.Random, index: int, start: float, outcome: str, server: data.Server
) -> data.Test:
    ready = server["ready_at"] or start
    setup = max(0.002, ready - start) if index % 4 else 0.002
    requests: list[dict[str, Any]] = []
    clock = start + setup
    for _ in range(0 if outcome == "skipped" else max(1, round(draw.gauss(3, 1)))):
        requests.append(_request(draw, clock + 0.01, server["base_url"]))
        clock += requests[-1]["seconds"] * (1 if draw.random() < 0.7 else 0.4)
    if outcome == "failed":
        requests[-1].update(status=500, error="the engine said no")
    stop = max([clock, *(one["start"] + one["seconds"] for one in requests)]) + 0.004
    directory, module = draw.choice(["chat", "tools"]), draw.choice(["errors", "json"])
    file = f"tests/{directory}/test_{module}.py"
    name = f"test_{draw.choice(['answers', 'stops', 'counts'])}_at_the_limit[{index}-llama]"
    return data.Test(
        nodeid=f"{file}::{name}",
        file=file,
        name=name,
        worker="",
        outcome=outcome,
        start=start,
        stop=stop,
        durations={"setup": setup, "call": stop - start - setup - 0.001, "teardown": 0.001},
        text="for engine sim; this run has mlc" if outcome == "skipped" else "",
        sections=[],
        cost=_cost(server["base_url"], requests, index) if requests else None,
        requests=requests,
        trace="/home/me/project/mlc-output/a trace.json" if outcome == "failed" else None,
        reruns=[],
    )


def _request(draw: random.Random, start: float, url: str) -> dict[str, Any]:
    seconds = draw.lognormvariate(-1.2, 0.6)
    return {
        "server": url,
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "start": start,
        "seconds": seconds,
        "ttft_s": seconds * draw.uniform(0.1, 0.3),
        "prompt_tokens": draw.randrange(10, 90),
        "completion_tokens": 1 + int(seconds * draw.uniform(80, 140)),
        "error": "",
        "source": "client",
    }


def _cost(url: str, requests: list[dict[str, Any]], index: int) -> dict[str, Any]:
    tokens = sum(one["completion_tokens"] for one in requests)
    figures = {
        "requests": len(requests),
        "errors": sum(bool(one["error"]) for one in requests),
        "prompt_tokens": sum(one["prompt_tokens"] for one in requests),
        "completion_tokens": tokens,
        "ttft_s": max(one["ttft_s"] for one in requests),
        "tokens_per_s": tokens / sum(one["seconds"] for one in requests),
        "shared": "" if index % 7 else "other workers of the run use the server",
    }
    return {**figures, "seconds": 1.0, "servers": [{"server": url, **figures}]}


def _fail(test: data.Test, url: str, times: int, more: str) -> None:
    test["text"] = (
        "def test_capital(mlc_server):\n"
        '>       assert ask(mlc_server) == "Paris"\n'
        'E       AssertionError: assert "Lyon" == "Paris"\n'
        "E         - Paris\nE         + Lyon\n\ntests/chat/test_errors.py:12: AssertionError"
    ) * times
    lines = [
        f"[06:15:{n % 60:02}] INFO engine.cc:{n}: request {n} {more}" for n in range(9 * times)
    ]
    title = f"mlc server log (mlc, {url})"
    test["sections"] = [data.Section(title=title, text="\n".join(lines))]


def _end(
    draw: random.Random, servers: list[data.Server], tests: list[data.Test], end: float
) -> None:
    for place, server in enumerate(servers):
        begin, peak = server["launched_at"] or START, server["peak_memory"] or 0
        server["ended_at"] = end - 0.2
        step = (end - begin) / 300
        server["memory"] = [
            [begin + n * step, int(min(1, n / 60) * peak * (0.9 + 0.1 * draw.random()))]
            for n in range(300)
        ]
        if place == 0 and len(tests) > 20:
            _break(server, tests[len(tests) // 2]["nodeid"], (begin + end) / 2)


def _break(server: data.Server, test: str, at: float) -> None:
    phases = {"launching": 1.9, "loading": 4.4, "binding": 0.4}
    server["restarts"] = 1
    server["starts"].append({"at": at + 0.4, "seconds": 6.7, "phases": phases})
    text = "the server's process ended (killed by SIGSEGV (signal 11))"
    outcome = "started again in 6.70 s"
    server["incidents"] = [{"test": test, "text": text, "outcome": outcome, "at": at}]
