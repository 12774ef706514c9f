"""What the page on clients shows is what the files say, and the files run."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support_plugin import PLAIN
from tests.thirdparty.asked import http_library

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "docs" / "examples" / "clients"
PAGE = ROOT / "docs" / "how-to" / "third-party-clients.md"
BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?```\w+\n(.*?)```", re.DOTALL)


def test_every_block_is_a_file() -> None:
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    for name, text in blocks:
        assert text == (ROOT / name).read_text(encoding="utf-8"), name
    files = {path.relative_to(ROOT).as_posix() for path in EXAMPLES.glob("*.*")}
    assert {name for name, _ in blocks} == files


@pytest.mark.thirdparty
@pytest.mark.parametrize(
    ("name", "package", "passed"),
    [
        ("test_with_openai.py", "openai", 4),
        ("test_with_litellm.py", "litellm", 3),
        ("test_with_langchain.py", "langchain_openai", 4),
    ],
)
def test_the_examples_run(
    name: str,
    package: str,
    passed: int,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if find_spec(package) is None:
        pytest.skip(f"needs the package {package}")
    if package == "langchain_openai" and http_library().__name__ != "httpx":
        pytest.skip("the example is for httpx, which openai uses before its version 3")
    shutil.copy(EXAMPLES / "pytest.ini", pytester.path)
    shutil.copy(EXAMPLES / name, pytester.path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    # What the libraries warn of, is theirs.
    arguments = [argument for argument in PLAIN if argument not in ("-W", "error")]
    result = pytester.runpytest_subprocess(*arguments, name)
    result.assert_outcomes(passed=passed, warnings=None)
