"""What other people's reports get of us: those of pytest-html and of Allure.

JUnit XML and pytest-json-report take the properties of a test by themselves, and pytest-html takes
the sections of a failing one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import pytest

from pytest_mlc_server.reporting.watch import warn


def is_wanted(config: pytest.Config) -> bool:
    """Tell whether one of those reports is made in this run."""
    return config.pluginmanager.has_plugin("allure_listener") or _html(config)


def _html(config: pytest.Config) -> bool:
    return bool(getattr(config.option, "htmlpath", None))


class Others:
    """Hands the parts of a test's report on; registered with the first server.

    Parameters
    ----------
    config
        pytest's configuration.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._allure = config.pluginmanager.has_plugin("allure_listener")
        self._html = _html(config)

    # Outermost: the report has everything by then.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add what the reports do not find themselves."""
        report = yield
        try:
            self._hand_on(report, item)
        except Exception as error:  # another version of theirs must not end the run
            warn(item, f"other reports may lack the server's part: {type(error).__name__}: {error}")
            self._allure = self._html = False
        return report

    def _hand_on(self, report: pytest.TestReport, item: pytest.Item) -> None:
        if self._allure:
            _attach(report)
            if report.when == "teardown":
                _add_parameters(item.user_properties)
        if self._html and (report.when == "call" or (report.when == "setup" and report.failed)):
            _add_extra(report, item.user_properties)


def _figures(properties: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    # The log is in the sections.
    return [one for one in properties if one[0].startswith("mlc_") and one[0] != "mlc_server_log"]


def _attach(report: pytest.TestReport) -> None:
    import allure

    sections = report.sections if report.failed else ()
    for title, text in sections:
        if title.startswith("mlc "):
            allure.attach(text, name=title, attachment_type=allure.attachment_type.TEXT)


def _add_parameters(properties: Iterable[tuple[str, Any]]) -> None:
    import allure

    for name, value in _figures(properties):
        # Excluded: it is the same test for Allure's history, whatever it cost.
        allure.dynamic.parameter(name, value, excluded=True)


def _add_extra(report: pytest.TestReport, properties: Iterable[tuple[str, Any]]) -> None:
    from pytest_html import extras

    lines = [f"{name} = {value}" for name, value in _figures(properties)]
    if lines:
        extra = extras.text("\n".join(lines), name="mlc server")
        report.__dict__["extras"] = [*getattr(report, "extras", ()), extra]
