"""The page of the errors, from their docstrings."""

from __future__ import annotations

import inspect

from docs.generating.docstrings import WRITTEN, prose, summary
from pytest_mlc_server import errors

HEAD = """\
# Errors

{written}
Every error that this package raises on purpose is one of these. Its text says what happened, on
what evidence, and what to do next; secrets in it are masked. All of them can be imported from
`pytest_mlc_server`, and pickled. [Their attributes](api/errors.md) are on a page of their own.

| error | is also | when |
|---|---|---|
"""


def page() -> str:
    """Return the page of the errors."""
    text = HEAD.format(written=WRITTEN.format("pytest_mlc_server/errors.py"))
    kinds = _errors()
    for kind in kinds:
        bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
        first = summary(kind.__doc__ or "")
        text += f"| [`{kind.__name__}`](#{kind.__name__.lower()}) | {bases} | {first} |\n"
    for kind in kinds:
        document = inspect.cleandoc(kind.__doc__ or "").partition("\n\nParameters\n")[0]
        text += f"\n## `{kind.__name__}`\n\n{prose(document)}"
    return text


def _errors() -> list[type[Exception]]:
    members = vars(errors).values()
    return [e for e in members if isinstance(e, type) and issubclass(e, errors.MLCServerError)]
