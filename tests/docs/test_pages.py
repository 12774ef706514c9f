"""Links of the documents lead somewhere, and what they name exists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_mlc_server.accounts import _ATTRIBUTES
from pytest_mlc_server.options import SETTINGS
from pytest_mlc_server.reporting.costs import PROPERTIES
from tests.support_docs import ROOT, pages

DOCS = ROOT / "docs"
PAGES = [page.relative_to(ROOT).as_posix() for page in pages()]


VARIABLE = re.compile(r"\bPYTEST_MLC_[A-Z_]+[A-Z]\b")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    found: set[str] = set()
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    for heading in re.findall(r"^#+ +(.*)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        while slug in found:
            name, _, number = slug.rpartition("-")
            slug = f"{name}-{int(number) + 1}" if number.isdigit() else f"{slug}-1"
        found.add(slug)
    return found | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((?!https?://|mailto:)([^)\s]+)", text):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), target


def test_every_flag_exists() -> None:
    known = {setting.flag for setting in SETTINGS}
    known |= {f"--mlc-no-{setting.name}" for setting in SETTINGS if setting.kind == "flag"}
    named = {(p, f) for p in PAGES for f in re.findall(r"--mlc-[a-z]+(?:-[a-z]+)*", text_of(p))}
    assert {(page, flag) for page, flag in named if flag not in known} == set()


def test_every_variable_exists() -> None:
    known = {setting.variable for setting in SETTINGS}
    for module in (ROOT / "pytest_mlc_server").rglob("*.py"):  # those between its own processes
        known |= set(VARIABLE.findall(module.read_text(encoding="utf-8")))
    named = {(page, name) for page in PAGES for name in VARIABLE.findall(text_of(page))}
    assert {(page, name) for page, name in named if name not in known} == set()


def test_generated_pages_are_up_to_date() -> None:
    """They have every setting, fixture, marker, error and command, and what rules may say."""
    pytest.importorskip("pydantic", reason="the simulator's rules are told by its models")
    done = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_page_on_costs_names_all_that_there_is() -> None:
    page = text_of("docs/how-to/cost-per-test.md")
    for name in PROPERTIES:
        assert f"`mlc_{name}`" in page, name
    for name in _ATTRIBUTES:
        assert re.search(rf"^\|.*`{name}`.*\|.*\|$", page, re.MULTILINE), name


def test_the_reference_of_the_report_names_every_field() -> None:
    page = text_of("docs/reference/report.md")
    schema = json.loads(text_of("pytest_mlc_server/reporting/report/schema.json"))
    fields = set(schema["properties"])
    for part in schema["$defs"].values():
        fields |= set(part.get("properties", ()))
    assert fields - set(re.findall(r"`(\w+)`", page)) == set()
    definitions = schema["$defs"]
    words = definitions["outcome"]["enum"] + definitions["request"]["properties"]["source"]["enum"]
    for word in words:
        assert f"`{word}`" in page
