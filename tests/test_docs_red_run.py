"""The red run that the documents show is the one that comes out."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "explanation" / "red-run.md"
EXAMPLE = ROOT / "docs" / "examples" / "red_run"

#: What differs from run to run and from machine to machine, and what the page shows instead.
VARYING = (
    (r"^(?:platform|rootdir:|configfile:|plugins:|cachedir:) .*\n", ""),
    (r"log \S+/pytest-mlc-server-\w+/sim-\d+-1\.log", "log /tmp/pytest-mlc-server-x/sim-1-1.log"),
    (r"\[\d\d:\d\d:\d\d\]", "[12:00:00]"),
    (r"http://127\.0\.0\.1:\d+", "http://127.0.0.1:41111"),
    (r"\d+\.\d\d s\b", "0.31 s"),
    (r"(ready after 0\.31 s) \([^)]*\)", r"\1"),
    (r"peak memory \d+ MiB", "peak memory 50 MiB"),
    (
        r"=+ (1 failed, 3 passed) in .* =+",
        r"========================= \1 in 1.21s =========================",
    ),
)


def normalised(text: str) -> str:
    for pattern, replacement in VARYING:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def test_page_shows_what_the_run_prints(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("TMPDIR", str(pytester.path))
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(EXAMPLE, pytester.path, dirs_exist_ok=True, ignore=ignored)
    # As whoever tries it calls it, without what pytester adds: its files would be in the output.
    done = pytester.run(
        sys.executable, "-m", "pytest", "-p", "mlc_server", "-p", "no:cacheprovider"
    )
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    shown = re.search(r"```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    assert normalised(shown.group(1)) == normalised("\n".join(done.outlines))


@pytest.mark.parametrize("name", re.findall(r"<!-- file: (\S+) -->", PAGE.read_text("utf-8")))
def test_page_shows_the_files_as_they_are(name: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = re.search(rf"<!-- file: {re.escape(name)} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert shown is not None
    assert shown.group(1) == (ROOT / name).read_text(encoding="utf-8")
