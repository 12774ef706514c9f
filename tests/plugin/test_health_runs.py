"""A server that dies or wedges in a run: found, told, survived."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest

from pytest_mlc_server import PopenServer
from tests.support_plugin import Suite

#: `ask` sends a prompt that the stand-in obeys; `ended` waits until the handle has heard of an end.
TOOLS = """
    import json, time
    from urllib.request import Request, urlopen
    import pytest

    @pytest.fixture
    def ask(mlc_server):
        def ask(prompt, timeout=60):
            url = f"{mlc_server.openai_v1_base_url}/completions"
            body = json.dumps({"prompt": prompt}).encode()
            with urlopen(Request(url, body), timeout=timeout) as answer:
                return json.load(answer)
        return ask

    @pytest.fixture
    def kill(mlc_server, ask):
        def kill(prompt="crash"):
            try:
                ask(prompt)
            except OSError:
                pass
            while mlc_server.poll() not in ("wedged", "exited"):
                time.sleep(0.01)
        return kill
    """


#: The second test hurts the server; those after it find one that works, by whatever they kept.
HURT = """
    KEPT = []

    def test_before(mlc_server, ask):
        KEPT.append((mlc_server, mlc_server.pid, mlc_server.port, mlc_server.base_url))
        ask("first")

    def test_hurts(ask):
        ask("{prompt}", timeout={timeout})

    def test_next(mlc_server, ask):
        server, pid, port, url = KEPT[0]
        assert mlc_server is server
        assert mlc_server.pid != pid
        assert (mlc_server.port, mlc_server.base_url) == (port, url)
        assert mlc_server.poll() == mlc_server.check() == "ready"
        assert ask("again")["choices"]

    def test_reference():
        assert KEPT[0][0].is_alive()
    """


def incident_sections(result: pytest.RunResult) -> list[str]:
    """Return the text of every section that tells what happened to a server."""
    text = result.stdout.str()
    title = r"^-+ mlc server \(mlc, http\S+\) -+\n"
    found = re.findall(rf"{title}((?:(?![-=_]{{3}}).*\n)*)", text, re.MULTILINE)
    return [section.rstrip() for section in found]


def summary(result: pytest.RunResult) -> list[str]:
    """Return the lines about servers at the end of a run."""
    text = result.stdout.str().partition("= mlc servers =")[2].partition("\n")[2]
    return text.partition("\n=")[0].splitlines()


WEDGED = "the server is wedged: its process lives, and generates nothing any more"
ADVICE = ("1. first advice", "2. second advice")
LAST_REQUEST = 'last request that it logged: "POST /v1/completions HTTP/1.1"'


@pytest.fixture
def short_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a server that says nothing found wedged after less than the usual five seconds."""
    monkeypatch.setattr(PopenServer.check, "__defaults__", (1.0,))


@pytest.mark.usefixtures("short_probe")
@pytest.mark.parametrize(
    ("prompt", "timeout", "told"),
    [
        ("crash", 60, ["the server's process ended (killed by SIGSEGV (signal 11))"]),
        ("exit", 60, ["the server's process ended (exit code 0)"]),
        ("wedge", 60, [WEDGED, "RuntimeError: Cannot open params_shard_0.bin", *ADVICE]),
        ("wedge-silently", 0.5, [WEDGED, "POST /v1/completions: no answer *"]),
    ],
)
def test_the_test_says_it_and_the_next_one_gets_a_server_that_works(
    suite: Suite, prompt: str, timeout: float, told: list[str]
) -> None:
    suite.write(conftest=TOOLS, test_it=HURT.format(prompt=prompt, timeout=timeout))
    result = suite.run("--mlc-log-dir=logs", "--mlc-stop-timeout=1", orders="stubborn")
    result.assert_outcomes(passed=3, failed=1)
    (section,) = incident_sections(result)
    told = [f"during this test: {told[0]}", *told[1:], LAST_REQUEST]
    lines = section.splitlines()
    assert [fnmatch.fnmatchcase(*pair) for pair in zip(lines, told, strict=True)] == [True] * len(
        told
    ), section

    first, second = suite.starts
    assert first != second
    (log,) = Path(suite.path, "logs").glob("*.log")
    before, separator, after = re.split(
        r"^(---.*; started again ---)$", log.read_text(), flags=re.MULTILINE
    )
    for part in (before, after):
        assert part.count("stand-in: starting") == 1
    assert ("wedged" in separator) == prompt.startswith("wedge")

    server, incident = summary(result)
    assert "restarts: 1" in server
    assert incident.startswith(f"test_it.py::test_hurts: {section.splitlines()[0][18:]}; started ")


REPEATED = """
    import pytest

    @pytest.mark.parametrize("n", range(4))
    def test_kills(kill, n):
        kill()
        assert n < 0

    def test_last(mlc_server): pass
    def test_other(): pass
    """


@pytest.mark.parametrize("restarts", [0, 2])
def test_after_so_many_restarts_later_tests_fail_at_once_and_point_at_the_reason(
    suite: Suite, restarts: int
) -> None:
    suite.write(conftest=TOOLS, test_it=REPEATED)
    result = suite.run(f"--mlc-restarts={restarts}")
    result.assert_outcomes(failed=restarts + 1, errors=4 - restarts, passed=1)
    assert len(suite.starts) == restarts + 1
    errors = [line for line in result.outlines if line.startswith("E  ") and "Error: " in line]
    assert len(errors) == 4 - restarts
    for line in errors:
        assert "killed by SIGSEGV" in line
        assert f"during test_it.py::test_kills[{restarts}]; it is not started again" in line
    assert [line.partition("; ")[2].split()[0] for line in summary(result)[1:]] == [
        *["started"] * restarts,
        "not",
    ]


def test_three_restarts_are_the_default(suite: Suite) -> None:
    suite.write(conftest=TOOLS, test_it=REPEATED)
    suite.run().assert_outcomes(failed=4, errors=1, passed=1)
    assert len(suite.starts) == 4


def test_a_restart_that_fails_is_tried_once_and_told(suite: Suite) -> None:
    suite.write(
        conftest=TOOLS,
        test_it="""
        def test_kills(kill): kill()
        def test_next(mlc_server): pass
        def test_last(mlc_server): pass
        """,
    )
    result = suite.run("-W", "default", orders="starts=1")
    result.assert_outcomes(passed=1, errors=2, warnings=1)
    assert len(suite.starts) == 2
    assert "stand-in: enough starts" in result.stdout.str()
    assert result.stdout.str().count("its process ended (exit code 3)") >= 2
    assert summary(result)[-1].endswith("could not be started again")


def test_a_passing_test_in_which_the_server_died_is_a_warning(suite: Suite) -> None:
    suite.write(
        conftest=TOOLS,
        test_it="""
        def test_kills(kill): kill()
        def test_next(ask): ask("hello")
        """,
    )
    result = suite.run()
    result.assert_outcomes(passed=2, warnings=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["*test_it.py::test_kills did not fail, although the server's process ended (killed by *"]
    )
    assert summary(result)[-1].startswith("test_it.py::test_kills: the server's process ended")


def test_a_server_that_ends_between_tests_is_started_again(suite: Suite) -> None:
    suite.write(
        conftest=TOOLS,
        test_it="""
        import pytest

        @pytest.fixture(scope="module", autouse=True)
        def between(mlc_server):
            yield
            import os, time
            os.kill(mlc_server.pid, 9)
            while mlc_server.poll() == "ready":
                time.sleep(0.01)

        def test_first(mlc_server): pass
        """,
        test_later="def test_next(ask): ask('hello')",
    )
    result = suite.run()
    result.assert_outcomes(passed=2, warnings=1)
    assert len(suite.starts) == 2
    assert "test_it.py::test_first" in summary(result)[-1]


def test_a_guardian_that_is_killed_is_survived_too(suite: Suite) -> None:
    suite.write(
        conftest=TOOLS,
        test_it="""
        import os, signal, time
        import psutil

        def test_kills(mlc_server):
            os.kill(psutil.Process(mlc_server.pid).ppid(), signal.SIGKILL)
            while mlc_server.poll() != "exited":
                time.sleep(0.01)
            assert False

        def test_next(ask): ask("hello")
        """,
    )
    result = suite.run()
    result.assert_outcomes(failed=1, passed=1)
    (section,) = incident_sections(result)
    assert "guardian" in section
    suite.await_nothing_left()


def test_a_port_that_was_taken_meanwhile_is_another_one_and_a_warning(suite: Suite) -> None:
    suite.write(
        conftest=TOOLS,
        test_it="""
        import socket
        KEPT = []

        def test_kills(mlc_server, kill):
            kill()
            KEPT.append(socket.create_server(("127.0.0.1", mlc_server.port)))

        def test_next(mlc_server, ask):
            taken = KEPT[0].getsockname()[1]
            assert mlc_server.port != taken
            assert mlc_server.base_url.endswith(f":{mlc_server.port}")
            assert ask("hello")["choices"]
            KEPT[0].close()
        """,
    )
    result = suite.run("-W", "default")
    result.assert_outcomes(passed=2, warnings=2)
    result.stdout.fnmatch_lines(["*could not have port * again and is on *"])


def test_each_worker_sees_its_own(suite: Suite) -> None:
    pytest.importorskip("xdist")
    suite.write(
        conftest=TOOLS,
        test_it="""
        import os
        WORKER = os.environ["PYTEST_XDIST_WORKER"]
        KEPT = []

        def test_before(mlc_server):
            KEPT.append(mlc_server.pid)

        def test_hurts(kill):
            if WORKER == "gw0":
                kill()
                assert False

        def test_next(mlc_server, ask):
            assert (mlc_server.pid != KEPT[0]) == (WORKER == "gw0")
            ask("again")
        """,
    )
    result = suite.run("-p", "xdist", "-n2", "--dist=each")
    result.assert_outcomes(passed=5, failed=1)
    assert len(suite.starts) == 3
    (section,) = incident_sections(result)
    assert "SIGSEGV" in section
    lines = summary(result)
    assert len(lines) == 3
    restarted = {line.partition(":")[0] for line in lines if "restarts: 1" in line}
    assert restarted == {"gw0"}
    assert sum("test_it.py::test_hurts: " in line for line in lines) == 1


# --- what is asked, and when ----------------------------------------------------------------------


@pytest.mark.parametrize(("fails", "probes"), [(False, 1), (True, 2)])
def test_a_server_is_asked_for_a_token_only_when_a_test_failed(
    suite: Suite, fails: bool, probes: int
) -> None:
    suite.write(
        conftest=TOOLS,
        test_it=f"""
        def test_one(ask): ask("hello")
        def test_two(ask): assert ask("hello") and not {fails}
        def test_three(mlc_server): assert mlc_server.poll() == "ready"
        """,
    )
    seen = suite.path / "requests.txt"
    result = suite.run(orders=f"requests={seen}")
    result.assert_outcomes(passed=3 - fails, failed=int(fails))
    requests = seen.read_text().splitlines()
    probe = "POST /v1/completions pytest-mlc-server-probe"
    assert requests.count(probe) == probes  # the first is that of the start
    assert sum(not line.endswith("-probe") for line in requests) == 2
    assert len(suite.starts) == 1


# --- the reset of the engine's state --------------------------------------------------------------

MODULES = {
    "test_a": "def test_1(mlc_server): pass\ndef test_2(mlc_server): pass\ndef test_3(): pass",
    "test_b": "def test_4(mlc_server): pass\ndef test_5(mlc_server): pass\n",
}


@pytest.mark.parametrize(("reset", "resets"), [("never", 0), ("module", 1), ("test", 3)])
def test_the_engines_state_is_reset_between_tests_or_modules(
    suite: Suite, reset: str, resets: int
) -> None:
    suite.write(**MODULES)
    seen = suite.path / "requests.txt"
    result = suite.run(f"--mlc-reset={reset}", orders=f"requests={seen}")
    result.assert_outcomes(passed=5)
    assert seen.read_text().count("POST /debug/reset_engine") == resets


@pytest.mark.parametrize(
    ("flag", "orders", "text"),
    [
        (
            "--mlc-no-debug",
            "",
            "reset needs the server's debug endpoints, and enable_debug = False",
        ),
        ("--mlc-debug", "reset-status=500", "POST /debug/reset_engine answers 500"),
    ],
)
def test_a_reset_that_cannot_be_is_an_error_of_the_tests_that_wanted_it(
    suite: Suite, flag: str, orders: str, text: str
) -> None:
    suite.write(**MODULES)
    result = suite.run("--mlc-reset=module", flag, orders=orders)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes()["errors"] >= 1
    assert text in result.stdout.str()
