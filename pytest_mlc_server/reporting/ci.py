"""What a run writes for GitHub Actions and GitLab: collapsible groups, and nothing by accident."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

#: Lines that GitHub's runner takes for commands: `::name …::` at the beginning, white space aside,
#: and the older `##[name …]` anywhere.
_AT_BEGINNING = re.compile(r"^(?=\s*::)", re.MULTILINE)
_ANYWHERE = re.compile(r"##(?=\[)")


def service() -> str:
    """Return where this runs: ``github``, ``gitlab``, or nothing for neither."""
    if os.environ.get("GITHUB_ACTIONS", "").lower() == "true":
        return "github"
    return "gitlab" if os.environ.get("GITLAB_CI", "").lower() == "true" else ""


@contextmanager
def group(reporter: pytest.TerminalReporter, title: str) -> Iterator[None]:
    """Write a section of the terminal's report, collapsible where the service can do that.

    Parameters
    ----------
    reporter
        The terminal's reporter. What is written with it in the block is the section.
    title
        The section's title.
    """
    reporter.ensure_newline()
    where = service()
    if where == "github":
        # Whatever the lines are, none is a command, until the token that nobody can know.
        token = secrets.token_hex(16)
        reporter.line(f"::group::{_data(title)}")
        reporter.line(f"::stop-commands::{token}")
        try:
            yield
        finally:
            reporter.ensure_newline()
            reporter.line(f"::{token}::")
            reporter.line("::endgroup::")
    elif where == "gitlab":
        name = f"mlc_{secrets.token_hex(4)}"
        began = f"section_start:{int(time.time())}:{name}[collapsed=true]"
        reporter.line(f"\x1b[0K{began}\r\x1b[0K{title}")
        try:
            yield
        finally:
            reporter.ensure_newline()
            reporter.line(f"\x1b[0Ksection_end:{int(time.time())}:{name}\r\x1b[0K")
    else:
        reporter.section(title)
        yield


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def harmless(text: str) -> str:
    """Return a text of which GitHub's runner takes no line for a command."""
    return _ANYWHERE.sub("## ", _AT_BEGINNING.sub("| ", text))


class Harmless:
    """Keeps what a server logged from being a command when a failing test shows it."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Change the sections that show what a server wrote, and requests that tests made."""
        report = yield
        report.sections[:] = [
            (title, harmless(text) if title.startswith("mlc server") else text)
            for title, text in report.sections
        ]
        return report
