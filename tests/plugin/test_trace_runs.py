"""``--mlc-trace``: the event trace of tests as files, and what is said where there is none."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import PopenServer, traces
from tests.plugin.test_requested import section
from tests.support_plugin import Suite

pytestmark = pytest.mark.slow

ASKS = """
    import json
    from urllib.request import Request, urlopen
    import pytest

    def ask(server, prompt="hello"):
        where = f"{server.base_url}/v1/completions"
        urlopen(Request(where, json.dumps({"prompt": prompt}).encode()), timeout=60).close()

    @pytest.fixture
    def asks(mlc_server):
        ask(mlc_server)

    @pytest.fixture
    def fails(asks):
        raise RuntimeError
    """

TESTS = """
    import pytest
    from conftest import ask

    @pytest.mark.parametrize("n", ["<a/b>", "<A/b>"])
    def test_passes(asks, n): pass

    def test_fails(asks, mlc_server):
        ask(mlc_server, "again")
        assert False

    def test_in_setup(fails): pass

    def test_asks_nothing(mlc_server): pass

    def test_uses_nothing(): assert False
    """

JUNIT = "--junitxml=report.xml"


def files(suite: Suite, directory: str = "mlc-output") -> dict[str, Any]:
    """Return the traces that were written, by the test that each is of."""
    found = [json.loads(path.read_text()) for path in (suite.path / directory).glob("*")]
    return {trace["otherData"]["test"].partition("::")[2]: trace for trace in found}


def properties(suite: Suite) -> dict[str, str]:
    """Return the path of the trace that JUnit's report has, by test."""
    cases = ET.parse(suite.path / "report.xml").iter("testcase")
    return {
        f"{case.get('name')}": f"{one.get('value')}"
        for case in cases
        for one in case.iter("property")
        if one.get("name") == "mlc_trace"
    }


def requests_in(trace: dict[str, Any]) -> int:
    """Return how many requests a trace has."""
    names = [event for event in trace["traceEvents"] if event["name"] == "thread_name"]
    return len(names) - 1  # the test itself


@pytest.mark.parametrize("when", ["on", "retain-on-failure"])
def test_the_trace_of_each_test_or_of_failing_ones(suite: Suite, when: str) -> None:
    suite.write(conftest=ASKS, test_it=TESTS)
    result = suite.run(JUNIT, f"--mlc-trace={when}")
    result.assert_outcomes(passed=3, failed=2, errors=1)
    found = files(suite)
    passing = {"test_passes[<a/b>]", "test_passes[<A/b>]"} if when == "on" else set()
    assert found.keys() == {"test_fails", "test_in_setup"} | passing
    assert requests_in(found["test_fails"]) == 2
    assert {requests_in(found[test]) for test in found.keys() - {"test_fails"}} == {1}
    for test, trace in found.items():
        (own,) = [event for event in trace["traceEvents"] if event["ph"] == "X"]
        assert own["name"].endswith(test)
        ends = own["ts"] + own["dur"]
        times = [event["ts"] for event in trace["traceEvents"] if "ts" in event]
        assert own["ts"] <= min(times) <= max(times) <= ends
    linked = properties(suite)
    assert linked.keys() == found.keys()
    shown = section(result, "mlc server trace")
    assert [lines[0] for lines in shown] == [linked["test_in_setup"], linked["test_fails"]]
    for test, path in linked.items():
        assert json.loads(Path(path).read_text()) == found[test]


def test_nothing_is_asked_or_written_without_it(suite: Suite) -> None:
    suite.write(conftest=ASKS, test_it="def test_fails(asks): assert False")
    result = suite.run(JUNIT)
    result.assert_outcomes(failed=1)
    assert not (suite.path / "mlc-output").exists()
    assert properties(suite) == {}
    assert section(result, "mlc server trace") == []


def test_what_earlier_runs_left_stays(suite: Suite) -> None:
    suite.write(
        conftest=ASKS,
        test_it="""
        def test_fails(asks): assert False

        def test_config(mlc_server_config):
            assert mlc_server_config.enable_tracing
            assert "--mlc-trace" in mlc_server_config.describe("enable_tracing")
        """,
    )
    paths = set()
    for _ in range(2):
        suite.run(JUNIT, "--mlc-trace=on", "--mlc-output=out").assert_outcomes(passed=1, failed=1)
        paths.add(properties(suite)["test_fails"])
    assert {Path(path) for path in paths} == set((suite.path / "out").iterdir())
    assert len(paths) == 2


def test_servers_of_fixtures_and_factories_trace_as_well(suite: Suite) -> None:
    suite.write(
        conftest=f"""
        {ASKS}
    from pytest_mlc_server import ServerConfig, factories

    @pytest.fixture(scope="session")
    def mlc_server_config(request):
        environment = dict(one.split("=", 1) for one in {suite.variables()!r})
        return ServerConfig(model={suite.model!r}, env=environment)

    other = factories.mlc_server(mode="server")
        """,
        test_it="""
        from conftest import ask

        def test_three(mlc_server, other, mlc_server_factory):
            with mlc_server_factory.temporary() as third:
                for server in (mlc_server, other, third):
                    ask(server)
                assert False
        """,
    )
    result = suite.run_bare(JUNIT, "--mlc-trace=retain-on-failure")
    result.assert_outcomes(failed=1)
    (trace,) = files(suite).values()
    # The third has ended by the time the test has failed.
    assert requests_in(trace) == len(trace["otherData"]["servers"]) == 2
    (lines,) = section(result, "mlc server trace")
    assert len(lines) == 3
    assert lines[2].endswith(": the server is stopped")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [("wedge", "the server is wedged: its process lives"), ("crash", "the server's process ended")],
)
def test_a_server_that_is_gone_has_no_trace(suite: Suite, prompt: str, words: str) -> None:
    suite.write(
        conftest=ASKS,
        test_it=f"""
        from conftest import ask

        def test_fails(asks, mlc_server):
            ask(mlc_server, "{prompt}")
        """,
    )
    result = suite.run(JUNIT, "--mlc-trace=on")
    result.assert_outcomes(failed=1)
    assert not (suite.path / "mlc-output").exists()
    ((line,),) = section(result, "mlc server trace")
    assert line.startswith("no trace of http://127.0.0.1:")
    assert words in line


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_that_cannot_is_warned_of_once(suite: Suite, status: int) -> None:
    suite.write(conftest=ASKS, test_it="def test_one(asks): pass\ndef test_two(asks): pass")
    orders = f"trace-status={status}"
    result = suite.run("--mlc-trace=on", "-W", "default", orders=orders)
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines([f"*PytestWarning: --mlc-trace: no trace of *answers {status}: *"])


def test_an_external_server_is_asked(suite: Suite, standin: Callable[..., PopenServer]) -> None:
    suite.write(conftest=ASKS, test_it="def test_fails(asks): assert False")
    server = standin(enable_tracing=True)
    server.start()
    result = suite.run_bare(f"--mlc-url={server.base_url}", JUNIT, "--mlc-trace=on")
    result.assert_outcomes(failed=1)
    (lines,) = section(result, "mlc server trace")
    assert lines[0] == properties(suite)["test_fails"]
    assert lines[2].startswith("requests of others")


def test_workers_that_share_a_server_share_its_trace(suite: Suite) -> None:
    pytest.importorskip("xdist")
    suite.write(conftest=ASKS, test_it="def test_fails(asks): assert False")
    result = suite.run(
        JUNIT, "--mlc-trace=on", "--mlc-scope=run", "-p", "xdist", "-n2", "--dist=each"
    )
    result.assert_outcomes(failed=2)
    assert len(list((suite.path / "mlc-output").iterdir())) == 2
    for lines in section(result, "mlc server trace"):
        assert lines[2].startswith("requests of other workers' tests")


def test_a_file_that_cannot_be_written_fails_nothing(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(traces, "write", full)
    suite.write(conftest=ASKS, test_it="def test_one(asks): pass\ndef test_two(asks): assert 0")
    result = suite.run(JUNIT, "--mlc-trace=on", "-W", "default")
    result.assert_outcomes(passed=1, failed=1, warnings=1)
    assert section(result, "mlc server trace") == [["no trace: No space left on device: somewhere"]]
    assert properties(suite) == {}


# --- before the run -------------------------------------------------------------------------------


def test_what_contradicts_it_is_said_before_the_run(suite: Suite) -> None:
    suite.tests("def test_it(mlc_server): pass")
    (suite.path / "file").touch()
    result = suite.run_bare(
        *("--mlc-engine=sim", "--mlc-trace=on", "--mlc-output=file/below"),
        *("--mlc-no-debug", "--mlc-no-tracing"),
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = result.stderr.str()
    for words in (
        "trace = 'on' (from --mlc-trace on the command line) needs the server's debug endpoints",
        "debug = False (from --mlc-debug on the command line) switches that off: give one of them",
        "tracing = False (from --mlc-tracing on the command line) switches that off: give one",
        "output = 'file/below' (from --mlc-output on the command line) cannot take the files of ",
        "trace = 'on' (from --mlc-trace on the command line): Not a directory: ",
    ):
        assert words in said
    assert sorted(one.name for one in suite.path.glob("file*")) == ["file"]


def test_the_default_directory_is_named(suite: Suite) -> None:
    (suite.path / "mlc-output").touch()
    (suite.path / "pytest.ini").write_text("[pytest]\nmlc_trace = on\nmlc_engine = sim\n")
    result = suite.run_bare()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*output (the default) cannot take the files of trace = 'on' (*"])
