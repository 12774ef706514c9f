"""Rules of the simulator as a test writes them: ``mlc_sim.when("weather").reply("Sunny")``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.simulator.asked import Wanted, check_calls
from pytest_mlc_server.simulator.replies import Reply, as_reply, given
from pytest_mlc_server.simulator.requests import names

if TYPE_CHECKING:
    from typing_extensions import Self

    from pytest_mlc_server.simulator.fixture import MLCSim
    from pytest_mlc_server.simulator.requests import SimRequest

    ReplyFunction = Callable[[SimRequest], object]

#: Faults that end the server, or its engine.
DEADLY = ("wedge", "crash")

#: Conditions whose parameter has a shorter name than the control endpoints have.
_IN_WORDS = {"last_message": "containing", "last_message_regex": "regex"}


def matching(
    containing: str | None = None,
    *,
    regex: str | None = None,
    conversation: str | None = None,
    conversation_regex: str | None = None,
    endpoint: str | None = None,
    model: str | None = None,
    tools: Iterable[str] | None = None,
    headers: Mapping[str, str] | None = None,
    call: int | Iterable[int] | None = None,
) -> dict[str, Any]:
    """Return conditions, named as in `MLCSim.when`, as the control endpoints take them."""
    return given(
        last_message=containing,
        last_message_regex=regex,
        conversation=conversation,
        conversation_regex=conversation_regex,
        endpoint=endpoint,
        model=model,
        tools=None if tools is None else names(tools),
        headers=None if headers is None else dict(headers),
        call=call if call is None or isinstance(call, int) else list(call),
    )


class Rule:
    """A rule that the simulator follows.

    Parameters
    ----------
    sim
        The simulator.
    id_
        What the simulator calls it.
    name
        What messages call it.

    Attributes
    ----------
    id : str
        What the simulator calls it; `SimRequest.rule` has it.
    name : str
        What messages call it.
    """

    def __init__(self, sim: MLCSim, id_: str, name: str) -> None:
        self._sim = sim
        self.id = id_
        self.name = name

    def __repr__(self) -> str:
        return f"<Rule {self.id}: {self.name}>"

    @property
    def calls(self) -> list[SimRequest]:
        """The requests that it answered, in the order in which they came."""
        return self._sim.calls(rule=self.id)

    def assert_called(self, times: int | None = None) -> list[SimRequest]:
        """Check that it answered so many requests, at least one by default; return them.

        Raises
        ------
        AssertionError
            If it did not, with what was asked.
        """
        __tracebackhide__ = True
        whose = f"{self.id}, {self.name}"
        return check_calls(self._sim.requests, Wanted(rule=self.id), times, whose)

    def assert_not_called(self) -> None:
        """Check that it answered nothing.

        Raises
        ------
        AssertionError
            If it did, with what was asked.
        """
        __tracebackhide__ = True
        self.assert_called(times=0)

    def remove(self) -> None:
        """Have the simulator forget it; its calls stay recorded."""
        __tracebackhide__ = True
        self._sim.control.call("DELETE", f"/sim/rules/{self.id}")


class When:
    """Which requests a rule is for; its methods say what they are answered, and make the rule.

    Parameters
    ----------
    sim
        The simulator.
    match
        What must hold, as the control endpoints take it.
    times
        How many requests the rule is for; None for all.
    name
        What messages call the rule.

    Attributes
    ----------
    name : str
        What messages call the rule; unless given, its conditions.
    """

    def __init__(
        self, sim: MLCSim, match: Mapping[str, Any], times: int | None, name: str | None
    ) -> None:
        self._sim = sim
        self._rule: dict[str, Any] = given(name=name, times=times)
        if match:
            self._rule["when"] = dict(match)
        shown = ", ".join(f"{_IN_WORDS.get(key, key)}={value!r}" for key, value in match.items())
        self.name = repr(name) if name else f"when({shown})"
        self.answered = False
        """Whether somebody said the answer."""

    def __repr__(self) -> str:
        return f"<{self.name}{'' if self.answered else ': no rule yet, say what it answers'}>"

    def latency(
        self,
        ttft: float | None = None,
        itl: float | None = None,
        *,
        prefill_per_token: float | None = None,
        jitter: float | None = None,
        slowdown: float | None = None,
        seed: int | None = None,
    ) -> Self:
        """Have the answer take its time, as `MLCSim.latency`; then say what it is."""
        self._rule["latency"] = given(
            ttft=ttft,
            itl=itl,
            prefill_per_token=prefill_per_token,
            jitter=jitter,
            slowdown=slowdown,
            seed=seed,
        )
        return self

    # --- what is said -----------------------------------------------------------------------------

    def reply(self, *replies: object, chunks: Iterable[str] | None = None) -> Rule:
        """Answer with a text, or with one after the other: the last one goes on.

        Parameters
        ----------
        *replies
            Each a text, a dict or list (said as JSON), or a `Reply`.
        chunks
            Instead: one text, cut into the events of a stream.

        Raises
        ------
        ValueError
            If the simulator finds a mistake.
        TypeError
            If an answer is none.
        """
        __tracebackhide__ = True
        add = self._add
        if (chunks is None) == (not replies):
            raise TypeError("give either the answer (or several), or its chunks")
        return add(*map(as_reply, replies)) if chunks is None else add(Reply.chunks(*chunks))

    def reply_sequence(self, *replies: object) -> Rule:
        """Answer the first request with the first, the second with the second; the last goes on."""
        __tracebackhide__ = True
        return self.reply(*replies)

    def reply_json(self, value: Any) -> Rule:
        """Answer with a value as JSON."""
        __tracebackhide__ = True
        return self._add(Reply.json(value))

    def reply_file(self, path: str | os.PathLike[str]) -> Rule:
        """Answer with the text of a file (UTF-8), which is read at once."""
        __tracebackhide__ = True
        return self._add(Reply.file(path))

    def reply_random(self, seed: int = 0, tokens: int | None = None) -> Rule:
        """Answer with a text that follows from a seed.

        Parameters
        ----------
        seed
            What it is drawn with; a request's own ``seed`` goes before. Default: 0.
        tokens
            How many tokens it has. Default: as many as the request's ``max_tokens`` allows.
        """
        __tracebackhide__ = True
        return self._add(Reply.random(seed, tokens))

    def reply_echo(self) -> Rule:
        """Answer with the prompt."""
        __tracebackhide__ = True
        return self._add(Reply.echo())

    def reply_with(self, function: ReplyFunction, *, timeout: float | None = None) -> Rule:
        """Have a function of the test answer.

        Parameters
        ----------
        function
            Gets the `SimRequest`, in a thread of the test's process, and returns a text, a dict or
            list (said as JSON), or a `Reply`. An exception in it fails the test.
        timeout
            How long it may take, in seconds. Default: 30.
        """
        __tracebackhide__ = True
        reply = Reply(given(function=True, timeout=timeout))
        return self._add(reply, function=function)

    def call_tool(self, name: str, /, **arguments: Any) -> Rule:
        """Answer with the call of a tool, which the request has to offer.

        Parameters
        ----------
        name
            The function's name, a Python identifier.
        **arguments
            Its keyword arguments.
        """
        __tracebackhide__ = True
        return self._add(Reply.tool_call(name, **arguments))

    # --- what goes wrong --------------------------------------------------------------------------

    def fail(
        self,
        status: int = 500,
        message: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> Rule:
        """Answer with an HTTP error, with the real server's body unless another is given.

        Parameters
        ----------
        status
            The status, from 400 to 599. Default: 500.
        message
            What the body says.
        headers
            More headers, such as ``{"Retry-After": "1"}``.
        body
            The body, as JSON or as a text, in place of the real server's.
        """
        __tracebackhide__ = True
        return self._add(Reply.fail(status, message, headers=headers, body=body))

    def reset(self, after: int | None = None, *, reply: object = None) -> Rule:
        """Reset the connection, after so many events of a stream.

        Parameters
        ----------
        after
            How many events of a stream come before it. Default: 0, not a byte of the answer.
        reply
            The answer within which it happens. Default: what the simulator answers without a rule.
        """
        __tracebackhide__ = True
        return self._add(Reply.reset(after, reply=reply))

    def disconnect(self, after: int | None = None, *, reply: object = None) -> Rule:
        """Close the connection in the middle of the answer, after so many events of a stream.

        Parameters
        ----------
        after
            How many events of a stream come before it; an answer in one piece has its headers.
            Default: 0.
        reply
            The answer within which it happens. Default: what the simulator answers without a rule.
        """
        __tracebackhide__ = True
        return self._add(Reply.disconnect(after, reply=reply))

    def stall(
        self, after: int | None = None, seconds: float | None = None, *, reply: object = None
    ) -> Rule:
        """Stop in the middle of the answer, for ever or for some seconds.

        Parameters
        ----------
        after
            How many events of a stream come before it; an answer in one piece has its headers.
            Default: 0.
        seconds
            How long, in seconds. Default: until the client goes away or the test ends.
        reply
            The answer within which it happens. Default: what the simulator answers without a rule.
        """
        __tracebackhide__ = True
        return self._add(Reply.stall(after, seconds, reply=reply))

    def malformed(self, after: int | None = None, *, reply: object = None) -> Rule:
        """Cut an event of the stream off within its JSON, or an answer in one piece.

        Parameters
        ----------
        after
            How many events of a stream come before it; the stream goes on behind it. Default: 0.
        reply
            The answer within which it happens. Default: what the simulator answers without a rule.
        """
        __tracebackhide__ = True
        return self._add(Reply.malformed(after, reply=reply))

    def wedge(self) -> Rule:
        """Have the engine's thread die; the server lives on, and generates nothing any more."""
        __tracebackhide__ = True
        return self._add(Reply.wedge())

    def crash(self, signal: str | None = None) -> Rule:
        """End the server's process by a signal, SIGSEGV where none is named."""
        __tracebackhide__ = True
        return self._add(Reply.crash(signal))

    @property
    def _add(self) -> Callable[..., Rule]:
        # Looked up before the answer is made: a mistake in that is told where it stands, and not
        # once more at the test's end.
        self.answered = True
        return self._make

    def _make(self, *replies: Reply, function: ReplyFunction | None = None) -> Rule:
        __tracebackhide__ = True
        data = dict(self._rule)
        if len(replies) == 1:
            data["reply"] = replies[0].data
        else:
            data["replies"] = [reply.data for reply in replies]
        if any(reply.fault in DEADLY for reply in replies):
            self._sim.expect_death(f"{self.name} of mlc_sim")
        return Rule(self._sim, self._sim.add_rule(data, function), self.name)
