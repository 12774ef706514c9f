"""Docstrings as Markdown."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

#: Second line of a page that is written whole.
WRITTEN = "<!-- Written by docs/generate.py from {}. -->\n"


def functions(path: Path) -> list[ast.FunctionDef]:
    """Return the functions of a module, methods included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def prose(docstring: str) -> str:
    """Turn a docstring into Markdown; its sections become lists under a bold word."""
    lines, titled = [], inspect.cleandoc(docstring).replace("``", "`").splitlines()
    for line, after in zip(titled, [*titled[1:], ""], strict=True):
        if re.fullmatch(r"-{3,}", after.strip()):
            lines.append(f"**{line}**")
        elif re.fullmatch(r"-{3,}", line.strip()):
            lines.append("")
        elif line.startswith("    ") and lines and lines[-1].startswith("`"):
            lines[-1] = f"- {lines[-1]}: {line.strip()}"
        elif line.startswith("    "):
            lines.append(f"  {line.strip()}")
        elif (
            lines and lines[-1].startswith(("- ", "  ", "**")) and re.fullmatch(r"[\w., :]+", line)
        ):
            lines.append(f"`{line}`")
        else:
            lines.append(line)
    return "\n".join(lines).strip() + "\n"


def inline(text: str) -> str:
    """Turn some lines of a docstring into a cell of a table."""
    return " ".join(text.replace("``", "`").split()).replace("|", "\\|")


def summary(docstring: str) -> str:
    """Return the first paragraph of a docstring as a cell of a table."""
    return inline(inspect.cleandoc(docstring).split("\n\n")[0])


def description(docstring: str) -> str:
    """Return all that is before the sections of a docstring as a cell of a table."""
    text = re.split(r"\n\n\w+\n-{3,}\n", inspect.cleandoc(docstring))[0]
    return inline(text)


def section(docstring: str, title: str) -> dict[str, str]:
    """Return the entries of a section of a docstring: what they are about, and the text.

    Parameters
    ----------
    docstring
        In numpydoc's form.
    title
        ``Attributes``, ``Parameters`` …
    """
    text = inspect.cleandoc(docstring)
    pattern = rf"^{title}\n-+\n(.*?)(?=^\w[^\n]*\n-{{3,}}$|\Z)"
    found = re.search(pattern, text, re.DOTALL | re.MULTILINE)
    entries: dict[str, str] = {}
    for line in found[1].splitlines() if found else ():
        if line and not line.startswith(" "):
            name = line.partition(" : ")[0]
            entries[name] = ""
        elif line:
            entries[name] = f"{entries[name]} {line.strip()}".strip()
    return {name: inline(meaning) for name, meaning in entries.items()}
