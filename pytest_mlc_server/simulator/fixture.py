"""`MLCSim`: what the fixture ``mlc_sim`` is, usable without pytest too."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.errors import SimulatorError
from pytest_mlc_server.simulator import deaths
from pytest_mlc_server.simulator.asked import Asked, unexpected
from pytest_mlc_server.simulator.control import Control
from pytest_mlc_server.simulator.faults import Faults
from pytest_mlc_server.simulator.functions import Functions
from pytest_mlc_server.simulator.replies import given
from pytest_mlc_server.simulator.rules import DEADLY, When, matching

if TYPE_CHECKING:
    from typing_extensions import Self

    from pytest_mlc_server.server import PopenServer
    from pytest_mlc_server.simulator.rules import ReplyFunction


class MLCSim(Asked):
    """Scripts a running simulator, and tells what it was asked.

    A ``with`` block begins afresh (`clear`) and ends as a test does (`end`).

    Parameters
    ----------
    server
        A server with engine ``sim``, started by this process.

    Attributes
    ----------
    server : PopenServer
        The simulator's handle.
    faults : Faults
        What goes wrong whatever a request asks.
    control
        The client of the simulator's control endpoints.

    Raises
    ------
    SimulatorError
        If the server is no simulator, or is not running.
    """

    def __init__(self, server: PopenServer) -> None:
        if not server.sim_token or not server.base_url:
            raise SimulatorError(
                f"only a running simulator can be scripted, and this is {server!r}"
            )
        self.server = server
        self.faults = Faults(self)
        super().__init__(Control(server.base_url, server.sim_token))
        self._functions = Functions(self.control)
        self._begun: list[When] = []

    def __repr__(self) -> str:
        return f"<MLCSim at {self.server.base_url}>"

    def __enter__(self) -> Self:
        """Begin afresh."""
        self.clear()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do what `end` does; a block that failed has said already what is wrong."""
        __tracebackhide__ = True
        try:
            self.end()
        except AssertionError:
            if kind is None:
                raise

    # --- what is answered -------------------------------------------------------------------------

    def when(
        self,
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
        times: int | None = None,
        name: str | None = None,
    ) -> When:
        """Begin a rule: say which requests it is for, then what they are answered.

        All conditions must hold; without any, it is for every request. The first rule that fits
        counts, in the order in which they were made; those of a script file come after them.

        Parameters
        ----------
        containing, regex
            What the last message of a chat, or the prompt, contains.
        conversation, conversation_regex
            What all messages together contain, written ``role: text``, one below the other.
        endpoint
            ``chat``, ``completions``, ``embeddings``, ``models``, or a path.
        model
            The request's ``model``.
        tools
            Names of tools that the request offers; it may offer others.
        headers
            Headers with these values.
        call
            Which of the requests that fulfil everything else: 2 is the second; or several numbers.
        times
            How many requests the rule is for; later ones go on to the next rule.
        name
            What messages call the rule.
        """
        match = matching(
            containing,
            regex=regex,
            conversation=conversation,
            conversation_regex=conversation_regex,
            endpoint=endpoint,
            model=model,
            tools=tools,
            headers=headers,
            call=call,
        )
        when = When(self, match, times, name)
        self._begun.append(when)
        return when

    def default(self, default: str, *, seed: int | None = None) -> None:
        """Say what answers a request that no rule is for.

        Parameters
        ----------
        default
            ``echo`` (the prompt), ``random`` (a text that follows from `seed`), or ``fail``: a
            status 500 that says what was asked, and a failed test at its end.
        seed
            Of ``random``.
        """
        __tracebackhide__ = True
        self.control.call("PUT", "/sim/default", given(default=default, seed=seed))

    def latency(
        self,
        ttft: float | None = None,
        itl: float | None = None,
        *,
        prefill_per_token: float | None = None,
        jitter: float | None = None,
        slowdown: float | None = None,
        seed: int | None = None,
    ) -> None:
        """Have answers take their time, in seconds; what is left out takes none.

        Parameters
        ----------
        ttft, itl
            Until the first token, and from one to the next.
        prefill_per_token
            Added to `ttft` for each token of the prompt.
        jitter
            By which part a time may be longer or shorter, from 0 to 1, drawn with `seed`.
        slowdown
            By which part all becomes slower with each other request that is running.
        seed
            Of the jitter.
        """
        __tracebackhide__ = True
        body = given(
            ttft=ttft,
            itl=itl,
            prefill_per_token=prefill_per_token,
            jitter=jitter,
            slowdown=slowdown,
            seed=seed,
        )
        self.control.call("PUT", "/sim/latency", body)

    def add_rule(self, rule: Mapping[str, Any], function: ReplyFunction | None = None) -> str:
        """Make a rule from the form that script files have, and return its id.

        Parameters
        ----------
        rule
            Its keys are those of ``[[rules]]`` in a script file.
        function
            What answers, for a rule whose reply is ``{"function": True}``.
        """
        __tracebackhide__ = True
        make = functools.partial(self._make_rule, rule)
        return make() if function is None else self._functions.add(make, function)

    def _make_rule(self, rule: Mapping[str, Any]) -> str:
        __tracebackhide__ = True
        return str(self.control.call("POST", "/sim/rules", rule)["id"])

    # --- what goes wrong --------------------------------------------------------------------------

    def fail(self, status: int = 500, message: str | None = None, **how: Any) -> None:
        """Answer requests with an HTTP error, as `faults.fail`.

        Parameters
        ----------
        status
            The status, from 400 to 599. Default: 500.
        message
            What the body says.
        **how
            `headers`, `body`, and which requests: `rate` with `seed`, `times`, `when`.
        """
        __tracebackhide__ = True
        self.faults.fail(status, message, **how)

    def wedge(self) -> None:
        """Have the engine's thread die now; the process lives on.

        The server's guardian finds it and kills the process, as it does with a real server, so
        that requests get a closed connection. The next test gets a new server.
        """
        __tracebackhide__ = True
        self._end("wedge")

    def crash(self, signal: str | None = None) -> None:
        """End the server's process now, by a signal (SIGSEGV where none is named).

        The next test gets a new server.
        """
        __tracebackhide__ = True
        self._end("crash", given(signal=signal))

    def _end(self, how: str, body: object = None) -> None:
        __tracebackhide__ = True
        self.expect_death(f"mlc_sim.{how}()")
        failure = None
        try:
            self.control.call("POST", f"/sim/{how}", body)
        except SimulatorError as error:
            failure = error  # it may have ended before it could answer
        except ValueError:
            self.server.provoked = ""
            raise
        deaths.await_death(self.server, failure)

    def expect_death(self, cause: str) -> None:
        """Tell the handle that the server ends or wedges because a test wants it."""
        self.server.provoked = cause

    # --- the beginning and the end ----------------------------------------------------------------

    def clear(self) -> None:
        """Forget rules, faults, latency, default and requests: back to the script file's."""
        __tracebackhide__ = True
        self.control.call("POST", "/sim/reset")
        self.server.provoked = ""

    def verify(self) -> None:
        """Check that nothing is wrong so far.

        No reply function failed, each `when` became a rule, and, where requests fail that no rule
        is for, there was none.

        Raises
        ------
        AssertionError
            Otherwise, with the tracebacks, and with what was asked and why no rule matched.
        """
        __tracebackhide__ = True
        self._verify(self._records())

    def _verify(self, records: Any) -> None:
        __tracebackhide__ = True
        problems = [f"a reply function failed:\n{text}" for text in self._functions.failures]
        problems += [
            f"{when.name} says no answer, so it made no rule: .reply(...) must follow, say"
            for when in self._begun
            if not when.answered
        ]
        problems += filter(None, [unexpected(records)])
        if problems:
            raise AssertionError(self.server.hide_secrets("\n\n".join(problems)))

    def end(self) -> None:
        """End a test: `verify`, and leave nothing for the next one.

        A simulator that ended in the test is no error here: its handle tells.

        Raises
        ------
        AssertionError
            As `verify`.
        """
        __tracebackhide__ = True
        self._functions.close()
        records: Any = {"requests": [], "refused": []}
        try:
            if self.server.poll() == "ready":
                records = self._records()
                if any(record.get("fault") in DEADLY for record in records["requests"]):
                    deaths.await_death(self.server)
                else:
                    self.clear()
                    self.control.close()
        except SimulatorError:
            if not deaths.is_gone(self.server):
                raise
        self._verify(records)
