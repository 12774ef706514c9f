"""What a request can be answered with, as data."""

# No postponed annotations here: pydantic reads them at run time.

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pytest_mlc_server.sim.rule_base import Count, Identifier, Strict
from pytest_mlc_server.sim.rule_faults import WITHIN_AN_ANSWER, AnyFault, Fault, NoFault, ResetFault


class ToolCall(Strict):
    """The call of a tool.

    Attributes
    ----------
    name : str
        The function's name.
    arguments : dict
        Its keyword arguments.
    """

    name: Identifier
    arguments: dict[Identifier, Any] = Field(default_factory=dict)


class RandomReply(Strict):
    """Seeded text.

    Attributes
    ----------
    seed : int
        What it is drawn with, together with the conversation; the request's own ``seed`` goes
        before. Default: 0.
    tokens : int, optional
        How long it is; else as long as the request's ``max_tokens`` allows.
    """

    seed: int = 0
    tokens: Count | None = None


class Reply(Strict):
    """What a request is answered with: one of these, and for an answer in text a fault beside it.

    Attributes
    ----------
    text : str
        This text.
    chunks : list of str
        These texts, each an event of the stream.
    tool_calls : list of ToolCall
        Such as ``[{ name = "get_weather", arguments = { city = "Oslo" } }]``, written as a model
        writes them for the real server: ``get_weather(city='Oslo')``. So it comes out as there: as
        `tool_calls` in an answer in one piece, as text in a stream, as text where no tools are on
        offer. Names have to be Python identifiers.
    json : any
        This value, as JSON.
    file : str
        The text of this file, beside the script; it is read at the start.
    echo : bool
        ``true``: the prompt.
    random : RandomReply
        Such as ``{ seed = 1, tokens = 20 }``: words that follow from the seed and the conversation.
        The request's own ``seed`` goes before; without `tokens` they are as many as ``max_tokens``
        allows.
    function : bool
        ``true``: a function of the test says, so not in a file. One that raises gets status 500.
    timeout : float
        How many seconds the function may take before that is status 500, too. Default: 30.
    fault : Fault
        What goes wrong: beside one of the above, if it happens within the answer; or alone. A fault
        alone that happens within an answer happens to the default's.
    """

    text: str | None = None
    chunks: Annotated[list[str], Field(min_length=1)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1)] | None = None
    json_value: Any = Field(default=None, alias="json")
    file: str | None = None
    echo: Literal[True] | None = None
    random: RandomReply | None = None
    function: Literal[True] | None = None
    fault: AnyFault | None = None
    timeout: Annotated[float, Field(gt=0, le=3600)] = 30.0

    @property
    def kind(self) -> str | None:
        """Which of the ways to answer is given; None for a fault alone."""
        return next(iter(self._kinds()), None)

    def _kinds(self) -> list[str]:
        kinds = ("text", "chunks", "tool_calls", "file", "echo", "random", "function")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        return given + ["json"] * ("json_value" in self.model_fields_set)

    @model_validator(mode="after")
    def _check(self) -> "Reply":
        kinds = self._kinds()
        if len(kinds) > 1:
            raise ValueError(f"contradicts itself: {' and '.join(kinds)}; give one of them")
        if not kinds and self.fault is None:
            raise ValueError(
                "says nothing: give text, chunks, tool_calls, json, file, echo, random or fault"
            )
        if kinds and self.fault is not None and not happens_within(self.fault):
            raise ValueError(
                f"contradicts itself: {kinds[0]} is never said when the fault is {self.fault.kind}"
            )
        if isinstance(self.fault, ResetFault) and self.fault.accept:
            raise ValueError("accept = true happens before there is a request: no rule has it")
        if "timeout" in self.model_fields_set and self.function is None:
            raise ValueError("timeout is for function alone")
        return self


def happens_within(fault: Fault) -> bool:
    """Tell whether `fault` happens to an answer that has begun."""
    if isinstance(fault, ResetFault):
        return fault.after > 0
    return isinstance(fault, (*WITHIN_AN_ANSWER, NoFault))
