"""The diagram of the architecture is one small file that needs nothing else."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from tests.support_docs import ROOT

PAGES = ROOT / "docs" / "explanation"
TEXT = (PAGES / "architecture.svg").read_text(encoding="utf-8")
SVG = "{http://www.w3.org/2000/svg}"
TREE = ET.fromstring(TEXT)


def test_it_is_small_and_asks_for_nothing() -> None:
    assert len(TEXT) < 10_000
    links = re.findall(r"(?:href|src|url)\s*[=(]\s*[\"']?([^\"')]+)", TEXT)
    assert set(links) == {"#tip"}
    assert not {"script", "foreignObject", "image"} & {
        one.tag.removeprefix(SVG) for one in TREE.iter()
    }


def test_it_says_what_it_shows_to_who_cannot_see_it() -> None:
    named = str(TREE.get("aria-labelledby")).split()
    spoken = {one.get("id"): one.text for one in TREE if one.tag in (f"{SVG}title", f"{SVG}desc")}
    assert [bool(spoken[name]) for name in named] == [True, True]
    for page in PAGES.glob("*.md"):
        for alt in re.findall(r"!\[([^]]*)\]\(architecture\.svg\)", page.read_text("utf-8")):
            assert len(alt) > 40, page


def test_it_has_colours_for_the_dark_and_each_class_a_style() -> None:
    light, _, dark = TEXT.partition("@media (prefers-color-scheme: dark)")
    classes = {name for one in TREE.iter() for name in str(one.get("class", "")).split()}
    for name in classes:
        assert f".{name} " in light, name
    for name in ("page", "room", "ours", "server", "line", "lease"):
        assert f".{name} " in dark, name


@pytest.mark.parametrize("name", ["watcher", "keeper", "LaunchPlan", "ServerConfig", "Lease"])
def test_its_names_are_those_of_the_code(name: str) -> None:
    assert any((one.text or "").startswith(name) for one in TREE.iter(f"{SVG}text"))
    package = ROOT / "pytest_mlc_server"
    defined = rf"(?m)^class {name}\b"
    assert (package / "guardian" / f"{name}.py").is_file() or any(
        re.search(defined, file.read_text("utf-8")) for file in package.glob("*.py")
    )
