"""What must not be shown, and how it is hidden: keys, tokens, passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)


def mask(secret: str | None) -> str | None:
    """Return a stand-in for a secret."""
    return "***" if secret else secret


def mask_url(url: str) -> str:
    """Return a URL without the name and password that may stand in it."""
    return re.sub(r"//[^/@]*@", "//***@", url)


def masked_args(arguments: Sequence[str]) -> list[str]:
    """Return a copy of a command line in which the API key is masked, however it is spelled."""
    shown: list[str] = []
    secret = False
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        key = not secret and len(flag) > len("--a") and "--api-key".startswith(flag)
        shown.append("***" if secret else f"{flag}=***" if key and equals else argument)
        secret = key and not equals
    return shown


def masked_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return a copy in which the values of variables whose name looks secret are masked."""
    return {k: "***" if _SECRET_NAME.search(str(k)) else v for k, v in env.items()}


def secrets_of(api_key: str | None, env: Mapping[str, str], url: str | None = None) -> list[str]:
    """Return what must not be shown: a key, variables named like one, a name and password."""
    values = [value for name, value in env.items() if _SECRET_NAME.search(str(name))]
    user = urlsplit(url or "").netloc.rpartition("@")[0]
    values += [user, user.partition(":")[2]]
    # Shorter ones would blot out half of a log, and are no secrets.
    return [value for value in [api_key or "", *values] if len(value) >= 4]


def hide(text: str, hidden: Sequence[str]) -> str:
    """Return a text in which secrets are masked."""
    for value in hidden:
        text = text.replace(value, "***")
    return text
