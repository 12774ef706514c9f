"""What a run shows: header, failure sections, summary, and JUnit properties."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tests.support_plugin import Suite

#: Where JUnit XML has a test's part of the log.
LOG = ".//property[@name='mlc_server_log']"

#: The stand-in logs each request with its path.
ASKS = """
    import pytest
    from urllib.request import urlopen

    @pytest.fixture
    def say(mlc_server):
        def say(word):
            urlopen(f"{mlc_server.base_url}/{word}").close()
        return say

    @pytest.fixture
    def bad_setup(say):
        say("in-setup")
        raise RuntimeError

    @pytest.fixture
    def bad_teardown(say):
        yield
        say("in-teardown")
        raise RuntimeError
    """

FOUR_TESTS = """
    def test_passes(say):
        say("from-passes")

    def test_fails(say):
        say("from-fails")
        assert False

    def test_passes_again(say):
        say("from-again")

    def test_fails_again(say):
        say("from-second-failure")
        assert False
    """


def log_sections(result: pytest.RunResult) -> list[str]:
    """Return the text of every section that holds a server's log."""
    found: list[list[str]] = []
    inside = False
    for line in result.outlines:
        rule = line.startswith(("---", "===", "___", "- "))
        if rule:
            inside = "mlc server log" in line
            if inside:
                found.append([])
        elif inside:
            found[-1].append(line)
    return ["\n".join(lines) for lines in found]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failing_test_shows_what_its_server_logged_during_it(suite: Suite, workers: int) -> None:
    suite.write(conftest=ASKS, test_it=FOUR_TESTS)
    parallel = ["-p", "xdist", f"-n{workers}"] if workers else []
    result = suite.run("--junitxml=report.xml", *parallel)
    result.assert_outcomes(passed=2, failed=2)
    shown = sorted(log_sections(result))
    assert len(shown) == 2
    assert "/from-fails " in shown[0]
    assert "/from-second-failure " in shown[1]
    for text in shown:
        # Neither other tests, nor the start, nor the probe of readiness.
        assert text.count("/from-") == len(text.splitlines()) == 1

    properties = {
        case.get("name"): [one.get("value") for one in case.iterfind(LOG)]
        for case in ET.parse(suite.path / "report.xml").iter("testcase")
    }
    assert properties["test_passes"] == properties["test_passes_again"] == []
    assert properties["test_fails"] == [shown[0]]
    assert properties["test_fails_again"] == [shown[1]]


def test_failures_of_fixtures_show_it_as_well(suite: Suite) -> None:
    suite.write(
        conftest=ASKS,
        test_it="""
            def test_setup(bad_setup): pass
            def test_teardown(say, bad_teardown): say("in-call")
            """,
    )
    result = suite.run("--junitxml=report.xml")
    result.assert_outcomes(passed=1, errors=2)
    setup, teardown = log_sections(result)
    assert "/in-setup " in setup
    assert "/in-teardown " in teardown
    assert "/in-setup" not in teardown
    properties = ET.parse(suite.path / "report.xml").iterfind(LOG)
    assert [one.get("value") for one in properties] == [setup, teardown]


def test_each_server_has_a_section(suite: Suite) -> None:
    suite.tests(
        """
        from urllib.request import urlopen

        def test_two(mlc_server, mlc_server_factory):
            other = mlc_server_factory(mode="server")
            urlopen(f"{mlc_server.base_url}/to-first").close()
            urlopen(f"{other.base_url}/to-second").close()
            with mlc_server_factory.temporary() as third:
                urlopen(f"{third.base_url}/to-third").close()
                assert False
        """
    )
    result = suite.run()
    shown = log_sections(result)
    assert [text.split("/to-")[1].split()[0] for text in shown] == ["first", "second", "third"]


def test_a_log_that_no_xml_can_hold_does_not_break_the_report(suite: Suite) -> None:
    suite.tests(
        r"""
        import socket

        def test_odd(mlc_server):
            with socket.create_connection(("127.0.0.1", mlc_server.port)) as connection:
                connection.sendall(b"GET /\x1b[31m-\x00-\x08-<&>-\xff HTTP/1.0\r\n\r\n")
                while connection.recv(4096):
                    pass
            assert False
        """
    )
    suite.run("--junitxml=report.xml").assert_outcomes(failed=1)
    (value,) = [one.get("value") for one in ET.parse(suite.path / "report.xml").iterfind(LOG)]
    assert value is not None
    assert "-<&>-" in value


def test_the_header_is_one_line(suite: Suite) -> None:
    suite.tests("def test_plain(): pass")
    result = suite.run("--mlc-device=cpu", "--mlc-port=12345")
    (line,) = [line for line in result.outlines if line.startswith("mlc-server: ")]
    for part in ("engine mlc", f"model {suite.model}", "device cpu", "port 12345", "scope worker"):
        assert part in line


def test_under_xdist_the_header_is_shown_once(suite: Suite) -> None:
    suite.tests("def test_plain(): pass")
    result = suite.run_bare("--mlc-engine=sim", "-p", "xdist", "-n2", "-v")
    (line,) = [line for line in result.outlines if "mlc-server: " in line]
    for part in ("engine sim", "model sim-model", "device auto", "port auto", "scope worker"):
        assert part in line


def test_the_summary_shows_what_was_started(suite: Suite) -> None:
    suite.tests(
        """
        def test_two(mlc_server, mlc_server_factory):
            other = mlc_server_factory(mode="server")
            print(f"ADDRESSES {mlc_server.base_url} {other.base_url}")
        """
    )
    result = suite.run("-s")
    addresses = next(line for line in result.outlines if "ADDRESSES" in line).split()[-2:]
    start = next(n for n, line in enumerate(result.outlines) if "= mlc servers =" in line)
    for address, line in zip(addresses, result.outlines[start + 1 :], strict=False):
        assert address in line
        assert suite.model in line


def test_the_summary_says_that_a_server_died(suite: Suite) -> None:
    suite.tests(
        """
        import os, signal, time

        def test_dies(mlc_server):
            os.kill(mlc_server.pid, signal.SIGKILL)
            while mlc_server.is_alive():
                time.sleep(0.01)
        """
    )
    result = suite.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*= mlc servers =*", "*::test_dies: the server's process ended (killed by SIGKILL*"]
    )
