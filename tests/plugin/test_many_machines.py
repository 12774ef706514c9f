"""Workers on other hosts: a server for each host, or one of the controller's host for all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import PopenServer, runs
from tests.conftest import WATCHDOG, await_
from tests.support_hosts import LOOPBACK, NEAR, command, isolation
from tests.support_plugin import PLAIN, Suite

pytest.importorskip("xdist")

pytestmark = pytest.mark.slow

#: Each worker notes what it has got, and asks the server for a token.
NOTES = """
    import json, os
    import pytest
    from urllib.request import Request, urlopen

    FACTS = {facts!r}

    def ask(server, prompt="Hello"):
        body = json.dumps({{"prompt": prompt, "model": server.model}}).encode()
        headers = {{"Content-Type": "application/json"}}
        if server.api_key:
            headers["Authorization"] = f"Bearer {{server.api_key}}"
        url = f"{{server.openai_v1_base_url}}/completions"
        return urlopen(Request(url, body, headers), timeout=30).status

    @pytest.mark.mlc_engine("mlc")
    def test_note(mlc_server, mlc_server_config):
        assert ask(mlc_server) == 200
        worker = os.environ["PYTEST_XDIST_WORKER"]
        with open(f"{{FACTS}}/{{worker}}", "w") as file:
            json.dump({{
                "pid": mlc_server.pid,
                "url": mlc_server.base_url,
                "key": mlc_server.api_key,
                "engine": mlc_server_config.engine,
            }}, file)
    """

#: A network of its own where the system gives one, else the same network by another door.
KINDS = ["loopback" if isolation() is None else "namespace"]

ADVERTISED = ("--mlc-scope=run", "--mlc-host=0.0.0.0", "--mlc-advertise=NEAR")


class Hosts:
    """A suite whose workers ``gw0``, ``gw1`` are here; later ones are on another host."""

    def __init__(self, suite: Suite, kind: str) -> None:
        self.suite = suite
        self.kind = kind
        self.near = NEAR if kind == "namespace" else LOOPBACK
        self._facts = suite.path / "facts"
        self._facts.mkdir()
        self._far = suite.path.parent / f"{suite.path.name}-far"
        self._far.mkdir()

    def tests(self, source: str) -> None:
        """Write the tests, on both hosts."""
        self.suite.tests(source.format(facts=str(self._facts)))
        file = self.suite.path / "test_it.py"
        (self._far / file.name).write_bytes(file.read_bytes())

    def run(self, *args: str, here: int = 2, there: int = 2, orders: str = "") -> int:
        """Run all tests in each worker; return pytest's exit status."""
        words = [sys.executable, "-m", "pytest", *PLAIN, "-p", "xdist", "-p", "no:cacheprovider"]
        words += ["--dist=each", *(["--tx=popen"] * here), *self.suite.settings(orders), *args]
        process = self.suite.spawn(command(self.kind, there, self._far, words))
        try:
            return process.wait(2 * WATCHDOG)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the run did not end:\n{self.suite.output}")

    @property
    def facts(self) -> dict[str, Any]:
        """What the workers noted, by worker."""
        return {path.name: json.loads(path.read_text()) for path in self._facts.iterdir()}


@pytest.fixture(params=KINDS)
def hosts(request: pytest.FixtureRequest, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """Two hosts with an empty suite."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return Hosts(suite, request.param)


def left_in(directory: Path) -> list[str]:
    """Return what shared servers left for others to find; the locks of keys stay."""
    return [str(path) for path in directory.glob("pytest-mlc-server-*/**/*.door")]


def test_each_host_has_a_server_of_its_own(hosts: Hosts) -> None:
    hosts.tests(NOTES)
    assert hosts.run("--mlc-scope=run") == 0, hosts.suite.output
    facts = hosts.facts
    assert sorted(facts) == ["gw0", "gw1", "gw2", "gw3"]
    near = {facts[worker]["pid"] for worker in ("gw0", "gw1")}
    far = {facts[worker]["pid"] for worker in ("gw2", "gw3")}
    assert sorted(near | far) == sorted(hosts.suite.starts)
    assert (len(near), len(far), len(near | far)) == (1, 1, 2)
    hosts.suite.await_nothing_left()
    await_(lambda: not left_in(hosts.suite.temporary), "doors that are gone")


@pytest.mark.parametrize("key", ["auto", "a-key-of-one-s-own"])
def test_the_controllers_host_serves_the_workers_of_all_hosts(hosts: Hosts, key: str) -> None:
    hosts.tests(NOTES)
    assert hosts.run(*ADVERTISED, f"--mlc-api-key={key}", "-v") == 0, hosts.suite.output
    facts = hosts.facts
    assert sorted(facts) == ["gw0", "gw1", "gw2", "gw3"]
    (pid,) = hosts.suite.starts
    assert [facts[worker]["pid"] for worker in sorted(facts)] == [pid, pid, None, None]
    assert {fact["engine"] for fact in facts.values()} == {"mlc"}
    (used,) = {fact["key"] for fact in facts.values()}
    assert used == key or key == "auto"
    assert f"advertised as {hosts.near}" in hosts.suite.output
    for worker in ("gw2", "gw3"):
        assert facts[worker]["url"].startswith(f"http://{hosts.near}:")
        assert f"{worker}: external" in hosts.suite.output
    assert used not in hosts.suite.output.replace(f"--mlc-api-key={key}", "")
    hosts.suite.await_nothing_left()
    await_(lambda: not left_in(hosts.suite.temporary), "doors that are gone")


def test_a_start_that_fails_is_tried_once_and_told_by_every_worker(hosts: Hosts) -> None:
    hosts.tests(NOTES)
    code = hosts.run(*ADVERTISED, "--mlc-api-key=auto", orders="exit=3 say=no-luck")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert len(hosts.suite.starts) == 1
    assert hosts.facts == {}
    told = re.findall(r"^E   (.*?)^(?:___|===)", hosts.suite.output, re.MULTILINE | re.DOTALL)
    assert len(told) == 4, hosts.suite.output
    assert len(set(told)) == 1
    assert "no-luck" in told[0]


def test_a_server_that_dies_is_started_again_for_the_other_host(hosts: Hosts) -> None:
    hosts.tests(
        NOTES
        + """
    def test_crash(mlc_server):
        ask(mlc_server, "crash")

    def test_works_again(mlc_server):
        assert ask(mlc_server) == 200
    """
    )
    hosts.run(*ADVERTISED, "--mlc-api-key=auto", here=0, there=1)
    output = hosts.suite.output
    assert re.search(r"^=+ 1 failed, 2 passed", output, re.MULTILINE), output
    assert len(hosts.suite.starts) == 2
    # Who told the controller first: the guardian, or the worker that the test had failed.
    named = r"^test_it.py::test_(crash|note, or one after it): .*; started again in"
    assert re.search(named, output, re.MULTILINE), output
    hosts.suite.await_nothing_left()


def test_workers_on_other_hosts_attach_to_a_url(
    suite: Suite, standin: Callable[..., PopenServer]
) -> None:
    hosts = Hosts(suite, "loopback")
    hosts.tests(NOTES.replace('"mlc"', '"external"'))
    with standin() as server:
        assert hosts.run(f"--mlc-url={server.base_url}", here=1, there=1) == 0, suite.output
        assert {fact["url"] for fact in hosts.facts.values()} == {server.base_url}
    assert len(hosts.facts) == 2


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--mlc-host=0.0.0.0", "--mlc-api-key=auto"], "add --mlc-scope run"),
        (["--mlc-scope=run", "--mlc-api-key=auto"], "add --mlc-host 0.0.0.0"),
        (["--mlc-scope=run", "--mlc-api-key=auto", "--mlc-host=::1"], "host = '::1'"),
        (["--mlc-scope=run", "--mlc-host=0.0.0.0"], "add --mlc-api-key auto"),
        (["--mlc-url=http://127.0.0.1:9"], "leave the address out"),
        (["--mlc-advertise=http://10.0.0.1"], "without a scheme"),
        (["--mlc-advertise=10.0.0.1:8000"], "without a port"),
        (["--mlc-advertise=gpu host"], "expected a host name"),
        (["--mlc-advertise=300.1.1.1"], "expected a host name"),
        (["--mlc-advertise=0.0.0.0"], "one address of this host"),
    ],
)
def test_what_cannot_be_advertised_ends_the_run(suite: Suite, args: list[str], says: str) -> None:
    suite.tests("def test_it(mlc_server): pass")
    first = [] if any("advertise" in arg for arg in args) else ["--mlc-advertise=10.0.0.1"]
    result = suite.run(*first, *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "from --mlc-advertise on the command line" in str(result.stderr)
    assert says in str(result.stderr)
    assert suite.starts == []


def test_without_workers_elsewhere_the_header_says_so(suite: Suite) -> None:
    suite.tests("def test_it(mlc_server): assert mlc_server.engine == 'mlc'")
    flags = ["--mlc-scope=run", "--mlc-host=0.0.0.0", "--mlc-advertise=gpu-1", "--mlc-api-key=auto"]
    result = suite.run(*flags, "-p", "xdist", "-n1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["mlc-server: *, advertised as gpu-1 to nobody*"])
    assert len(suite.starts) == 1


@pytest.mark.parametrize("flag", ["--collect-only", "--setup-plan"])
def test_a_run_without_tests_starts_nothing(suite: Suite, flag: str) -> None:
    hosts = Hosts(suite, "loopback")
    hosts.tests(NOTES)
    hosts.run(*ADVERTISED, "--mlc-api-key=auto", flag, here=0, there=1)
    assert suite.starts == []


@pytest.mark.skipif(isolation() is None, reason="the system gives no namespaces")
def test_another_network_is_another_host() -> None:
    code = "from pytest_mlc_server import runs; print(runs.host())"
    line = [*(isolation() or []), sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stdout.strip() != runs.host()
    here = runs.begin("load")
    assert runs.of_worker({"mlc_run": here}) == runs.of_controller(here)
    elsewhere = runs.of_worker({"mlc_run": {**here, "host": done.stdout.strip()}})
    assert elsewhere.holders == ()
    assert elsewhere.id != here["id"]


@pytest.mark.parametrize(("program", "watched"), [("-c", True), ("/x/socketserver.py", False)])
def test_only_a_parent_that_is_the_controller_is_watched(
    monkeypatch: pytest.MonkeyPatch, program: str, watched: bool
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    run = runs.of_worker({"testrunuid": "0123456789abcdef"})
    assert [pid for pid, _ in run.holders] == ([os.getppid()] if watched else [])
