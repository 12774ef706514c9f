"""The reference is complete: whatever is public is in it, and the site is built of it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_mlc_server
from pytest_mlc_server import errors, plugin
from pytest_mlc_server.__main__ import USAGE
from pytest_mlc_server.options import SETTINGS
from tests.support_docs import ROOT

REFERENCE = ROOT / "docs" / "reference"


def text_of(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def test_every_public_name_has_its_docstring_in_it() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (REFERENCE / "api").glob("*.md"))
    told = set(re.findall(r"<!-- api: auto\w+ pytest_mlc_server\.(\w+)\b", pages))
    assert {name for name in pytest_mlc_server.__all__ if not name.startswith("_")} <= told
    assert "autofunction pytest_mlc_server.factories.mlc_server" in pages


def test_every_fixture_is_told(pytester: pytest.Pytester) -> None:
    """As pytest itself shows them: those without an underscore."""
    done = pytester.runpytest_inprocess("--fixtures", "-p", "no:cacheprovider")
    shown = {line.split()[0] for line in done.outlines if re.match(r"mlc_\w+.* -- ", line)}
    assert shown >= {"mlc_server", "mlc_sim", "mlc_usage"}
    assert set(re.findall(r"^## `(\w+)`$", text_of("fixtures.md"), re.MULTILINE)) == shown


def test_every_marker_is_told(pytester: pytest.Pytester) -> None:
    done = pytester.runpytest_inprocess("--markers", "-p", "no:cacheprovider")
    shown = {line for line in done.outlines if line.startswith("@pytest.mark.mlc_")}
    assert len(shown) == 2
    page = text_of("markers.md")
    for line in shown:
        assert f"`{line.partition(': ')[0]}`" in page


def test_every_setting_is_told_under_its_three_names() -> None:
    page = text_of("settings.md")
    for setting in SETTINGS:
        assert f"| `{setting.flag}`<br>" in page
        assert f"`{setting.key}`<br>`{setting.variable}` |" in page
        for word in setting.choices:
            assert f"`{word}`" in page


def test_every_error_is_told() -> None:
    page = text_of("errors.md")
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.MLCServerError):
            assert f"\n## `{kind.__name__}`\n" in page


def test_every_hook_is_told() -> None:
    page = text_of("hooks.md")
    hooks = [name for name in vars(plugin) if name.startswith("pytest_") and name != "pytest"]
    hooks = [name for name in hooks if callable(getattr(plugin, name))]
    assert len(hooks) > 5
    for name in hooks:
        assert f"| `{name}` |" in page


def test_every_command_is_told() -> None:
    usage = " ".join(line for line in USAGE.splitlines() if re.match(r"  \w", line))
    commands = {"with", "ps", "stop", "logs", "prepare", "doctor", "sim"}
    assert {word for word in commands if re.search(rf"\b{word}\b", usage)} == commands
    told = set(re.findall(r"^## `(\w+)", text_of("command-line.md"), re.MULTILINE))
    assert told == commands


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Every link leads somewhere, every page is in the navigation, every name can be imported."""
    for module in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs the package {module}: the extra `docs`")
    words = ["-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-d", str(tmp_path / "doctrees")]
    words += [str(ROOT / "docs"), str(tmp_path / "site")]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    pages = {page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")}
    built = {page.relative_to(tmp_path / "site") for page in (tmp_path / "site").rglob("*.html")}
    missing = {page for page in pages if page.with_suffix(".html") not in built}
    assert {page for page in missing if page.parts[0] not in ("examples", "_build")} == set()
