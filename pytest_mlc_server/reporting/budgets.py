"""The mark `mlc_budget`: a test that costs more than it may fails, with the figures."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_mlc_server import exchanges
from pytest_mlc_server.reporting.watch import warn
from pytest_mlc_server.usage import Usage, duration, total

if TYPE_CHECKING:
    from pytest_mlc_server.reporting.costs import Costs
    from pytest_mlc_server.session import Session

#: What may be limited, and what that is.
LIMITS = {
    "tokens": "prompt and completion tokens together",
    "seconds": "duration of the test's call",
    "ttft": "seconds to the first token, of the request that takes longest",
}


def limits_of(item: pytest.Item) -> dict[str, float]:
    """Return what a test may cost; of several marks, the nearest one says.

    Raises
    ------
    pytest.UsageError
        If a mark is wrong.
    """
    limits: dict[str, float] = {}
    for mark in item.iter_markers("mlc_budget"):
        _check(item, mark)
        limits = {**mark.kwargs, **limits}
    return limits


def watch(config: pytest.Config, session: Session, items: Iterable[pytest.Item]) -> None:
    """Check the marks of tests, and register what holds the tests to them.

    Raises
    ------
    pytest.UsageError
        If a mark is wrong. On an xdist worker, where that is an internal error, the test says it.
    """
    limits, wrong = {}, {}
    for item in items:
        try:
            limits[item.nodeid] = limits_of(item)
        except pytest.UsageError as error:
            if not hasattr(config, "workerinput"):
                raise
            wrong[item.nodeid] = str(error)
    config.pluginmanager.register(Budgets(session, config, limits, wrong), "mlc-server-budgets")


def _check(item: pytest.Item, mark: pytest.Mark) -> None:
    known = ", ".join(f"{name}=..." for name in LIMITS)
    wrong = f"{item.nodeid}: mark mlc_budget"
    if mark.args:
        raise pytest.UsageError(f"{wrong}{mark.args!r}: name what it limits: {known}")
    if not mark.kwargs:
        raise pytest.UsageError(f"{wrong} limits nothing; there are {known}")
    for name, value in mark.kwargs.items():
        if name not in LIMITS:
            raise pytest.UsageError(f"{wrong}: there is no {name}={value!r}, there are {known}")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise pytest.UsageError(
                f"{wrong}({name}={value!r}): expected a number of 0 or more ({LIMITS[name]})"
            )


class Budgets:
    """Holds tests to what they may cost; registered where tests have the mark.

    Parameters
    ----------
    session
        The plugin's session.
    config
        pytest's configuration.
    limits
        What each test may cost, by node id.
    wrong
        Marks that are wrong, by node id: told by the test.
    """

    #: Not looked up in `time` during a test, which may have stopped that clock.
    _clock = staticmethod(time.perf_counter)

    def __init__(
        self,
        session: Session,
        config: pytest.Config,
        limits: Mapping[str, Mapping[str, float]],
        wrong: Mapping[str, str],
    ) -> None:
        self._session = session
        self._config = config
        self._limits = limits
        self._wrong = wrong
        self._began = 0.0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Fail a test whose mark is wrong, where that could not end the run before."""
        if item.nodeid in self._wrong:
            pytest.fail(self._wrong[item.nodeid], pytrace=False)
        self._began = time.time()

    # Outermost: the test is over, and what it cost has been taken down.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail a test that passed and cost more than it may."""
        limits = self._limits.get(item.nodeid)
        if limits is None:
            return (yield)
        began = self._clock()
        result = yield
        seconds = self._clock() - began
        costs: Costs | None = self._config.pluginmanager.get_plugin("mlc-server-costs")
        usages = costs.finish(item) if costs is not None else []
        usage = total(usages, seconds)
        if not self._session.usage:
            usage = _switched_off(usage)
        verdict = Verdict(limits, usage, self._sent(usages))
        if verdict.over:
            pytest.fail(verdict.text(), pytrace=False)
        for doubt in verdict.doubts:
            warn(item, f"{item.nodeid}: {doubt}")
        return result

    def _sent(self, usages: Iterable[Usage]) -> list[exchanges.Exchange]:
        return [one for usage in usages for one in exchanges.since(usage.server, self._began)]


def _switched_off(usage: Usage) -> Usage:
    why = dict.fromkeys(("total_tokens", "prompt_tokens", "ttft_s"), "--mlc-no-usage")
    return Usage(seconds=usage.seconds, unknown=why)


class Verdict:
    """What a test may cost, against what it cost.

    Parameters
    ----------
    limits
        What it may cost.
    usage
        What it cost.
    sent
        The requests that our own clients sent for it: those are the test's, whoever else uses the
        server.

    Attributes
    ----------
    over : list of str
        What was too much, beyond doubt.
    doubts : list of str
        What cannot be decided.
    """

    def __init__(
        self, limits: Mapping[str, float], usage: Usage, sent: Iterable[exchanges.Exchange] = ()
    ) -> None:
        self.over: list[str] = []
        self.doubts: list[str] = []
        self._usage = usage
        self._sent = list(sent)
        for name, limit in limits.items():
            getattr(self, f"_{name}")(limit)

    def text(self) -> str:
        """Return what is told of a test that cost too much."""
        return f"over its mlc_budget: {'; '.join(self.over)}\nin all: {self._usage}"

    def _seconds(self, limit: float) -> None:
        taken = self._usage.seconds or 0.0
        if taken > limit:
            self.over.append(f"{taken:.3f} seconds of {limit:g}")

    def _tokens(self, limit: float) -> None:
        usage = self._usage
        count = usage.total_tokens
        parts = f"({usage.prompt_tokens} prompt + {usage.completion_tokens} completion)"
        own = sum((one.prompt_tokens or 0) + (one.completion_tokens or 0) for one in self._sent)
        if count is not None and count > limit and not usage.shared:
            self.over.append(f"{count} tokens of {limit:g} {parts}")
        elif own > limit:
            self.over.append(f"{own} tokens of {limit:g} (of the clients of this package)")
        elif count is None:
            self._unknown("tokens", usage.unknown.get("prompt_tokens", ""))
        elif count > limit:
            self._not_only_its_own(f"{count} tokens of {limit:g} {parts}")
        elif usage.note:
            self._unknown("tokens", usage.note)

    def _ttft(self, limit: float) -> None:
        usage = self._usage
        waited = usage.ttft_s
        if (usage.seconds or 0.0) <= limit:
            return  # nothing in it took longer
        if waited is None:
            if usage.requests != 0 and usage.prompt_tokens != 0:
                self._unknown("ttft", usage.unknown.get("ttft_s", ""))
        elif waited > limit:
            least = "at least " if usage.ttft_at_least else ""
            told = f"first token after {least}{duration(waited)} of {duration(limit)}"
            if usage.shared:
                self._not_only_its_own(told)
            else:
                self.over.append(told)
        elif usage.ttft_at_least and not self._all_in_time(limit):
            self._unknown(
                "ttft",
                f"the server tells that of its last request alone, {duration(waited)}, and the "
                f"test made {usage.requests or 'several'}",
            )

    def _all_in_time(self, limit: float) -> bool:
        """Tell whether all requests were our clients', which saw their first bytes in time."""
        waits = [one.ttft_s for one in self._sent]
        known = [wait for wait in waits if wait is not None and wait <= limit]
        return len(known) == len(waits) >= (self._usage.requests or math.inf)

    def _unknown(self, name: str, why: str) -> None:
        self.doubts.append(f"its mlc_budget of {name} was not checked: {why}")

    def _not_only_its_own(self, figures: str) -> None:
        self.doubts.append(f"over its mlc_budget, but not beyond doubt: {figures}; {self._usage}")
