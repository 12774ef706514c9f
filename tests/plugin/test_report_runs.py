"""``--mlc-report`` in whole runs: what is in it, with and without pytest-xdist, and bad ends."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_mlc_server.reporting.report import record
from tests.support_plugin import PLAIN, Suite

pytestmark = pytest.mark.slow

SCHEMA = json.loads(Path(record.__file__).with_name("schema.json").read_text())

BOTH = ("--mlc-report=made/here/a.html", "--mlc-report=made/here/a.json")

#: Asks the simulator; one test kills it, the next one gets a new one.
ASKS = """
    import os, signal
    import psutil, pytest

    def test_answers(mlc_server):
        assert mlc_server.chat("one", max_tokens=3)

    @pytest.mark.parametrize("text", ["<script>alert(1)</script>"])
    def test_fails(mlc_server, text):
        mlc_server.chat(text, max_tokens=3)
        key = mlc_server.api_key
        assert not mlc_server.api_key

    def test_kills(mlc_server):
        process = psutil.Process(mlc_server.pid)
        process.kill()
        psutil.wait_procs([process])
        while mlc_server.poll() != "exited":
            pass
        assert False

    def test_after(mlc_server):
        assert mlc_server.chat("two", max_tokens=3)

    @pytest.mark.skip(reason="not today")
    def test_skipped(): pass

    @pytest.mark.xfail(reason="known")
    def test_known(): assert False

    @pytest.fixture
    def broken(): raise RuntimeError("no fixture")

    def test_error(broken): pass

    def test_plain(): pass
    """


def load(suite: Suite, name: str = "made/here/a.json") -> Any:
    """Return a report, which must fit its schema."""
    report = json.loads((suite.path / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(SCHEMA).validate(report)
    return report


def outcomes(report: Any) -> dict[str, str]:
    return {test["name"].partition("[")[0]: test["outcome"] for test in report["tests"]}


ENDED = {
    "test_answers": "passed",
    "test_fails": "failed",
    "test_kills": "failed",
    "test_after": "passed",
    "test_skipped": "skipped",
    "test_known": "xfailed",
    "test_error": "error",
    "test_plain": "passed",
}


def test_a_run_with_a_restart(suite: Suite) -> None:
    pytest.importorskip("jinja2")
    suite.tests(ASKS)
    key = "sk-secret-and-longer"
    result = suite.run_bare("--mlc-engine=sim", f"--mlc-api-key={key}", *BOTH, "--showlocals")
    result.assert_outcomes(passed=3, failed=2, errors=1, skipped=1, xfailed=1)
    page = suite.path / "made/here/a.html"
    result.stdout.fnmatch_lines([f"mlc report: {page}", f"mlc report: {page.with_suffix('.json')}"])
    assert sorted(os.listdir(page.parent)) == ["a.html", "a.json"]

    report = load(suite)
    assert outcomes(report) == ENDED
    assert report["run"]["counts"]["passed"] == 3
    assert report["run"]["exit_status"] == 1
    settings = {one["name"]: one for one in report["run"]["settings"]}
    assert settings["engine"]["value"] == "'sim'"
    assert settings["engine"]["source"] == "--mlc-engine on the command line"
    tests = {test["name"]: test for test in report["tests"]}
    assert list(tests["test_answers"]["durations"]) == ["setup", "call", "teardown"]
    assert tests["test_answers"]["cost"]["requests"] == 1
    (request,) = tests["test_answers"]["requests"]
    assert (request["path"], request["status"]) == ("/v1/chat/completions", 200)
    assert tests["test_plain"]["cost"] is None
    failed = tests["test_fails[<script>alert(1)</script>]"]
    assert "E       " in failed["text"]
    assert any("POST /v1/chat" in section["text"] for section in failed["sections"])
    assert tests["test_skipped"]["text"] == "not today"
    assert tests["test_known"]["text"] == "known"

    (server,) = report["servers"]
    assert (server["restarts"], len(server["starts"])) == (1, 2)
    assert [one["test"] for one in server["incidents"]] == [tests["test_kills"]["nodeid"]]
    assert server["starts"][0]["at"] < server["incidents"][0]["at"] < server["starts"][1]["at"]
    assert sum(server["phases"].values()) == pytest.approx(server["startup_seconds"], abs=0.05)
    for path in page.parent.iterdir():
        assert key not in path.read_text(encoding="utf-8")
    assert "<script>alert" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("scope", ["worker", "run"])
def test_the_controller_of_xdist_writes_what_all_workers_did(suite: Suite, scope: str) -> None:
    pytest.importorskip("jinja2")
    suite.tests(
        """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_answers(mlc_server, number, worker_id):
            mlc_server.chat("one", max_tokens=3)
            assert number, mlc_server.api_key
        """
    )
    flags = ["--mlc-engine=sim", "--mlc-api-key=auto", f"--mlc-scope={scope}"]
    result = suite.run_bare("-p", "xdist", "-n2", "--dist=loadfile", *flags, *BOTH)
    result.assert_outcomes(passed=3, failed=1)
    assert len([line for line in result.outlines if line.startswith("mlc report: ")]) == 2
    report = load(suite)
    assert report["run"]["workers"] >= 1
    workers = {test["worker"] for test in report["tests"]}
    assert workers <= {"gw0", "gw1"}
    known = {url for server in report["servers"] for url in server["urls"]}
    asked = {one["server"] for test in report["tests"] for one in test["cost"]["servers"]}
    assert asked <= known
    assert [server["scope"] for server in report["servers"]] == [scope] * len(report["servers"])
    # The key was made up in a worker, and the assertion shows it; the report does not.
    (failed,) = [test for test in report["tests"] if test["outcome"] == "failed"]
    assert "AssertionError: ***" in failed["text"]


def test_a_name_and_password_in_a_url_are_hidden(suite: Suite) -> None:
    url = "http://somebody:pa55word@127.0.0.1:9"
    suite.tests(f"def test_shows(mlc_server_config): assert mlc_server_config.url == '{url}/'")
    suite.run_bare(f"--mlc-url={url}", "--mlc-model=m", BOTH[1])
    text = (suite.path / "made/here/a.json").read_text()
    assert "pa55word" not in text
    assert "somebody" not in text
    assert "http://***@127.0.0.1:9" in load(suite)["tests"][0]["text"]


def test_what_goes_wrong_outside_of_tests_is_in_the_report(suite: Suite) -> None:
    suite.write(
        test_broken="raise RuntimeError('at import, with sk-secret')",
        test_crash="""
            import os

            def test_crash(): os._exit(3)
            def test_fine(): pass
            """,
    )
    flags = [
        "-p",
        "xdist",
        "-n1",
        "--continue-on-collection-errors",
        BOTH[1],
        "--mlc-api-key=sk-secret",
    ]
    suite.run_bare(*flags)
    report = load(suite)
    (uncollected,) = report["collection_errors"]
    assert uncollected["where"] == "test_broken.py"
    assert "RuntimeError: at import, with ***" in uncollected["text"]
    (crashed,) = report["crashed_workers"]
    assert crashed["where"] == "gw0"
    tests = {test["name"]: test for test in report["tests"]}
    assert {name: test["outcome"] for name, test in tests.items()} == {
        "test_crash": "failed",
        "test_fine": "passed",
    }
    assert "crashed while running" in tests["test_crash"]["text"]


@pytest.mark.parametrize(
    ("source", "flags", "ended", "came_to"),
    [
        (
            "def test_one(): raise KeyboardInterrupt\ndef test_two(): pass",
            [],
            "KeyboardInterrupt",
            {"test_one": "unfinished"},
        ),
        (
            "def test_one(): assert 0\ndef test_two(): pass",
            ["-x"],
            "stopping after 1 failures",
            {"test_one": "failed"},
        ),
        (
            "import pytest\ndef test_one(): pytest.exit('enough')",
            [],
            "Exit: enough",
            {"test_one": "unfinished"},
        ),
    ],
    ids=["Ctrl-C", "-x", "pytest.exit"],
)
def test_a_run_that_ends_early_has_a_report(
    suite: Suite, source: str, flags: list[str], ended: str, came_to: dict[str, str]
) -> None:
    suite.tests(source)
    if ended == "KeyboardInterrupt":  # in this process, it would end these tests as well
        suite.pytester.runpytest_subprocess(*PLAIN, BOTH[1], *flags)
    else:
        suite.run_bare(BOTH[1], *flags)
    report = load(suite)
    assert report["run"]["ended"] == ended
    assert outcomes(report) == came_to


def test_an_internal_error_is_in_the_report(suite: Suite) -> None:
    suite.tests("def test_one(): pass")
    suite.write(conftest="def pytest_runtest_logfinish(): raise RuntimeError('a broken plugin')")
    result = suite.run_bare(BOTH[1])
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert "a broken plugin" in load(suite)["internal_errors"][0]["text"]


def test_a_run_that_executes_nothing_writes_nothing(suite: Suite) -> None:
    suite.tests("def test_one(): pass")
    suite.run_bare("--collect-only", *BOTH)
    assert not (suite.path / "made").exists()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("report.txt", "*report = *'report.txt'* (from --mlc-report on *.html or .json*"),
        ("taken.html", "*(from --mlc-report on *taken.html: it is a directory; give the file*"),
        ("file/a/b.json", "*(from --mlc-report on *b.json: *file is no directory*"),
    ],
)
def test_a_report_that_cannot_be_is_told_before_the_run(suite: Suite, path: str, said: str) -> None:
    suite.tests("def test_one(): open('ran', 'w').close()")
    (suite.path / "taken.html").mkdir()
    (suite.path / "file").touch()
    result = suite.run_bare(f"--mlc-report={path}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {said}"])
    assert not (suite.path / "ran").exists()


def test_a_directory_that_cannot_be_written_is_told_before_the_run(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.tests("def test_one(): pass")
    closed = suite.path / "closed"
    closed.mkdir()
    access = os.access  # root may write anywhere, and some of us run these tests as root
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(closed) and access(path, mode))
    result = suite.run_bare("--mlc-report=closed/more/a.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*from --mlc-report on *nothing can be written in {closed}"])


def test_a_page_without_jinja_names_the_extra(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.tests("def test_one(): pass")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "jinja2" else real(name)
    )
    result = suite.run_bare("--mlc-report=a.html")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*from --mlc-report on *pip install 'pytest-mlc-server?report?'*"])
    assert suite.run_bare("--mlc-report=a.json").ret == 0


def test_a_report_that_cannot_be_written_fails_nothing_and_is_not_lost(suite: Suite) -> None:
    """Something else took its place while the tests ran."""
    suite.tests(
        """
        def test_one():
            open("made", "w").close()
        """
    )
    result = suite.run_bare(BOTH[1])
    assert result.ret == 0  # although warnings are errors in this run
    result.assert_outcomes(passed=1, warnings=1)
    said = r"mlc report: (\S+) \(not \S+a\.json: "
    (line,) = [line for line in result.outlines if line.startswith("mlc report: ")]
    found = re.match(said, line)
    assert found is not None
    elsewhere = Path(found.group(1))
    assert elsewhere.is_relative_to(suite.temporary)
    assert json.loads(elsewhere.read_text())["run"]["counts"] == {"passed": 1}
    result.stdout.fnmatch_lines([f"*the report *a.json could not be written: *see {elsewhere}*"])


def test_a_report_that_cannot_be_written_anywhere_is_a_warning(suite: Suite) -> None:
    suite.tests(
        """
        import os, tempfile

        def test_one():
            open("made", "w").close()
            tempfile.tempdir = os.path.abspath("nowhere")
        """
    )
    result = suite.run_bare(BOTH[1])
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*a.json could not be written: *; nor in the directory for temp*"])


def test_a_report_of_another_plugin_that_cannot_be_read_fails_nothing(suite: Suite) -> None:
    suite.tests("def test_one(): assert 0\ndef test_two(): pass")
    suite.write(
        conftest="""
            import pytest

            @pytest.hookimpl(wrapper=True)
            def pytest_runtest_makereport():
                report = yield
                if report.failed:
                    report.longrepr = None
                    report.__class__ = Odd
                return report

            class Odd(pytest.TestReport):
                @property
                def longreprtext(self): raise RuntimeError("no text")
            """
    )
    result = suite.run_bare(BOTH[1])
    result.assert_outcomes(passed=1, failed=1, warnings=1)
    result.stdout.fnmatch_lines(["*report lacks something of *::test_one: RuntimeError: no text*"])
    assert outcomes(load(suite))["test_two"] == "passed"


def test_a_defect_of_the_page_keeps_the_data(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    page = pytest.importorskip("pytest_mlc_server.reporting.report.page")
    monkeypatch.setattr(page, "_values", lambda report, _: report["missing"])
    suite.tests("def test_one(): pass")
    result = suite.run_bare(BOTH[0])
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*a.html could not be made: KeyError: 'missing'*"])
    assert load(suite)["run"]["counts"] == {"passed": 1}
