"""What the pages on the simulator show is what the files say, and the files run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_mlc_server import MLCSim, Reply, Rule, SimRequest, When
from pytest_mlc_server.simulator.faults import Faults
from tests.conftest import WATCHDOG
from tests.support_plugin import PLAIN

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples" / "mlc_sim"
PAGES = [
    ROOT / "docs" / "how-to" / name for name in ("test-without-a-gpu.md", "test-error-handling.md")
]
REFERENCE = (ROOT / "docs" / "reference" / "mlc_sim.md").read_text(encoding="utf-8")

#: What other classes of the package use.
INTERNAL = {"answered", "expect_death", "from_record", "shown"}

BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_a_file(page: Path) -> None:
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert blocks
    for name, language, text in blocks:
        if name:
            assert text == (ROOT / name).read_text(encoding="utf-8"), name
        else:
            assert language == "text", text


def test_every_file_is_shown() -> None:
    shown = {name for page in PAGES for name, _, _ in BLOCK.findall(page.read_text("utf-8"))}
    files = [
        path
        for path in EXAMPLES.rglob("*.*")
        if not any(part.startswith((".", "__pycache__")) for part in path.parts)
    ]
    assert {path.relative_to(ROOT).as_posix() for path in files} == shown - {""}


@pytest.mark.parametrize(("directory", "passed"), [(".", 22), ("script", 2)])
def test_the_examples_run(
    directory: str, passed: int, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    shutil.copytree(EXAMPLES, pytester.path / "app")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(pytester.path / "app"))
    monkeypatch.chdir(pytester.path / "app" / directory)
    result = pytester.runpytest_subprocess(*PLAIN, "--ignore=script")
    result.assert_outcomes(passed=passed)


def test_what_the_pages_quote_is_what_is_printed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("TMPDIR", str(pytester.path))  # where the log of the failure stays
    for name in ("weather.py", "pytest.ini", "test_deaths.py"):
        shutil.copy(EXAMPLES / name, pytester.path)
    pytester.makepyfile(
        test_quoted="""
        import weather

        def test_it(mlc_sim):
            mlc_sim.when("Oslo").reply("Rain.")
            weather.forecast("Oslo")
            mlc_sim.assert_called("Bergen", times=1)
        """
    )
    chosen = ("test_deaths.py", "test_quoted.py", "-k", "test_it or crashes")
    texts = [pytester.runpytest_subprocess(*PLAIN, "-p", "no:randomly", *chosen).stdout.str()]
    texts.append(
        pytester.runpytest_subprocess(*PLAIN, "-rs", *chosen, "--mlc-engine=mlc").stdout.str()
    )
    printed = normalised("\n".join(texts))
    quoted = [
        text
        for page in PAGES
        for _, language, text in BLOCK.findall(page.read_text("utf-8"))
        if language == "text"
    ]
    assert len(quoted) == 3
    for block in quoted:
        for line in normalised(block).splitlines():
            assert line in printed, line


def normalised(text: str) -> str:
    """Return a text without what differs from run to run, or is only pytest's layout."""
    text = re.sub(r"^E +", "", text, flags=re.MULTILINE)
    text = re.sub(r"SKIPPED \[\d+\] (?:\S+: )?", "SKIPPED ", text)
    text = re.sub(r"http://127\.0\.0\.1:\d+", "http://127.0.0.1:PORT", text)
    text = re.sub(r"\d+\.\d\d s\b", "0.00 s", text)
    return "\n".join(line.strip() for line in text.splitlines())


def test_the_script_without_pytest_prints_the_answer() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "without_pytest.py")],
        capture_output=True,
        text=True,
        timeout=WATCHDOG,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("Sunny.\n", 0), done.stderr


@pytest.mark.parametrize("class_", [MLCSim, When, Rule, Reply, SimRequest, Faults])
def test_the_reference_names_all_that_is_public(class_: type) -> None:
    section = REFERENCE.partition(f"### {class_.__name__}")[2].partition("\n### ")[0]
    public = {name for name in dir(class_) if not name.startswith("_")} - INTERNAL
    missing = {name for name in public if not re.search(rf"\b{name}\b", section)}
    assert not missing
