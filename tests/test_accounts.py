"""What one server did for one test: when it is asked, and what is said of what it did not tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from pytest_mlc_server import PopenServer, accounts, exchanges
from pytest_mlc_server.accounts import UNANSWERED, Account, Accounts, MLCUsage
from pytest_mlc_server.errors import UsageUnknownError
from pytest_mlc_server.meter import NO_COUNTERS
from pytest_mlc_server.usage import RESTARTED
from tests.test_access_log import CHAT, PROBE, RUNNING
from tests.test_meter import Fake, reply

Open = Callable[..., Account]


class Server(Fake):
    """A server with a log, which works when it is told to."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.held = True
        self.log = log
        self.log_path: str | None = str(log)
        self.probe_usage = {"prompt_tokens": 1, "completion_tokens": 1}
        self.prompt = self.completion = 1
        self.answer = lambda handler: reply(
            handler,
            f"prompt_tokens_sum\t{self.prompt}\ncompletion_tokens_sum\t{self.completion}\n",
        )
        log.touch()

    def work(self, prompt: int = 10, completion: int = 5, line: str = CHAT) -> None:
        """Answer one request."""
        self.prompt += prompt
        self.completion += completion
        with self.log.open("a") as file:
            file.write(line)

    def start_again(self) -> None:
        self.prompt = self.completion = 0
        self.pid += 1
        self.restarts += 1
        self.work(1, 1, RUNNING + PROBE)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path / "server.log")
    yield one
    one.close()


@pytest.fixture
def opened(server: Server) -> Iterator[Open]:
    made: list[Account] = []

    def make(shared: str = "") -> Account:
        made.append(Account(cast(PopenServer, server), shared))
        return made[-1]

    yield make
    for account in made:
        account.close()


def figures(account: Account) -> tuple[int | None, int | None, int | None] | None:
    usage = account.usage()
    return None if usage is None else (usage.requests, usage.prompt_tokens, usage.completion_tokens)


def test_a_test_that_asks_nothing_costs_no_question(server: Server, opened: Open) -> None:
    account = opened()
    for _ in range(5):
        account.begin(uses=True)
        account.advance()
        assert account.usage() is None
    assert len(server.requests) == 1


def test_the_look_after_one_test_is_the_look_before_the_next(server: Server, opened: Open) -> None:
    account = opened()
    for prompt in (10, 20, 30):
        account.begin(uses=True)
        server.work(prompt)
        account.advance()
        assert figures(account) == (1, prompt, 5)
    assert len(server.requests) == 4


def test_what_happens_between_tests_is_nobodys(server: Server, opened: Open) -> None:
    account = opened()
    account.begin(uses=True)
    server.work()
    account.advance()
    server.work(100)
    account.begin(uses=False)
    server.work(7)
    account.advance()
    assert figures(account) == (1, 7, 5)


def test_a_server_that_does_not_tell_when_the_test_begins(server: Server, opened: Open) -> None:
    server.state = "starting"
    account = opened()
    server.work()
    account.advance()
    usage = account.usage()
    assert usage is not None
    assert (usage.requests, usage.prompt_tokens) == (1, None)
    assert usage.unknown["prompt_tokens"] == "the server is starting"
    server.state = "ready"
    account.advance()
    server.work()
    account.advance()
    usage = account.usage()
    assert usage is not None
    assert (usage.requests, usage.prompt_tokens) == (2, 10)
    assert usage.note == f"{UNANSWERED}: at least so many"


def test_what_was_known_before_it_broke_is_a_lower_bound(server: Server, opened: Open) -> None:
    account = opened()
    server.work()
    account.advance()
    server.work()
    server.state = "wedged"
    account.advance()
    usage = account.usage()
    assert usage is not None
    assert (usage.requests, usage.prompt_tokens) == (2, 10)
    assert usage.note == "the server is wedged: at least so many"
    # It was only slow: the next look takes in what was missed.
    server.state = "ready"
    account.advance(now=True)
    assert figures(account) == (2, 20, 10)


def test_a_restart_after_which_nobody_looked_at_once(server: Server, opened: Open) -> None:
    account = opened()
    server.work()
    account.advance()
    server.start_again()
    server.state = "starting"
    account.advance()
    server.state = "ready"
    server.work(3, 2)
    account.advance()
    usage = account.usage()
    assert usage is not None
    assert (usage.requests, usage.prompt_tokens, usage.completion_tokens) == (2, 13, 7)
    assert RESTARTED in usage.note


def test_a_server_that_is_stopped_within_a_test(server: Server, opened: Open) -> None:
    account = opened()
    server.work()
    account.settle()
    server.state = "stopped"
    server.work(0, 0, "INFO:     Shutting down\n")
    account.advance()
    usage = account.usage()
    assert usage is not None
    assert (usage.prompt_tokens, usage.note) == (10, "")


def test_a_log_that_is_another(server: Server, opened: Open, tmp_path: Path) -> None:
    account = opened()
    server.work()
    account.advance()
    server.log = tmp_path / "other.log"
    server.log_path = str(server.log)
    server.start_again()
    server.work(3, 2)
    account.advance()
    assert figures(account) == (2, 13, 7)


def test_requests_without_an_answer_are_known_of_our_own_clients(
    server: Server, opened: Open
) -> None:
    account = opened()
    account.begin(uses=True)
    server.work()
    answered = exchanges.begin(server.base_url, "POST", "/v1/chat/completions")
    answered.answered(200, "application/json")
    answered.end()
    exchanges.begin(server.base_url, "POST", "/v1/chat/completions").end("timed out")
    exchanges.begin(server.base_url, "POST", "/v1/chat/completions")  # still under way
    account.advance()
    usage = account.usage()
    assert usage is not None
    assert (usage.requests, usage.errors) == (2, 1)


# --- others use it as well ------------------------------------------------------------------------


def test_of_a_shared_server_a_test_without_it_knows_nothing(server: Server, opened: Open) -> None:
    account = opened("others do")
    account.begin(uses=False)
    server.work()
    account.advance()
    assert account.usage() is None
    assert len(server.requests) == 1


@pytest.mark.parametrize(("fresh", "expected"), [(60.0, (2, 110, 10)), (0.0, (1, 10, 5))])
def test_what_others_did_long_before_a_test_is_not_its_cost(
    fresh: float,
    expected: tuple[int, int, int],
    server: Server,
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accounts, "FRESH", fresh)
    account = opened("others do")
    server.work(100)
    account.begin(uses=True)
    server.work()
    account.advance()
    assert figures(account) == expected
    usage = account.usage()
    assert usage is not None
    assert usage.shared == "others do"


def test_a_server_without_a_log_is_always_asked(server: Server, opened: Open) -> None:
    server.log_path = None
    account = opened("others do")
    account.begin(uses=True)
    account.advance()
    assert account.usage() is None
    server.work()
    account.advance()
    assert figures(account) == (None, 10, 5)


# --- the fixture ----------------------------------------------------------------------------------


def test_the_fixture_says_why_a_number_is_not_known(server: Server) -> None:
    all_ = Accounts(lambda _: "")
    usage = MLCUsage(all_)
    assert usage.requests == 0  # there is no server at all
    server.answer = lambda handler: reply(handler, "seed\t5\n")
    all_.open(cast(PopenServer, server))
    server.work()
    assert usage.requests == 1
    with pytest.raises(UsageUnknownError, match=f"prompt_tokens is not known: {NO_COUNTERS}"):
        _ = usage.prompt_tokens
    assert usage.now().prompt_tokens is None
    all_.close()


def test_a_stopped_server_is_forgotten(server: Server) -> None:
    all_ = Accounts(lambda _: "")
    all_.open(cast(PopenServer, server))
    server.work()
    all_.advance()
    assert len(all_.usages()) == 1
    server.held = False
    all_.begin(uses=True)
    assert all_.usages() == []
    all_.close()
