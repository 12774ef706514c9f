"""Keeps secrets out of a report that only the process with the servers knows."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_mlc_server.reporting.report import attempts, texts

if TYPE_CHECKING:
    from pytest_mlc_server.pool import ServerPool


class HiddenSecrets:
    """Hands over a failure's text without secrets, where it has one.

    A key that was made up for a server is known here alone: not to the controller, which writes
    the report, and which must not be told either, since others write down what travels there.

    Parameters
    ----------
    pool
        The servers of this process.
    """

    def __init__(self, pool: ServerPool) -> None:
        self._pool = pool

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Look at the text of a failure."""
        report = yield
        if report.failed:
            text = hidden = report.longreprtext
            for server in self._pool.history:
                hidden = server.hide_secrets(hidden)
            if hidden != text:
                report.__dict__["mlc_text"] = texts.bounded(hidden, attempts.LONGEST)
        return report
