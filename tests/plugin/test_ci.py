"""What a run writes for GitHub Actions and GitLab, and what it keeps from being a command."""

from __future__ import annotations

import html
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_mlc_server.reporting import ci, step_summary
from pytest_mlc_server.reporting.step_summary import code, markdown
from tests.plugin.test_summary import described
from tests.support_plugin import Suite

VARIABLES = ("GITHUB_ACTIONS", "GITLAB_CI", "GITHUB_STEP_SUMMARY")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


# --- GitHub's runner ------------------------------------------------------------------------------

#: Commands that its runner knows, of those that do harm or show.
COMMANDS = ("group", "endgroup", "error", "warning", "add-mask", "set-env", "stop-commands")


def commands(text: str) -> list[str]:
    """Return what GitHub's runner takes for commands, in the words of its `ActionCommand`."""
    found, token = [], None
    for line in text.splitlines():
        new = re.match(r"\s*::([^ :]+)[^:]*?::(.*)", line)
        name, data = new.groups() if new else ("", "")
        if token is not None:
            token = None if name == token else token
            continue
        if name == "stop-commands":
            token = data
        old = re.search(r"##\[([^\] ]+)[^\]]*\]", line)
        for command in (name, old.group(1) if old else ""):
            if command in COMMANDS:
                found.append(command)
    assert token is None, "commands are stopped for ever"
    return found


EVIL = [
    "::error file=app.js,line=1::boo",
    "  \t ::warning::boo",
    "\u00a0::add-mask::e",
    "INFO: ##[error]boo",
    "##[group]boo ##[error]boo",
    "::stop-commands::x",
]


def test_the_runner_would_take_these_lines_for_commands() -> None:
    assert len(commands("\n".join(EVIL[:-1]))) == 5


@pytest.mark.parametrize("line", EVIL)
def test_no_line_of_a_section_is_a_command(line: str) -> None:
    assert commands(ci.harmless(f"before\n{line}\nafter")) == []


def test_what_is_no_command_stays_as_it_is() -> None:
    text = "INFO: a::b\n[server] ::x\n# [x]\nstd::vector"
    assert ci.harmless(text) == text


class Terminal:
    """What of pytest's terminal reporter a group uses."""

    def __init__(self) -> None:
        self.text = ""

    def ensure_newline(self) -> None:
        pass

    def line(self, text: str) -> None:
        self.text += f"{text}\n"

    def section(self, title: str) -> None:
        self.line(f"=== {title} ===")


def grouped(lines: list[str], title: str = "title") -> str:
    terminal: Any = Terminal()
    with ci.group(terminal, title):
        for line in lines:
            terminal.line(line)
    text: str = terminal.text
    return text


def test_no_line_of_a_group_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    text = grouped(EVIL, "100%\n::error::x")
    assert commands(text) == ["group", "stop-commands", "endgroup"]
    assert text.startswith("::group::100%25%0A::error::x\n")
    assert grouped([]) != grouped([])  # nobody can know the token


def test_a_group_of_gitlab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITLAB_CI", "true")
    text = grouped(["one"])
    start = r"\x1b\[0Ksection_start:\d+:(\w+)\[collapsed=true\]\r\x1b\[0Ktitle\n"
    assert re.fullmatch(rf"{start}one\n\x1b\[0Ksection_end:\d+:\1\r\x1b\[0K\n", text), repr(text)


def test_elsewhere_a_group_is_a_section() -> None:
    assert grouped(["one"]) == "=== title ===\none\n"


# --- the page of a step ---------------------------------------------------------------------------

NASTY = ["<script>alert(1)</script>", "a|b`c`*d*_e_[f](g)", "@octocat #12 https://x.y", "\x1b[31m"]


@pytest.mark.parametrize("text", NASTY)
def test_whatever_the_text_it_is_text(text: str) -> None:
    shown = code(text)
    inside = shown.removeprefix("<code>").removesuffix("</code>")
    assert not set(inside) & set("<>|`*_[]@\x1b")
    assert "#" not in re.sub(r"&#\d+;", "", inside)
    assert html.unescape(inside) == text.replace("\x1b", " ")


def test_a_long_name_leaves_room_for_others() -> None:
    assert len(code("x" * 100_000)) < 400


def test_very_many_failures_are_named_and_not_all_shown(tmp_path: Path) -> None:
    nothing: Any = SimpleNamespace(servers=list)
    page = step_summary.StepSummary(str(tmp_path / "page"), nothing)
    sections = [("mlc server log", "x" * 5000)]
    for number in range(600):
        report: Any = SimpleNamespace(
            nodeid=f"test {number}", failed=True, when="call", sections=sections, longrepr=None
        )
        page.pytest_runtest_logreport(report)
    kept = [shown for _, _, shown in page._failed]
    assert len(kept) == 600
    assert kept[0]
    assert not kept[-1]
    assert sum(map(len, kept)) < 2 * step_summary.LIMIT


def test_a_page() -> None:
    incident = {"test": "t|1", "text": "died\nx", "outcome": "o", "at": 1.0, "worker": "gw0"}
    server = described(
        worker="gw0",
        model="m|<b>",
        restarts=1,
        peak_memory=420 << 20,
        requests=3,
        prompt_tokens=10,
        incidents=[incident],
    )
    cost = {"requests": 2, "prompt_tokens": 10, "completion_tokens": 5, "ttft_s": 0.5, "shared": ""}
    costs = [
        ("cheap", {**cost, "prompt_tokens": None, "completion_tokens": None, "ttft_s": None}),
        *((f"test {n}", {**cost, "prompt_tokens": n, "shared": "x" * n}) for n in range(11)),
    ]
    failed = [("t.py::<script>", "assert | `x`", "log\n</pre><script>\n::error::x"), ("b", "", "")]
    text = markdown([server], costs, failed, 1 << 20)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"\|", row)) in (9, 6) for row in rows)
    assert "| 10.00 s | 1 | 420 MiB | 3 | 10 + ? |" in text
    assert "#### Most expensive tests (10 of 12)" in text
    assert text.index("test 10") < text.index("test 9") < text.index("test 2")
    assert "test 0<" not in text
    assert "<script" not in text
    assert text.count("<details>") == text.count("</details>") == 1
    assert "#### Failed tests (2)" in text


def test_a_page_has_room_for_what_comes_first() -> None:
    failed = [(f"test {n}", "", "x" * 1000) for n in range(100)]
    text = markdown([described()], [], failed, 10_000)
    assert 8_000 < len(text.encode()) <= 10_000
    left_out = re.search(r"(\d+) more left out", text)
    assert left_out is not None
    assert text.count("<details>") == 100 - int(left_out.group(1))
    assert text.count("</details>") == text.count("<details>")
    assert markdown([described()], [], failed, 10) == ""


# --- runs -----------------------------------------------------------------------------------------

TESTS = """
    import http.client

    # pytest shows the lines of a failing test: none of them is to be a command.
    OLD = "##[" + "error]"

    def test_says(mlc_server):
        with open(mlc_server.log_path, "a") as log:
            log.write(f"::error::boo\\nx {OLD}boo\\n")
        connection = http.client.HTTPConnection("127.0.0.1", mlc_server.port)
        connection.putrequest("GET", f"/{OLD}")
        connection.endheaders()
        connection.getresponse().read()
        connection.close()
        assert False

    def test_hurts(mlc_server, ask):
        ask("crash")
    """


def test_a_run_at_github(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.plugin.test_health_runs import TOOLS

    page = suite.path / "page.md"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    suite.write(conftest=TOOLS, test_it=TESTS)
    result = suite.run("--junitxml=report.xml")
    result.assert_outcomes(failed=2)
    # The servers, and the log of the one that went wrong; nothing of what they say.
    assert commands(result.stdout.str()) == ["group", "stop-commands", "endgroup"] * 2
    result.stdout.fnmatch_lines(["::group::mlc servers", "::group::mlc server log (mlc, http*"])
    assert "\n::error::boo\n" in result.stdout.str().partition("::group::mlc server log")[2]
    assert "::error::boo" in (suite.path / "report.xml").read_text()
    text = page.read_text()
    assert text.startswith("before\n\n### MLC servers\n")
    assert "#### What went wrong" in text
    assert "#### Failed tests (2)" in text


def test_a_run_at_gitlab(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITLAB_CI", "true")
    suite.tests("def test_it(mlc_server): pass")
    text = suite.run().stdout.str()
    assert text.count("section_start:") == text.count("section_end:") == 1
    assert "::group::" not in text


@pytest.mark.parametrize("parallel", [False, True])
def test_one_process_writes_the_page_and_only_of_servers(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, parallel: bool
) -> None:
    if parallel:
        pytest.importorskip("xdist")
    page = suite.path / "page.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    workers = ["-p", "xdist", "-n2"] if parallel else []
    suite.tests("def test_it(): assert False")
    suite.run(*workers).assert_outcomes(failed=1)
    assert not page.exists()
    suite.tests("def test_it(mlc_server): assert False")
    suite.run(*workers).assert_outcomes(failed=1)
    assert page.read_text().count("### MLC servers") == 1


def test_a_page_that_cannot_be_written_is_a_warning(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.path))
    suite.tests("def test_it(mlc_server): pass")
    result = suite.run()
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["WARNING: no summary of the step: Is a directory: *"])


def test_a_page_that_is_full_gets_no_more(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_bytes(b"x" * (step_summary.LIMIT - 100))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    suite.tests("def test_it(mlc_server): pass")
    suite.run().assert_outcomes(passed=1)
    assert page.stat().st_size <= step_summary.LIMIT
