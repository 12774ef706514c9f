"""The documentation as a site: ``sphinx-build -W -n docs docs/_build``. No network is asked.

The pages are Markdown that reads as well on GitHub. What only Sphinx needs is done here and not
written into them: the navigation comes from the lists of links on the landing page, links out of
``docs/`` are resolved, and a name in single backticks of a docstring is code, or a link where it is
public.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes  # type: ignore[import-not-found,import-untyped,unused-ignore]
from sphinx.addnodes import (  # type: ignore[import-not-found,unused-ignore]
    pending_xref,
)
from sphinx.ext.napoleon.docstring import (  # type: ignore[import-not-found,unused-ignore]
    NumpyDocstring,
)

import pytest_mlc_server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sphinx.application import (  # type: ignore[import-not-found,unused-ignore]
        Sphinx,
    )

DOCS = Path(__file__).parent
ROOT = DOCS.parent

project = "pytest-mlc-server"
author = "The pytest-mlc-server maintainers"
project_copyright = author
release = version = pytest_mlc_server.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples"]
default_role = "public"
nitpicky = True

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

add_module_names = False
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
napoleon_google_docstring = False
napoleon_use_rtype = False

#: Names of the standard library and of other packages: their documentation is not asked for.
nitpick_ignore_regex = [
    ("py:.*", r"(collections\.abc|contextlib|os|pathlib|pytest|requests|tvm|typing)\..*"),
]

html_theme = "furo"
html_title = "pytest-mlc-server"
html_static_path = ["_static"]
html_css_files = ["docs.css"]
html_show_sourcelink = False
html_show_sphinx = False
html_copy_source = False

#: Pages of the site that are files at the top of the repository; on GitHub they are a link to it.
AT_THE_TOP = {
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "readme": "README.md",
    "security": "SECURITY.md",
}

#: A link of Markdown to a file: text, path, anchor.
_LINK = re.compile(r"\[([^][]*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
_API = re.compile(r"^<!-- api: (.+) -->$", re.MULTILINE)


def read_source(app: Sphinx, docname: str, source: list[str]) -> None:  # noqa: ARG001
    """Give a page what only Sphinx needs: see the top of this file."""
    origin = DOCS / f"{docname}.md"
    if docname in AT_THE_TOP:
        origin = ROOT / AT_THE_TOP[docname]
        source[0] = origin.read_text(encoding="utf-8")
    source[0] = _LINK.sub(lambda link: resolved(link, origin, DOCS / docname), source[0])
    source[0] = _API.sub(directive, source[0])
    if docname == "index":
        source[0] += navigation(source[0])


def resolved(link: re.Match[str], origin: Path, page: Path) -> str:
    """Return a link as it is on the site.

    Files at the top of the repository have a page. Others outside of ``docs/`` can be downloaded;
    of directories and of Markdown there, only the text is left.
    """
    target = Path(os.path.normpath(origin.parent / link[2]))
    pages = {ROOT / name: DOCS / f"{page}.md" for page, name in AT_THE_TOP.items()}
    target = pages.get(target, target)
    if not target.is_relative_to(DOCS) and (target.is_dir() or target.suffix == ".md"):
        return link[1]
    return f"[{link[1]}]({os.path.relpath(target, page.parent)}{link[3] or ''})"


def directive(comment: re.Match[str]) -> str:
    """Turn a comment such as ``api: autoclass NAME; members: object`` into a directive."""
    name, *options = comment[1].split("; ")
    kind, _, target = name.partition(" ")
    lines = [f".. {kind}:: {target}", *(f"   :{option}" for option in options)]
    if kind == "py:type":
        lines.insert(0, ".. py:currentmodule:: pytest_mlc_server\n")
    return "```{eval-rst}\n" + "\n".join(lines) + "\n```"


def navigation(landing: str) -> str:
    """Return the hidden tables of contents: one for each section of the landing page with links."""
    trees = []
    for section in re.split(r"^## ", landing, flags=re.MULTILINE)[1:]:
        caption = section.splitlines()[0]
        links = re.findall(r"^- \[(.*?)\]\((?!\w+:)([^)#]+)\.md\)", section, re.MULTILINE)
        # The README's own title is the project's.
        pages = [f"{text} <{page}>" if page in AT_THE_TOP else page for text, page in links]
        if pages:
            options = f":hidden:\n:caption: {caption}\n\n"
            trees.append(":::{toctree}\n" + options + "\n".join(pages) + "\n:::\n")
    return "\n" + "\n".join(trees)


def public(
    _role: str, rawtext: str, text: str, *_: Any, **__: Any
) -> tuple[Sequence[nodes.Node], Sequence[nodes.system_message]]:
    """Make what stands in single backticks code, and a link where it is a public name."""
    code = nodes.literal(rawtext, text, classes=["xref", "py"])
    first = text.partition(".")[0].removesuffix("()")
    if first not in pytest_mlc_server.__all__:
        return [code], []
    target = f"pytest_mlc_server.{text.removesuffix('()')}"
    options = {"refdomain": "py", "reftype": "obj", "reftarget": target, "refwarn": True}
    return [pending_xref(rawtext, code, **options)], []


def whole(docstring: Any) -> Any:
    """Leave the docstring of a property as it is: else what a colon follows becomes a type."""
    return docstring._consume_to_end()


setattr(NumpyDocstring, "_parse_attribute_docstring", whole)  # noqa: B010


def signature(
    _app: Sphinx, _what: str, _name: str, _object: object, _options: object, shown: str, result: str
) -> tuple[str, str] | None:
    """Write the default of a dataclass's mutable field so that it can be parsed."""
    if not shown or "<factory>" not in shown:
        return None
    return shown.replace("<factory>", "..."), result


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.connect("autodoc-process-signature", signature)
    app.connect("source-read", read_source)
    app.add_role("public", public)
