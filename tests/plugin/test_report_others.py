"""Users of pytest-html, pytest-json-report and Allure find our log section and properties there."""

from __future__ import annotations

import importlib.util
import json
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.support_plugin import Suite

pytestmark = pytest.mark.slow

TESTS = """
    def test_fails(mlc_server):
        mlc_server.chat("<b>Hello</b>", max_tokens=3)
        assert False

    def test_passes(mlc_server):
        mlc_server.chat("Hello", max_tokens=3)
    """

LOGGED = '"POST /v1/chat/completions HTTP/1.1" 200 OK'


def run(suite: Suite, plugins: str, *flags: str) -> None:
    """Run two tests with other plugins; their warnings are their own affair."""
    suite.tests(TESTS)
    loaded = [word for name in f"mlc_server {plugins}".split() for word in ("-p", name)]
    result = suite.pytester.runpytest_inprocess(*loaded, "--mlc-engine=sim", *flags)
    result.assert_outcomes(passed=1, failed=1)


def needs(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


@needs("pytest_html")
@pytest.mark.filterwarnings("default")
def test_pytest_html(suite: Suite) -> None:
    run(suite, "metadata html html_fixtures", "--html=report.html")
    text = unescape((suite.path / "report.html").read_text())
    data = json.loads(text.partition('data-jsonblob="')[2].partition('"></div>')[0])
    tests = {name.rpartition("::")[2]: rows[-1] for name, rows in data["tests"].items()}
    log = unescape(tests["test_fails"]["log"])
    assert "mlc server log (sim, http://127.0.0.1:" in log
    assert log.count(LOGGED) == 1
    assert "mlc server log" not in tests["test_passes"]["log"]
    for test in tests.values():
        (extra,) = test["extras"]
        assert extra["name"] == "mlc server"
        shown = (suite.path / extra["content"]).read_text()
        assert "mlc_requests = 1" in shown
        assert "mlc_completion_tokens = 3" in shown
        assert LOGGED not in shown


@needs("pytest_html")
@pytest.mark.filterwarnings("default")
def test_another_version_of_theirs_fails_nothing(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("pytest_html.extras.text")
    suite.tests(TESTS)
    loaded = ["-p", "mlc_server", "-p", "metadata", "-p", "html", "-p", "html_fixtures"]
    result = suite.pytester.runpytest_inprocess(*loaded, "--mlc-engine=sim", "--html=report.html")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*other reports may lack the server's part: AttributeError*"])


@needs("pytest_jsonreport")
@pytest.mark.filterwarnings("default")
def test_pytest_json_report(suite: Suite) -> None:
    file = "--json-report-file=report.json"
    run(suite, "metadata pytest_jsonreport", "--json-report", file)
    report = json.loads((suite.path / "report.json").read_text())
    tests = {one["nodeid"].rpartition("::")[2]: one for one in report["tests"]}
    failed, passed = (_properties(tests[name]) for name in ("test_fails", "test_passes"))
    assert failed["mlc_requests"] == passed["mlc_requests"] == 1
    assert failed["mlc_completion_tokens"] == 3
    assert LOGGED in failed["mlc_server_log"]
    assert "mlc_server_log" not in passed


def _properties(test: dict[str, Any]) -> dict[str, Any]:
    return {name: value for one in test["user_properties"] for name, value in one.items()}


@needs("allure_pytest")
@pytest.mark.filterwarnings("default")
def test_allure(suite: Suite) -> None:
    run(suite, "allure_pytest", "--alluredir=results")
    results = [json.loads(path.read_text()) for path in Path("results").glob("*-result.json")]
    tests = {one["name"]: one for one in results}
    attached = {one["name"]: one["source"] for one in tests["test_fails"]["attachments"]}
    (title,) = [name for name in attached if name.startswith("mlc server log (sim, ")]
    assert LOGGED in Path("results", attached[title]).read_text()
    assert "attachments" not in tests["test_passes"]
    parameters = tests["test_passes"]["parameters"]
    assert {one["name"]: one["value"] for one in parameters}["mlc_requests"] == "1"
    assert all(one["excluded"] for one in parameters)


@needs("pytest_rerunfailures")
@pytest.mark.filterwarnings("default")
def test_pytest_rerunfailures_makes_attempts_of_one_test(suite: Suite) -> None:
    suite.tests(
        """
        calls = []

        def test_flaky(mlc_server):
            calls.append(1)
            for _ in calls:
                mlc_server.chat("Hello", max_tokens=3)
            assert len(calls) == 2
        """
    )
    plugins = ["-p", "mlc_server", "-p", "rerunfailures", "--reruns=2"]
    flags = ["--mlc-engine=sim", "--mlc-report=report.json"]
    suite.pytester.runpytest_inprocess(*plugins, *flags).assert_outcomes(passed=1)
    (test,) = json.loads((suite.path / "report.json").read_text())["tests"]
    assert (test["outcome"], test["text"], test["sections"]) == ("passed", "", [])
    assert ["assert 1 == 2" in rerun["text"] for rerun in test["reruns"]] == [True]
    assert test["cost"]["requests"] == 2


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="subtests came with pytest 9")
def test_subtests_that_fail_are_told_with_their_test(suite: Suite) -> None:
    suite.tests(
        """
        def test_several(subtests):
            for number in range(3):
                with subtests.test(number=number):
                    assert number != 1

        def test_skips(subtests):
            import pytest
            with subtests.test("one"):
                pytest.skip("not this one")
        """
    )
    suite.run_bare("--mlc-report=report.json")
    tests = json.loads((suite.path / "report.json").read_text())["tests"]
    assert [test["outcome"] for test in tests] == ["failed", "passed"]
    assert "assert 1 != 1" in tests[0]["text"]
