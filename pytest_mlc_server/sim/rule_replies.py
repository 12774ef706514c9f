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
        What it is drawn with; the request's own ``seed`` counts before it.
    tokens : int, optional
        How long it is; else what the request's ``max_tokens`` says.
    """

    seed: int = 0
    tokens: Count | None = None


class Reply(Strict):
    """What a request is answered with: one of these, and for an answer in text a fault beside it.

    Attributes
    ----------
    text : str
        The text of the reply.
    chunks : list of str
        The same, cut into the events of a stream.
    tool_calls : list of ToolCall
        Calls, as a model writes them down for the real server.
    json : any
        The text is this value as JSON.
    file : str
        The text is this file's, relative to the script.
    echo : bool
        The prompt again.
    random : RandomReply
        Seeded text.
    function : bool
        The test says: only for rules that the fixture makes.
    fault : Fault
        What goes wrong.
    timeout : float
        How long the function may take.
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
