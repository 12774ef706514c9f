"""What the page on several models shows is what the files say, and the files run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support_plugin import PLAIN

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples" / "several_models"
PAGE = (ROOT / "docs" / "how-to" / "several-models.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- (file|output): (\S+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def test_every_block_is_a_file_a_command_or_the_output() -> None:
    shown = set()
    for kind, name, language, text in BLOCK.findall(PAGE):
        if kind == "file":
            assert text == (ROOT / name).read_text(encoding="utf-8"), name
            shown.add(ROOT / name)
        else:
            assert kind == "output" or language == "sh", text
    assert shown == {EXAMPLES / "pytest.ini", EXAMPLES / "test_models.py"}


def test_the_examples_run_as_the_page_says(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(EXAMPLES, pytester.path, dirs_exist_ok=True)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    result = pytester.runpytest_subprocess(*PLAIN, "-v", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=6)
    (expected,) = [text for kind, _, _, text in BLOCK.findall(PAGE) if kind == "output"]
    ran = [line.split(" ")[0] for line in result.outlines if " PASSED" in line]
    assert ran == expected.split()
