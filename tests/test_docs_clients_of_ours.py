"""What the page on clients shows is what the files say, and the files run."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

from tests.support_plugin import PLAIN

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples" / "mlc_clients"
PAGE = (ROOT / "docs" / "how-to" / "clients.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def test_every_block_is_a_file_or_the_filter() -> None:
    shown = set()
    for name, language, text in BLOCK.findall(PAGE):
        if name:
            assert text == (ROOT / name).read_text(encoding="utf-8"), name
            shown.add(ROOT / name)
        else:
            assert (language, "ignore:Async generator:ResourceWarning" in text) == ("ini", True)
    assert shown == {path for path in EXAMPLES.iterdir() if path.is_file()}


@pytest.fixture
def examples(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(EXAMPLES, pytester.path, dirs_exist_ok=True, ignore=ignored)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return pytester


def test_the_examples_run(examples: pytest.Pytester) -> None:
    for module in ("openai", "pytest_asyncio"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    loops = ("-p", "asyncio", "-o", "asyncio_default_fixture_loop_scope=function")
    # In a process of its own: the run around this one has imported the module asyncio.
    result = examples.runpytest_subprocess(*PLAIN, *loops, "-p", "no:cacheprovider")
    result.assert_outcomes(passed=8)


def test_the_one_line_examples_need_no_package(examples: pytest.Pytester) -> None:
    result = examples.runpytest_inprocess(*PLAIN, "-p", "no:cacheprovider", "test_one_line.py")
    result.assert_outcomes(passed=5)
