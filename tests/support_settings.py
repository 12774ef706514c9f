"""One sample for each row of the table of settings, and a run of pytest that shows what it read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_mlc_server import ServerConfig, plugin
from pytest_mlc_server.options import Given, Setting
from pytest_mlc_server.reading import read_session


@dataclass(frozen=True)
class Sample:
    """What is written for a setting, what it then is, and what cannot be read.

    Parameters
    ----------
    text
        A valid value; several for a repeatable setting.
    value
        What the field of `ServerConfig` becomes.
    other
        Another valid value: what a lower source says, so that precedence shows.
    wrong
        A value that cannot be read; None where every text can.
    says
        A word of the error's explanation.
    """

    text: tuple[str, ...]
    value: Any
    other: str
    wrong: str | None = None
    says: str = ""


SAMPLES: Mapping[str, Sample] = {
    "engine": Sample(("mock",), "mock", "sim", "mok", "'mock'"),
    "url": Sample(("http://h:1",), "http://h:1", "http://other:2", "ftp://h", "http://"),
    "model": Sample(("HF://org/a",), "HF://org/a", "HF://org/b", "-m", "./"),
    "model-lib": Sample(("a.so",), "a.so", "b.so"),
    "device": Sample(("cuda:1",), "cuda:1", "cpu", "cuds", "'cuda'"),
    "devices": Sample(("0, GPU-a1",), ("0", "GPU-a1"), "auto", "0,,1", "GPU-"),
    "share-devices": Sample(("true",), True, "false", "maybe", ""),
    "mode": Sample(("server",), "server", "interactive", "severe", "interactive"),
    "overrides": Sample(
        ("max_num_sequence=4;opt=O2",),
        {"max_num_sequence": 4, "opt": "O2"},
        "opt=O0",
        "max_num_sequence",
        "key=value",
    ),
    "additional-model": Sample(("HF://a,b.so", "HF://c"), (("HF://a", "b.so"), "HF://c"), "d"),
    "embedding-model": Sample(("HF://e",), "HF://e", "f"),
    "embedding-model-lib": Sample(("e.so",), "e.so", "f.so"),
    "speculative-mode": Sample(("eagle",), "eagle", "medusa", "egale", "'eagle'"),
    "prefix-cache-mode": Sample(("disable",), "disable", "radix", "disabled", "'disable'"),
    "prefill-mode": Sample(("chunked",), "chunked", "hybrid", "chunk", "'chunked'"),
    "host": Sample(("::1",), "::1", "0.0.0.0", "a b", "IP address"),
    "port": Sample(("8082",), 8082, "8083", "65536", "1 to 65535"),
    "api-key": Sample(("k1",), "k1", "k2"),
    "debug": Sample(("false",), False, "true", "maybe", ""),
    "tracing": Sample(("true",), True, "false", "maybe", ""),
    "arg": Sample(
        ("--allow-origins", '["*"]'), ("--allow-origins", '["*"]'), "--allow-credentials"
    ),
    "env": Sample(("A=1", "B=x=y"), {"A": "1", "B": "x=y"}, "C=3", "LONELY", "NAME=VALUE"),
    "python": Sample(("python3.99",), "python3.99", "python2"),
    "launch": Sample(("direct",), "direct", "warm", "drect", "'direct'"),
    "sim-script": Sample(("a.toml",), "a.toml", "b.toml"),
    "ready": Sample(("http",), "http", "generate", "https", "'http'"),
    "startup-timeout": Sample(("2.5",), 2.5, "3", "-1", "0 or more"),
    "startup-limit": Sample(("2.5",), 2.5, "3", "-1", "0 or more"),
    "stop-timeout": Sample(("0",), 0.0, "3", "-1", "0 or more"),
    "log-dir": Sample(("/var/a",), "/var/a", "/var/b"),
    "log-live": Sample(("true",), True, "false", "maybe", ""),
    "scope": Sample(("run",), "run", "worker", "runs", "'run'"),
    "advertise": Sample(("gpu-1.lan",), "gpu-1.lan", "10.0.0.1", "http://10.0.0.1", "scheme"),
    "reuse": Sample(("60",), 60.0, "3", "-1", "0 or more"),
    "warm": Sample(("60",), 60.0, "3", "-1", "0 or more"),
    "start": Sample(("lazy",), "lazy", "eager", "lasy", "'lazy'"),
    "max-servers": Sample(("2",), 2, "3", "0", "1 or more"),
    "restarts": Sample(("0",), 0, "1", "-1", "0 or more"),
    "reset": Sample(("test",), "test", "module", "tests", "'test'"),
    "usage": Sample(("false",), False, "true", "maybe", ""),
    "durations": Sample(("5",), 5, "3", "-1", "0 or more"),
    "trace": Sample(("on",), "on", "retain-on-failure", "always", "retain-on-failure"),
    "output": Sample(("/var/a",), "/var/a", "/var/b"),
    "report": Sample(("a.html", "b.json"), ("a.html", "b.json"), "c.json", "r.txt", ".html"),
    "unavailable": Sample(("skip",), "skip", "fail", "skipp", "'skip'"),
    "require": Sample(("1",), 1, "0", "-1", "0 or more"),
}


#: With this flag a run of `run` asks for a server.
ASK = "--mlc-model=m"


def flags(setting: Setting, *texts: str) -> list[str]:
    """Return a setting as it is written on the command line."""
    if setting.kind == "flag":
        return [f"--mlc-{'no-' if text == 'false' else ''}{setting.name}" for text in texts]
    return [f"{setting.flag}={text}" for text in texts]


def ini(setting: Setting, *texts: str) -> str:
    """Return a setting as it is written in an ini file, in a section of its own."""
    return f"[pytest]\n{setting.key} =\n" + "".join(f"  {text}\n" for text in texts)


@dataclass
class Outcome:
    """What a run of pytest came to."""

    config: ServerConfig | None
    outcomes: list[str]
    code: object
    given: Mapping[str, Given]


class _Watcher:
    def __init__(self) -> None:
        self.config: ServerConfig | None = None
        self.given: Mapping[str, Given] = {}
        self.outcomes: list[str] = []

    def pytest_runtest_call(self, item: Any) -> None:
        self.config = item.funcargs["mlc_server_config"]
        self.given = item.config.stash[plugin._SESSION].given

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.outcomes.append(report.outcome)


def run(pytester: pytest.Pytester, *args: str) -> Outcome:
    """Run pytest on one test that has the configuration; with `ASK` it asks for a server.

    The run is slim: these tests make hundreds.
    """
    pytester.makepyfile(
        test_it=f"""
        def test_it(mlc_server_config, request):
            if "{ASK}" in request.config.invocation_params.args:
                request.getfixturevalue("mlc_server")
        """
    )
    watcher = _Watcher()
    slim = ["-p", "no:randomly", "-p", "no:cacheprovider", "--tb=no", "-q"]
    result = pytester.inline_run(*args, *slim, plugins=[watcher])
    return Outcome(watcher.config, watcher.outcomes, result.ret, watcher.given)


def surroundings(setting: Setting) -> list[str]:
    """Return the flags that a run needs beside a setting, for its effect to show."""
    return {
        "unavailable": [ASK],
        "advertise": ["--mlc-scope=run", "--mlc-host=0.0.0.0", "--mlc-api-key=k1"],
        "require": [ASK, "--mlc-unavailable=skip"],
        "warm": ["--mlc-launch=warm"],
    }.get(setting.name, [])


def seen(setting: Setting, outcome: Outcome) -> Any:
    """Return what a run took a setting for."""
    if setting.field is None and setting.name not in ("unavailable", "require"):
        value = read_session(outcome.given[setting.name])
        # The run writes them: they are in its own directory.
        return tuple(map(os.path.relpath, value)) if setting.name == "report" else value
    if setting.name == "unavailable":  # the engine is missing in these runs
        return {"skipped": "skip", "failed": "fail"}[outcome.outcomes[0]]
    if setting.name == "require":  # no test reaches a server in these runs
        return int(outcome.code == pytest.ExitCode.TESTS_FAILED)
    assert outcome.config is not None
    assert setting.field is not None
    return getattr(outcome.config, setting.field)
