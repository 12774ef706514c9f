"""Texts of other people in a report: bounded, and nothing in them that a reader chokes on."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_mlc_server import masking

#: Colours and other orders to a terminal.
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")

_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}


def clean(text: str, hidden: Sequence[str] = ()) -> str:
    r"""Return a text that UTF-8 can hold, without secrets; a lone surrogate becomes ``\\udcff``."""
    text = masking.hide(text, hidden)
    # Almost no text has one, and a failed encoding is the quickest way to know.
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def visible(text: str) -> str:
    """Return a text without colours, with signs for control characters, as a page shows it."""
    if text.isprintable():
        return text
    text = _ANSI.sub("", text).replace("\r\n", "\n")
    return text.translate(_CONTROLS)


def bounded(text: str, limit: int) -> str:
    """Return the beginning and the end of a text, with a word about what is left out between.

    The end is three times as long: that is where a traceback has its error and a log its news.
    """
    if len(text) <= limit:
        return text
    note = f"\n[... {len(text) - limit} characters left out ...]\n"
    head = limit // 4
    tail = limit - head
    return f"{text[:head]}{note}{text[len(text) - tail :] if tail else ''}"


def shares(sizes: Sequence[int], budget: int) -> list[int]:
    """Divide a budget so that the small get all they need, and the large get equal parts.

    Parameters
    ----------
    sizes
        What each would take.
    budget
        What there is for all.

    Returns
    -------
    list of int
        What each gets, at most its size.
    """
    given = [0] * len(sizes)
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    for position, index in enumerate(order):
        part = budget // (len(order) - position)
        given[index] = min(sizes[index], part)
        budget -= given[index]
    return given
