"""What the control endpoints speak, beside rules."""

# No postponed annotations here: pydantic reads them at run time.

from typing import Any

from pydantic import Field, model_validator

from pytest_mlc_server.sim.rule_base import Strict
from pytest_mlc_server.sim.rule_replies import Reply
from pytest_mlc_server.sim.rules import Rule


class Reason(Strict):
    """Why a rule is not for a request."""

    rule: str
    reason: str


class Record(Strict):
    """A request that came in, and what became of it.

    Attributes
    ----------
    id : int
        Its number, from 1; it goes on from test to test.
    time : float
        When it came: seconds since 1970.
    method, path, query : str
        As sent.
    headers : dict
        Names in lower case; of a header that was sent twice, the values joined by a comma.
    body : any
        The parsed JSON body, None without one or when it is not JSON.
    text : str
        The body as it was sent; long ones are cut (`truncated`), and have no `body` then.
    status : int, optional
        None as long as there is no answer, and where there never was one.
    rule, fault : str, optional
        The id of the rule that matched, the kind of the fault that happened.
    reply : str, optional
        The text that was answered: of the first choice, as far as it was sent.
    finished : bool
        Whether the answer was sent to its end.
    unmatched : list of Reason, optional
        For a request that no rule is for: why, rule by rule.
    """

    id: int
    time: float
    method: str
    path: str
    query: str = ""
    headers: dict[str, str] = Field(default_factory=dict)
    body: Any = None
    text: str = ""
    truncated: bool = False
    status: int | None = None
    rule: str | None = None
    fault: str | None = None
    reply: str | None = None
    finished: bool = False
    unmatched: list[Reason] | None = None


class RuleStatus(Strict):
    """A rule and how often it was used."""

    id: str
    rule: Rule
    hits: int


class Call(Strict):
    """A request that a function has to answer."""

    call_id: str
    rule_id: str
    request: Record


class CallAnswer(Strict):
    """What the function answered, or how it failed."""

    reply: Reply | None = None
    error: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "CallAnswer":
        if (self.reply is None) == (self.error is None):
            raise ValueError("give either reply or error")
        if self.reply is not None and self.reply.function:
            raise ValueError("a function cannot leave the answer to a function")
        return self
