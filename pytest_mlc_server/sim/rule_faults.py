"""What can go wrong, as data: the faults that a rule, or a whole door, can have."""

# No postponed annotations here: pydantic reads them at run time.

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pytest_mlc_server.sim.rule_base import Count, Match, Seconds, Strict


class StatusFault(Strict):
    """An HTTP error with the real server's body.

    400 is JSON in a JSON string, 401, 404 and 405 have a ``detail``, 422 a list of it, 500 is plain
    text. Others, which the real server does not give, are
    ``{"object":"error","message":…,"code":…}``.

    Attributes
    ----------
    status : int
        From 400 to 599.
    message : str, optional
        What the body says.
    headers : dict
        More headers, such as ``retry-after``.
    body : any
        The body, as JSON or as a text, in place of the real server's.
    """

    kind: Literal["status"] = "status"
    status: Annotated[int, Field(ge=400, le=599)]
    message: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    body: Any = None


class ResetFault(Strict):
    """The connection is reset (TCP RST).

    Attributes
    ----------
    after : int
        How many events of a stream come before it; with 0, the default, no byte of an answer.
    accept : bool
        ``true``: as soon as a connection is accepted. In ``[[faults]]`` alone, whose `times`,
        `rate` and `sequence` then count connections.
    """

    kind: Literal["reset"] = "reset"
    after: Annotated[int, Field(ge=0)] = 0
    accept: bool = False


class RefuseFault(Strict):
    """Nobody listens: new connections are refused by the kernel, kept ones are closed.

    In a rule, the request's own connection is reset. Refused connections cannot be counted: nobody
    sees them.

    Attributes
    ----------
    seconds : float, optional
        How long; without it, until a reset.
    """

    kind: Literal["refuse"] = "refuse"
    seconds: Seconds | None = None


class DisconnectFault(Strict):
    """The connection is closed (TCP FIN) in the middle of the answer.

    There is no end of the chunked encoding, or the ``content-length`` is not fulfilled.

    Attributes
    ----------
    after : int
        How many events of a stream come before it; an answer in one piece ends after its headers.
        Default: 0.
    """

    kind: Literal["disconnect"] = "disconnect"
    after: Annotated[int, Field(ge=0)] = 0


class StallFault(Strict):
    """The answer stops, and the connection stays.

    Attributes
    ----------
    after : int
        How many events of a stream come before it; an answer in one piece stops after its headers.
        Default: 0.
    seconds : float, optional
        How long; without it, until the client goes away or the server ends.
    """

    kind: Literal["stall"] = "stall"
    after: Annotated[int, Field(ge=0)] = 0
    seconds: Seconds | None = None


class MalformedFault(Strict):
    """An event of the stream is cut off within its JSON; an answer in one piece likewise.

    Attributes
    ----------
    after : int
        How many events of a stream come before it. The stream goes on behind it. Default: 0.
    """

    kind: Literal["malformed"] = "malformed"
    after: Annotated[int, Field(ge=0)] = 0


class WedgeFault(Strict):
    """The engine's thread dies and the server lives on, as recorded.

    The log says so, ``/v1/models`` goes on, every generation hangs for ever, and with one waiting
    SIGINT and SIGTERM do nothing.
    """

    kind: Literal["wedge"] = "wedge"


class CrashFault(Strict):
    """The process ends by a signal.

    Attributes
    ----------
    signal : str
        ``SIGSEGV`` (the default), ``SIGABRT``, ``SIGBUS`` or ``SIGKILL``.
    """

    kind: Literal["crash"] = "crash"
    signal: Literal["SIGSEGV", "SIGABRT", "SIGKILL", "SIGBUS"] = "SIGSEGV"


class NoFault(Strict):
    """Nothing happens: a place in a `sequence`."""

    kind: Literal["none"] = "none"


Fault = (
    StatusFault
    | ResetFault
    | RefuseFault
    | DisconnectFault
    | StallFault
    | MalformedFault
    | WedgeFault
    | CrashFault
    | NoFault
)
AnyFault = Annotated[Fault, Field(discriminator="kind")]

#: Faults of an answer that has begun: there has to be a reply to which they happen.
WITHIN_AN_ANSWER = (DisconnectFault, StallFault, MalformedFault)


class DoorFault(Strict):
    """A fault that happens to requests whatever their rule is.

    Attributes
    ----------
    fault : Fault
        What happens.
    sequence : list of Fault
        Instead of `fault`: what happens to the first request, the second, and so on; nothing after
        its end. In JSON, None stands for ``{"kind": "none"}``.
    rate : float, optional
        How likely it is for a request, from 0 to 1. It follows from `seed` and from the request's
        number among those it may happen to: the same requests have the same luck in each run.
    seed : int
        What `rate` is drawn with. Default: 0.
    times : int, optional
        How often it happens at most.
    when : Match, optional
        Which requests it may happen to; without an endpoint: chat, completions and embeddings.
    """

    fault: AnyFault | None = None
    sequence: list[AnyFault | None] | None = None
    rate: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int = 0
    times: Count | None = None
    when: Match = Field(default_factory=Match)

    @model_validator(mode="after")
    def _check(self) -> "DoorFault":
        if (self.fault is None) == (not self.sequence):
            raise ValueError("give either fault or sequence")
        if self.sequence and (self.rate is not None or self.times is not None):
            raise ValueError("a sequence has neither rate nor times: it says itself when and how")
        if any(isinstance(fault, RefuseFault) for fault in self.sequence or ()):
            raise ValueError("refuse counts no requests: give it as fault, not in a sequence")
        refuses = isinstance(self.fault, RefuseFault)
        if refuses and self.model_fields_set - {"fault"}:
            raise ValueError("refuse begins at once and counts nothing: it stands alone")
        if self.accepts and self.when != Match():
            raise ValueError("accept = true happens before there is a request: it has no when")
        if self.accepts and not all(_is_of_connection(fault) for fault in self.sequence or ()):
            raise ValueError("a sequence counts connections (accept = true) or requests, not both")
        return self

    @property
    def accepts(self) -> bool:
        """Whether it happens to connections rather than to requests."""
        faults = [self.fault, *(self.sequence or ())]
        return any(isinstance(fault, ResetFault) and fault.accept for fault in faults)


def _is_of_connection(fault: Fault | None) -> bool:
    return (
        fault is None
        or isinstance(fault, NoFault)
        or (isinstance(fault, ResetFault) and fault.accept)
    )
