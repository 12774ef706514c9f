"""What the simulator is told to answer, as values: for sequences, and for reply functions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def given(**values: Any) -> dict[str, Any]:
    """Return the values that are not None: what is left out has the simulator's default."""
    return {name: value for name, value in values.items() if value is not None}


def _fault(kind: str, **details: Any) -> dict[str, Any]:
    return {"kind": kind, **given(**details)}


class Reply:
    """One answer of the simulator.

    Made by the static methods: ``Reply.text("Sunny")``, ``Reply.tool_call("get_weather",
    city="Oslo")``, ``Reply.fail(503)``. What goes wrong within an answer takes the answer as
    `reply`; without one, the simulator's default answer begins.

    Parameters
    ----------
    data
        As the simulator's control endpoints take it.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = dict(data)

    def __repr__(self) -> str:
        return f"<Reply {self.data}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reply) and other.data == self.data

    __hash__ = None  # type: ignore[assignment]  # what it holds need not be hashable

    @property
    def fault(self) -> str:
        """The kind of its fault; empty without one."""
        return str((self.data.get("fault") or {}).get("kind", ""))

    # --- what is said -----------------------------------------------------------------------------

    @staticmethod
    def text(text: str) -> Reply:
        """Say a text."""
        return Reply({"text": text})

    @staticmethod
    def chunks(*chunks: str) -> Reply:
        """Say a text, cut into the events of a stream."""
        return Reply({"chunks": list(chunks)})

    @staticmethod
    def json(value: Any) -> Reply:
        """Say a value as JSON."""
        return Reply({"json": value})

    @staticmethod
    def file(path: str | os.PathLike[str]) -> Reply:
        """Say the text of a file (UTF-8), which is read at once."""
        # newline="": the text is the file's, to the byte.
        with open(path, encoding="utf-8", newline="") as file:
            return Reply({"text": file.read()})

    @staticmethod
    def tool_call(name: str, /, **arguments: Any) -> Reply:
        """Call one of the tools that the request offers.

        Parameters
        ----------
        name
            The function's name, a Python identifier.
        **arguments
            Its keyword arguments.
        """
        return Reply({"tool_calls": [{"name": name, "arguments": arguments}]})

    @staticmethod
    def tool_calls(*calls: tuple[str, Mapping[str, Any]]) -> Reply:
        """Call several tools: pairs of a name and its arguments."""
        named = [{"name": name, "arguments": dict(arguments)} for name, arguments in calls]
        return Reply({"tool_calls": named})

    @staticmethod
    def echo() -> Reply:
        """Say the prompt again."""
        return Reply({"echo": True})

    @staticmethod
    def random(seed: int = 0, tokens: int | None = None) -> Reply:
        """Say a text that follows from a seed.

        Parameters
        ----------
        seed
            What it is drawn with; a request's own ``seed`` goes before. Default: 0.
        tokens
            How many tokens it has. Default: as many as the request's ``max_tokens`` allows.
        """
        return Reply({"random": given(seed=seed, tokens=tokens)})

    # --- what goes wrong --------------------------------------------------------------------------

    @staticmethod
    def fail(
        status: int = 500,
        message: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> Reply:
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
        headers = dict(headers) if headers else None
        fault = _fault("status", status=status, message=message, headers=headers, body=body)
        return Reply({"fault": fault})

    @staticmethod
    def reset(after: int | None = None, *, reply: object = None) -> Reply:
        """Reset the connection, after so many events of a stream.

        Parameters
        ----------
        after
            How many events of a stream come before it. Default: 0, not a byte of the answer.
        reply
            The answer within which it happens. Default: what the simulator answers without a rule.
        """
        return _within(reply, _fault("reset", after=after))

    @staticmethod
    def disconnect(after: int | None = None, *, reply: object = None) -> Reply:
        """Close the connection in the middle of an answer, after so many events of a stream.

        Parameters
        ----------
        after
            How many events of a stream come before it; an answer in one piece has its headers.
            Default: 0.
        reply
            The answer within which it happens. Default: what the simulator answers without a rule.
        """
        return _within(reply, _fault("disconnect", after=after))

    @staticmethod
    def stall(
        after: int | None = None, seconds: float | None = None, *, reply: object = None
    ) -> Reply:
        """Stop in the middle of an answer, for ever or for some seconds.

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
        return _within(reply, _fault("stall", after=after, seconds=seconds))

    @staticmethod
    def malformed(after: int | None = None, *, reply: object = None) -> Reply:
        """Cut an event of a stream off within its JSON, or an answer in one piece.

        Parameters
        ----------
        after
            How many events of a stream come before it; the stream goes on behind it. Default: 0.
        reply
            The answer within which it happens. Default: what the simulator answers without a rule.
        """
        return _within(reply, _fault("malformed", after=after))

    @staticmethod
    def wedge() -> Reply:
        """Have the engine's thread die; the server lives on, and generates nothing any more."""
        return Reply({"fault": _fault("wedge")})

    @staticmethod
    def crash(signal: str | None = None) -> Reply:
        """End the server's process by a signal, SIGSEGV where none is named."""
        return Reply({"fault": _fault("crash", signal=signal)})


def _within(reply: object, fault: dict[str, Any]) -> Reply:
    said = Reply({}) if reply is None else as_reply(reply)
    if said.fault:
        raise ValueError(f"one fault at a time: the reply has a fault already, {said.fault}")
    return Reply({**said.data, "fault": fault})


def as_reply(value: object) -> Reply:
    """Return an answer as a `Reply`: a text, a value for JSON (dict or list), or a `Reply`.

    Raises
    ------
    TypeError
        If it is none of these.
    """
    __tracebackhide__ = True
    if isinstance(value, Reply):
        return value
    if isinstance(value, str):
        return Reply.text(value)
    if isinstance(value, (dict, list)):
        return Reply.json(value)
    raise TypeError(
        f"no answer is {value!r}: give a text, a dict or list (said as JSON), or a Reply such as "
        "Reply.tool_call(...) or Reply.fail(503)"
    )
