"""A server that is already there: whether it answers."""

from __future__ import annotations

import re

from pytest_mlc_server import masking
from pytest_mlc_server.doctor.case import Case
from pytest_mlc_server.doctor.findings import Section
from pytest_mlc_server.doctor.programs import Check, HangsError
from pytest_mlc_server.errors import MLCServerError

#: How long a server that is there may take to list its models, in seconds.
PATIENCE = 10.0


def ask(case: Case, limit: float) -> str:
    """Return the model that a run would use; it is asked for no token.

    Raises
    ------
    MLCServerError
        If the server does not answer as it should.
    """
    from pytest_mlc_server import external

    patience = min(PATIENCE, limit, case.config.startup_timeout)
    return external.attach(case.config.replace(ready="http", startup_timeout=patience))


def section(case: Case, answer: Check[str]) -> Section:
    """Tell whether the server answers."""
    result = Section("url")
    url = masking.mask_url(case.config.url or "")
    result.facts["url"] = url
    remedy = "start it, or look at the URL: the server's base URL, without /v1"
    try:
        model = answer.get()
    except HangsError:
        result.add("url.fails", f"{url} did not answer within the time limit", remedy)
        return result
    except MLCServerError as error:
        text = _short(masking.mask_url(error.text))
        headline, _, question = text.partition("\n")
        said, found = _remedy(headline)
        result.add("url.fails", said, found or remedy if question or not found else found)
        return result
    key = "the key is accepted" if case.config.api_key else "no key was needed"
    result.facts["model"] = model
    result.add("url.answers", f"{url} lists the model {model!r}; {key}")
    return result


def _short(text: str) -> str:
    """Return an error without the layers of the HTTP library: what the system says is enough."""
    found = re.search(r"^(.*?): HTTPS?ConnectionPool\(.*?\[Errno -?\d+\] ([^'\")\n]+)", text)
    if found is None:
        return text
    return f"{found[1]}: {found[2]}{text[len(text.partition(chr(10))[0]) :]}"


def _remedy(text: str) -> tuple[str, str]:
    for mark in (": set its key", "; leave the model out"):
        before, found, after = text.partition(mark)
        if found:
            return before, (mark[2:] + after).strip()
    return text, ""
