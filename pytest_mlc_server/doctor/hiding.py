"""What a diagnosis must not show, wherever it has come from."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_mlc_server import masking

#: On the command lines of other programs, too.
_KEY = re.compile(r"(--api-key(?:=|\s+))(?!\*\*\*)[^\s'\"]+")
_USER = re.compile(r"(\w://)[^/@\s'\"]+@")


def hide(text: str, secrets: Sequence[str]) -> str:
    """Return a text without secrets.

    Parameters
    ----------
    text
        Any text.
    secrets
        Those that are known.
    """
    text = masking.hide(text, secrets)
    return _USER.sub(r"\1***@", _KEY.sub(r"\1***", text))
