"""Servers that are there already, and what earlier ones have left."""

from __future__ import annotations

import os
import threading
from typing import Any

import psutil
import pytest

from pytest_mlc_server import process, runtime, shared_servers
from pytest_mlc_server.doctor import servers
from pytest_mlc_server.doctor.findings import Section
from pytest_mlc_server.doctor.programs import Check
from tests.conftest import WATCHDOG
from tests.support_doctor import Doctor, codes, facts, listing, only


class Process:
    """A process as psutil shows it."""

    def __init__(self, pid: int, *words: str, **environment: str) -> None:
        self.pid = pid
        self._words = list(words)
        self._environment = environment

    def uids(self) -> Any:
        return psutil.Process().uids()

    def cmdline(self) -> list[str]:
        if not self._words:
            raise psutil.AccessDenied(self.pid)
        return self._words

    def environ(self) -> dict[str, str]:
        return self._environment


def shared(**status: Any) -> shared_servers.Found:
    ready = {"address": "127.0.0.1", "port": 8123}
    known = {"state": "ready", "pid": 7, "idle": None, "leases": 2, "ready": ready, "linger": 60.0}
    described = {"engine": "mlc", "model": "m"}
    return shared_servers.Found("abcd", "/run/key.abcd.door", described, {**known, **status})


def section(there: servers.There, *wanted: str) -> Section:
    return servers.section(Check(lambda: there, WATCHDOG), wanted)


def test_none(doctor: Doctor) -> None:
    diagnosis = doctor("--mlc-engine=sim")
    assert only(diagnosis, "servers.none").level == "ok"
    assert facts(diagnosis, "servers") == {"shared": []}


def test_shared_ones() -> None:
    made = section(servers.There(shared=[shared(), shared(idle=5.0)]))
    busy, waiting = made.findings
    assert busy.text == "abcd: mlc m, ready, 2 users, http://127.0.0.1:8123"
    assert "idle for 5 s" in waiting.text
    assert waiting.command == "python -m pytest_mlc_server stop abcd"
    assert {finding.code for finding in made.findings} == {"servers.shared"}
    assert made.facts["shared"][0]["url"] == "http://127.0.0.1:8123"
    parent = shared_servers.Found("x", "/d", {"kind": "warm parent"}, shared().status)
    assert section(servers.There(shared=[parent])).findings[0].text.startswith("x: a warm parent")


def test_one_that_the_run_would_use() -> None:
    made = section(servers.There(shared=[shared(idle=5.0)]), "key")
    assert [finding.code for finding in made.findings] == ["servers.reused"]
    made = section(servers.There(shared=[shared()]), "key")
    assert [finding.code for finding in made.findings] == ["servers.shared"]


def test_those_of_other_runs_and_of_nobody(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    serve = ("python", "-m", "mlc_llm", "serve", "m", "--api-key", "hunter2hunter2")
    shown = [
        Process(11, *serve, **{process.MARK: "x"}),
        Process(12, *serve),
        Process(13, "vim", "serve"),
        Process(14, "python", "-m", "mlc_llm", "chat"),
        Process(15),
    ]
    monkeypatch.setattr(psutil, "process_iter", lambda: iter(shown))
    diagnosis = doctor("--mlc-engine=sim")
    assert only(diagnosis, "servers.running").text.startswith("process 11 ")
    foreign = only(diagnosis, "servers.foreign")
    assert foreign.text.startswith("process 12 ")
    assert foreign.command == "kill -INT 12"
    assert diagnosis.healthy


def test_logs_that_are_left(doctor: Doctor) -> None:
    temporary = doctor.path / "temporary"
    for name in ("pytest-mlc-server-a", servers.runtime_name(), "other"):
        (temporary / name).mkdir()
    (temporary / "pytest-mlc-server-a" / "x.log").write_bytes(bytes(2048))
    finding = only(doctor("--mlc-engine=sim"), "servers.logs")
    assert finding.text.startswith(f"1 directory with logs of servers in {temporary} (2.0 KiB)")
    assert f"'!' -name pytest-mlc-server-{os.getuid()}" in finding.command


def test_a_guardian_that_hangs_is_not_waited_for() -> None:
    never = threading.Event()

    def look() -> servers.There:
        never.wait()
        return servers.There()

    made = servers.section(Check(look, 0.01), ())
    assert [finding.code for finding in made.findings] == ["check.hangs"]
    never.set()


def test_a_dead_door_is_left_as_it_is(doctor: Doctor) -> None:
    place = doctor.path / "run" / f"pytest-mlc-server-{os.getuid()}" / "reuse"
    place.mkdir(parents=True, mode=0o700)
    place.parent.chmod(0o700)
    for suffix in ("door", "json"):
        (place / f"key.abcd.{suffix}").write_text("{}")
    before = listing(doctor.path)
    assert "servers.none" in codes(doctor("--mlc-engine=sim"))
    assert listing(doctor.path) == before
    assert not runtime.only_looks()
    shared_servers.everywhere()
    assert listing(doctor.path) != before  # `ps` tidies up
