"""What the documents show is what the files say, and the files run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", README, re.DOTALL)
SETTINGS = ROOT / "docs" / "examples" / "settings"


@pytest.mark.parametrize(("name", "text"), SHOWN, ids=[name for name, _ in SHOWN])
def test_readme_shows_the_file(name: str, text: str) -> None:
    assert text == (ROOT / name).read_text(encoding="utf-8")


def test_every_block_of_the_readme_is_a_file_or_a_command() -> None:
    known = {name for name, _ in SHOWN}
    assert known >= {"docs/examples/popen_server.py", "docs/examples/settings/pytest.ini"}
    for language, block in re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL):
        if language in ("sh", "text"):
            continue
        shown = any(block == text for _, text in SHOWN)
        part_of_example = block.strip() in (ROOT / "examples" / "test_chat.py").read_text()
        assert shown or part_of_example, block


def test_first_block_is_the_chat_example() -> None:
    first = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert first is not None
    example = (ROOT / "examples" / "test_chat.py").read_text(encoding="utf-8")
    assert first.group(1).strip() in example


def test_popen_server_example_prints_what_it_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "examples" / "popen_server.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("sim-model True\n200\n", 0), done.stderr


@pytest.mark.parametrize(
    ("example", "name"),
    [("pytest.ini", "pytest.ini"), ("ini_options.toml", "pyproject.toml")]
    + ([("typed.toml", "pyproject.toml")] if pytest.version_tuple >= (9,) else []),
)
def test_settings_examples_are_understood(
    pytester: pytest.Pytester, example: str, name: str
) -> None:
    (pytester.path / name).write_text((SETTINGS / example).read_text(encoding="utf-8"))
    pytester.makepyfile(
        """
        def test_config(mlc_server_config):
            assert mlc_server_config.model == "dist/Llama-3-8B-Instruct-q4f16_1-MLC"
            assert mlc_server_config.device == "cuda"
            assert mlc_server_config.startup_timeout == 300
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["mlc-server: engine mlc, model dist/Llama-3*, device cuda, *"])


def test_examples_run(pytester: pytest.Pytester) -> None:
    pytest.importorskip("openai")
    for file in (ROOT / "examples").iterdir():
        if file.is_file():
            (pytester.path / file.name).write_bytes(file.read_bytes())
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["*= mlc servers =*", "sim 'sim-model', device auto, http://*"])


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_links_between_documents_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
