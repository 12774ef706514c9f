"""The page on failing tests shows what the files say and what a run prints."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples" / "failing"
PAGE = (ROOT / "docs" / "how-to" / "when-a-test-fails.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- (file|output): (\S+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)

#: What differs from run to run and from machine to machine, and what the page shows instead.
VARYING = (
    (r"log \S+/pytest-mlc-server-\w+/sim-\d+-1\.log", "log /tmp/pytest-mlc-server-x/sim-1-1.log"),
    (r"http://127\.0\.0\.1:\d+", "http://127.0.0.1:41111"),
    (r" 127\.0\.0\.1:\d+ ", " 127.0.0.1:50000 "),
    (r"\d+\.\d\d s\b", "0.31 s"),
    (r"(ready after 0\.31 s) \([^)]*\)", r"\1"),
    (r"peak memory \d+ MiB", "peak memory 50 MiB"),
    (r"  first token after 0\.31 s, ", "  "),
    (r"^/\S+/mlc-output/(\S+)-\w{10}\.trace", r"/home/me/project/mlc-output/\1-1a2b3c4d5e.trace"),
)


def normalised(text: str) -> str:
    for pattern, replacement in VARYING:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text.strip()


def test_every_block_is_a_file_the_output_or_a_workflow() -> None:
    shown = set()
    for kind, name, language, text in BLOCK.findall(PAGE):
        if kind == "file":
            assert text == (ROOT / name).read_text(encoding="utf-8"), name
            shown.add(ROOT / name)
        else:
            assert kind == "output" or language == "yaml", text
    assert shown == {EXAMPLES / "pytest.ini", EXAMPLES / "test_greeting.py"}


def test_the_page_shows_what_the_run_prints(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("TMPDIR", str(pytester.path))
    shutil.copytree(EXAMPLES, pytester.path, dirs_exist_ok=True)
    done = pytester.run(
        sys.executable, "-m", "pytest", "-p", "mlc_server", "-p", "no:cacheprovider"
    )
    done.assert_outcomes(passed=1, failed=1)
    (expected,) = [text for kind, _, _, text in BLOCK.findall(PAGE) if kind == "output"]
    printed = "\n".join(line.rstrip() for line in done.outlines)
    sections = printed[printed.index("----------------- mlc server log") :]
    sections = sections.partition("\n=========================== short test summary")[0]
    assert normalised(sections) == normalised(expected)
    (trace,) = (pytester.path / "mlc-output").iterdir()
    # Of the engine, which the stand-in of the other tests does not have.
    text = trace.read_text(encoding="utf-8")
    assert text.count('"prefill (0)","ph":"B"') == 2
    assert '"decode (1)"' in text
