"""Tells what each test cost at its servers: in reports, and in what other plugins make of them."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlc_server.accounts import Accounts, MLCUsage
from pytest_mlc_server.reading import written
from pytest_mlc_server.reporting.watch import FACTORY
from pytest_mlc_server.usage import total

if TYPE_CHECKING:
    from pytest_mlc_server.pool import ServerPool
    from pytest_mlc_server.server import PopenServer
    from pytest_mlc_server.session import Session
    from pytest_mlc_server.usage import Usage

#: What becomes a property of the test, and with it of JUnit XML and others.
PROPERTIES = (
    "requests",
    "errors",
    "prompt_tokens",
    "completion_tokens",
    "ttft_s",
    "tokens_per_s",
    "shared",
    "note",
)

EXTERNAL = "this run did not start the server, others may use it as well"
WORKERS = "other workers of the run use the server at the same time"


def why_shared(server: PopenServer, worker: str | None) -> str:
    """Return why others may have part in what a server counts; empty where nobody can.

    Parameters
    ----------
    server
        The server.
    worker
        Id of the pytest-xdist worker, None without xdist.
    """
    if server.config.engine == "external":
        return EXTERNAL
    alone = not worker or os.environ.get("PYTEST_XDIST_WORKER_COUNT") == "1"
    return "" if server.share is None or server.share.exclusive or alone else WORKERS


class Costs:
    """Takes down what each test of a process costs; registered with the first server.

    Parameters
    ----------
    session
        The plugin's session.
    pool
        Its servers.
    """

    def __init__(self, session: Session, pool: ServerPool) -> None:
        self.accounts = session.accounts = Accounts(lambda one: why_shared(one, session.worker))
        pool.on_ready, pool.on_ending = self.accounts.open, self.accounts.settle
        for server in pool.running:
            self.accounts.open(server)
        self._item: pytest.Item | None = None
        self._usages: list[Usage] | None = None
        self._seconds = 0.0

    @pytest.hookimpl
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin, once the servers were looked after and before any fixture is made."""
        self._adopt(item)
        self.accounts.begin(FACTORY in getattr(item, "fixturenames", ()))

    def _adopt(self, item: pytest.Item) -> None:
        self._item, self._usages, self._seconds = item, None, 0.0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Look at the servers when the test is over, before anybody else asks them anything."""
        if self._item is None:
            self._adopt(item)  # the first test, in whose setup the first server was started
        try:
            result = yield
        except KeyboardInterrupt:
            raise  # who pressed Ctrl-C does not want to wait for a server
        except BaseException:
            self.finish(item)
            raise
        self.finish(item)
        return result

    def finish(self, item: pytest.Item) -> list[Usage]:
        """Return what the test cost at each server, and take that down; once for each test."""
        if self._item is not item:
            return []
        if self._usages is None:
            self.accounts.advance()
            self._usages = self.accounts.usages()
            if self._usages:
                _add_properties(item, total(self._usages))
        return self._usages

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add the cost to the report of the call, or of the setup where that failed."""
        failed_setup = call.when == "setup" and call.excinfo is not None
        if failed_setup:
            if self._item is None:
                self._adopt(item)
            self.finish(item)
        report = yield
        if self._item is not item or call.when == "teardown":
            return report
        if self._usages and (failed_setup or call.when == "call"):
            seconds = self._seconds + call.duration
            # An attribute of its own travels from an xdist worker to the controller.
            report.__dict__["mlc_cost"] = as_cost(self._usages, seconds)
        elif call.when == "setup":
            self._seconds = call.duration
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Close what is open before the servers are stopped."""
        self.accounts.close()


def as_cost(usages: list[Usage], seconds: float) -> dict[str, Any]:
    """Return what a report carries: the cost at each server, and at all together.

    Parameters
    ----------
    usages
        The cost at each server.
    seconds
        Duration of the test's setup and call.
    """
    together = total(usages).as_dict()
    del together["server"]
    return {
        **together,
        "seconds": seconds,
        "servers": [usage.as_dict() for usage in usages],
    }


def _add_properties(item: pytest.Item, usage: Usage) -> None:
    ours = {f"mlc_{name}" for name in PROPERTIES}
    # A test that is run again has those of the run before.
    item.user_properties[:] = [one for one in item.user_properties if one[0] not in ours]
    for name in PROPERTIES:
        value = getattr(usage, name)
        if value is not None and value != "":
            value = round(value, 6) if isinstance(value, float) else value
            item.user_properties.append((f"mlc_{name}", value))


def live(session: Session) -> MLCUsage:
    """Return what the test that runs has cost so far; skip it where that is not recorded."""
    if session.accounts is None:
        given = session.given.get("usage")
        why = "" if given is None else f" ({written(given)})"
        pytest.skip(f"mlc_usage: what tests cost is not recorded in this run{why}")
    return MLCUsage(session.accounts)
