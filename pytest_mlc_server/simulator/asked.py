"""What the simulator was asked: found again, counted, checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.simulator.requests import SimRequest, names

if TYPE_CHECKING:
    from typing import TypedDict

    from typing_extensions import Unpack

    from pytest_mlc_server.simulator.control import Control

    class Criteria(TypedDict, total=False):
        """Which recorded requests count."""

        regex: str | None
        conversation: str | None
        endpoint: str | None
        model: str | None
        tools: Iterable[str] | None
        headers: Mapping[str, str] | None
        stream: bool | None
        status: int | None
        rule: str | None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What requests have in common that are looked for; what is not given is not looked at.

    Attributes
    ----------
    containing, regex
        What the last message, or the prompt, contains.
    conversation
        What any message contains.
    endpoint
        ``chat``, ``completions``, ``embeddings``, ``models``, or a path.
    model
        The request's model.
    tools
        Names of tools that are offered, among others.
    headers
        Headers with these values.
    stream
        Whether a stream is asked for.
    status
        Of the answer.
    rule
        Id of the rule that matched.
    """

    containing: str | None = None
    regex: str | None = None
    conversation: str | None = None
    endpoint: str | None = None
    model: str | None = None
    tools: Iterable[str] | None = None
    headers: Mapping[str, str] | None = None
    stream: bool | None = None
    status: int | None = None
    rule: str | None = None

    def fits(self, request: SimRequest) -> bool:
        """Tell whether a request is one of them."""
        equal = {
            "model": request.model,
            "stream": request.stream,
            "status": request.status,
            "rule": request.rule,
        }
        return (
            all(getattr(self, name) in (None, value) for name, value in equal.items())
            and self.endpoint in (None, request.endpoint, request.path)
            and (self.containing is None or self.containing in request.last_message)
            and (self.regex is None or re.search(self.regex, request.last_message) is not None)
            and (self.conversation is None or self.conversation in request.conversation)
            and set(names(self.tools or ())) <= set(request.tools)
            and all(
                request.headers.get(name) == value for name, value in (self.headers or {}).items()
            )
        )

    def shown(self) -> str:
        """Return what is looked for, for an error message."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return ", ".join(f"{name}={value!r}" for name, value in given.items())


def check_calls(
    requests: Iterable[SimRequest], wanted: Wanted, times: int | None, whose: str = ""
) -> list[SimRequest]:
    """Return the requests that fit, if they are as many as expected.

    Parameters
    ----------
    requests
        All that were recorded.
    wanted
        Which count.
    times
        How many there must be; None for at least one.
    whose
        What the message says that they have in common, where `wanted` says it worse.

    Raises
    ------
    AssertionError
        If there are more or fewer, with what was asked instead.
    """
    __tracebackhide__ = True
    every = list(requests)
    found = [request for request in every if wanted.fits(request)]
    if len(found) == times or (times is None and found):
        return found
    number = {None: "at least one request", 0: "no request", 1: "1 request"}
    expected = number.get(times, f"{times} requests")
    criteria = whose or wanted.shown()
    if criteria:
        expected += f" with {criteria}"
    raise AssertionError(f"expected {expected}; there were {len(found) or 'none'}\n{asked(every)}")


def asked(requests: list[SimRequest], title: str = "what was asked") -> str:
    """Return a list of requests for an error message."""
    if not requests:
        return f"{title}: nothing at all"
    lines = [f"  {number}. {one.shown()}" for number, one in enumerate(requests, 1)]
    return "\n".join([f"{title}:", *lines])


def unexpected(records: Mapping[str, Any]) -> str:
    """Return what was asked that no rule is for and must not be; empty for nothing."""
    refused = set(records["refused"])
    lines = []
    for record in records["requests"]:
        if record["id"] in refused:
            request = SimRequest.from_record(record)
            lines.append(f"  {request.shown()}")
            lines += [f"    {rule}: {reason}" for rule, reason in request.unmatched]
            lines += [] if request.unmatched else ["    there is no rule"]
    if not lines:
        return ""
    title = "the simulator was asked what no rule is for, and its default is to fail"
    return "\n".join([title, *lines])


class Asked:
    """The requests that a simulator recorded.

    Parameters
    ----------
    control
        The simulator.

    Attributes
    ----------
    control : Control
        The simulator's control endpoints.
    """

    def __init__(self, control: Control) -> None:
        self.control = control

    @property
    def requests(self) -> list[SimRequest]:
        """All that the application sent during this test, in the order in which it came.

        A request is there before its answer ends.
        """
        __tracebackhide__ = True
        return [SimRequest.from_record(record) for record in self._records()["requests"]]

    @property
    def last_request(self) -> SimRequest:
        """The last of them.

        Raises
        ------
        AssertionError
            If there is none.
        """
        __tracebackhide__ = True
        requests = self.requests
        if not requests:
            raise AssertionError("the simulator was asked nothing yet")
        return requests[-1]

    def calls(
        self, containing: str | None = None, **criteria: Unpack[Criteria]
    ) -> list[SimRequest]:
        """Return the requests with which this holds.

        Parameters
        ----------
        containing
            What the last message, or the prompt, contains.
        **criteria
            `regex`, `conversation`, `endpoint`, `model`, `tools`, `headers` as in `when`; `stream`
            (asked for), `status` (of the answer), `rule` (its id).
        """
        __tracebackhide__ = True
        wanted = Wanted(containing=containing, **criteria)
        return [request for request in self.requests if wanted.fits(request)]

    def assert_called(
        self,
        containing: str | None = None,
        *,
        times: int | None = None,
        **criteria: Unpack[Criteria],
    ) -> list[SimRequest]:
        """Check that there were so many requests, at least one by default; return them.

        Parameters
        ----------
        containing, **criteria
            As in `calls`.
        times
            How many.

        Raises
        ------
        AssertionError
            If there were more or fewer, with what was asked instead.
        """
        __tracebackhide__ = True
        return check_calls(self.requests, Wanted(containing=containing, **criteria), times)

    def assert_not_called(
        self, containing: str | None = None, **criteria: Unpack[Criteria]
    ) -> None:
        """Check that there was no such request.

        Raises
        ------
        AssertionError
            If there was, with what was asked.
        """
        __tracebackhide__ = True
        check_calls(self.requests, Wanted(containing=containing, **criteria), 0)

    def _records(self) -> Any:
        __tracebackhide__ = True
        return self.control.call("GET", "/sim/requests")
