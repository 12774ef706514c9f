"""What the servers of a process did for the test that runs: one account for each server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_mlc_server import exchanges, logs
from pytest_mlc_server.access_log import LONGEST, AccessLog
from pytest_mlc_server.errors import UsageUnknownError
from pytest_mlc_server.meter import Meter
from pytest_mlc_server.usage import RESTARTED, Counters, Tally, Usage, describe, total

if TYPE_CHECKING:
    from pytest_mlc_server.server import PopenServer

#: How old the last look at a server that others use may be, in seconds, to be the test's first.
#: What they do between two tests of this process would count as the test's.
FRESH = 0.05


UNANSWERED = "the server did not answer GET /metrics when the test began"


class Account:
    """What one server did for the test that runs.

    Parameters
    ----------
    server
        The server; what it did so far is not the test's.
    shared
        Why others may use it; empty where nobody can.
    """

    def __init__(self, server: PopenServer, shared: str) -> None:
        self.server = server
        self.shared = shared
        self.began = time.time()
        self._meter = Meter(server)
        self._log: AccessLog | None = None
        self._size = 0
        self._looked = 0.0
        self._start: tuple[object, ...] = ()
        self._counters: Counters | None = None
        self._tally = Tally()
        self._uses = True
        self._over = False
        self._forget()

    def begin(self, uses: bool) -> None:
        """Begin the account of another test.

        Parameters
        ----------
        uses
            Whether the test has asked for the server, as far as its fixtures tell. Of a server
            that others use as well, a test that has not gets no account.
        """
        self._tally = Tally()
        self._uses = uses
        self.began = time.time()
        if self.shared:
            if uses and time.monotonic() - self._looked > FRESH:
                self._forget()
        elif self._grew():
            # Between two tests something was asked: by a teardown, or by ourselves.
            self._forget()

    def advance(self, *, now: bool = False) -> None:
        """Add what the server did since the last look.

        Parameters
        ----------
        now
            Ask it even if its log shows no new request: one may have gone on.
        """
        if self._over or (self.shared and not self._uses and not now):
            return
        if not now and self._log is not None and not self._grew() and not self._tally.requests:
            return
        start, before = self._start, self._counters
        self._look()
        reset = self._read_log()
        tally, after = self._tally, self._counters
        if after is None:
            # What was known stays, as a lower bound, and the next look takes in what is missing.
            self._start, self._counters = start, before
            if tally.known:
                tally.note(f"{self._meter.why}: at least so many")
        elif start != self._start:
            tally.note(RESTARTED)
            tally.add(self._probed(), after, reset=False)
        elif before is None:
            tally.note(f"{UNANSWERED}: at least so many")
        else:
            tally.add(before, after, reset=reset)

    def settle(self) -> None:
        """Look for the last time: the server is about to be stopped while the test goes on."""
        self.advance(now=True)
        self._over = True

    def usage(self, seconds: float | None = None) -> Usage | None:
        """Return what the test cost here; None if it did not use this server."""
        tally, address = self._tally, self.server.base_url
        lost = self._unanswered(address)
        used = tally.requests or tally.prompt_tokens or tally.completion_tokens or lost
        if not used or (self.shared and not self._uses):
            return None
        why = self._meter.why or UNANSWERED
        usage = tally.usage(address, self.shared, why, seconds)
        if lost and usage.requests is not None and usage.errors is not None:
            usage = replace(usage, requests=usage.requests + lost, errors=usage.errors + lost)
        return usage

    def _unanswered(self, address: str) -> int:
        """Count the requests of our own clients without an answer: no log has them."""
        sent = exchanges.since(address, self.began)
        return sum(one.status is None and one.seconds is not None for one in sent)

    def close(self) -> None:
        """Close the connection to the server."""
        self._meter.close()

    def _forget(self) -> None:
        """Begin from here: what was until now is nobody's."""
        self._look()
        if self._log is not None:
            self._log.skip(self._size)

    def _look(self) -> None:
        self._counters = self._meter.ask()
        self._start = (self.server.pid, self.server.restarts)
        path = self.server.log_path
        if path is not None and (self._log is None or self._log.path != path):
            self._log = AccessLog(path)
        if self._log is not None:
            self._size = logs.size(self._log.path)
        self._looked = time.monotonic()

    def _grew(self) -> bool:
        if self._log is None or self.server.log_path not in (None, self._log.path):
            return True
        return logs.size(self._log.path) != self._size

    def _read_log(self) -> bool:
        """Count the requests; tell whether the engine's state was reset among them."""
        log, tally = self._log, self._tally
        if log is None:
            tally.counted = False
            return False
        log.clear()
        log.read(self._size)
        tally.requests += log.requests
        tally.errors += log.errors
        if not log.complete:
            tally.note(f"the log grew by more than {LONGEST >> 20} MiB at once")
        return log.resets > 0 and not self.shared

    def _probed(self) -> Counters:
        """Return what a server that was just started has counted: its first token."""
        usage = self.server.probe_usage
        return Counters(usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))


class Accounts:
    """The accounts of all servers of a process.

    Parameters
    ----------
    shared
        Returns why others may use a server; empty where nobody can.
    """

    def __init__(self, shared: Callable[[PopenServer], str]) -> None:
        self._shared = shared
        self._accounts: dict[int, Account] = {}
        self._lock = threading.RLock()  # threads of a test may all ask
        self._began = time.monotonic()

    def open(self, server: PopenServer) -> None:
        """Open the account of a server that has become ready, or is used again."""
        with self._lock:
            old = self._accounts.pop(id(server), None)
            if old is not None:
                old.close()
            self._accounts[id(server)] = Account(server, self._shared(server))

    def settle(self, server: PopenServer) -> None:
        """Look at a server that is about to be stopped while the test goes on."""
        with self._lock:
            if id(server) in self._accounts:
                self._accounts[id(server)].settle()

    def begin(self, uses: bool) -> None:
        """Begin the accounts of another test, which may have asked for servers."""
        with self._lock:
            self._began = time.monotonic()
            for key, account in list(self._accounts.items()):
                if not account.server.held:
                    account.close()
                    del self._accounts[key]
                else:
                    account.begin(uses)

    def advance(self, *, now: bool = False) -> None:
        """Add what the servers did since the last look: as `Account.advance`."""
        with self._lock:
            for account in self._accounts.values():
                account.advance(now=now)

    def usages(self) -> list[Usage]:
        """Return what the test has cost at each server that it used, at the last look."""
        with self._lock:
            found = [account.usage() for account in self._accounts.values()]
        return [one for one in found if one is not None]

    @property
    def seconds(self) -> float:
        """How long ago the test began."""
        return time.monotonic() - self._began

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for account in self._accounts.values():
                account.close()
            self._accounts.clear()


class MLCUsage:
    """What a test has cost so far: the fixture `mlc_usage`.

    Each attribute of `Usage` asks the servers when it is read, and is a number or a text: what is
    not known raises `UsageUnknownError`, which says why. `now` gives all numbers of one moment.

    Parameters
    ----------
    accounts
        The accounts of the process.
    """

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def now(self) -> Usage:
        """Return what the test has cost until now; what is not known is None."""
        self._accounts.advance(now=True)
        return total(self._accounts.usages(), self._accounts.seconds)

    def servers(self) -> list[Usage]:
        """Return what it has cost until now at each server that it used."""
        self._accounts.advance(now=True)
        return self._accounts.usages()

    def __getattr__(self, name: str) -> object:
        if name.startswith("_") or name not in _ATTRIBUTES:
            raise AttributeError(f"mlc_usage has no attribute {name!r}")
        usage = self.now()
        value = getattr(usage, name)
        if value is None:
            why = usage.unknown.get(name, "")
            raise UsageUnknownError(f"mlc_usage.{name} is not known: {why}")
        return value

    if TYPE_CHECKING:
        requests: int
        errors: int
        prompt_tokens: int
        completion_tokens: int
        total_tokens: int
        prefill_s: float
        decode_s: float
        ttft_s: float
        tokens_per_s: float
        seconds: float
        shared: str
        note: str
        ttft_at_least: bool

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *_ATTRIBUTES]

    def __repr__(self) -> str:
        return f"<mlc_usage: {describe(self.now())}>"

    def __str__(self) -> str:
        return describe(self.now())


_ATTRIBUTES = frozenset(Usage.__dataclass_fields__) - {"server", "unknown"} | {"total_tokens"}
