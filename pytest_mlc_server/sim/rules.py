"""What the simulator can be told to do: rules, replies, faults and latency, as data.

One set of models serves the script file (TOML) and the control endpoints (JSON). Names that are
not known are refused everywhere: a rule that says ``last_mesage`` would match everything.
"""

# No postponed annotations here: pydantic reads them at run time.

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pytest_mlc_server.sim.rule_base import GENERATING, Count, Match, Seconds, Strict
from pytest_mlc_server.sim.rule_faults import DoorFault
from pytest_mlc_server.sim.rule_replies import Reply


class Latency(Strict):
    """How long things take. Everything in seconds but `jitter` and `slowdown`.

    Attributes
    ----------
    ttft : float
        Seconds to the first token. Default: 0, as for all of them.
    itl : float
        Seconds from one token to the next.
    prefill_per_token : float
        Seconds added to `ttft` for each token of the prompt.
    jitter : float
        From 0 to 1: by which part each time is longer or shorter. Drawn with `seed`.
    slowdown : float
        By which part all becomes slower with each other request that is running.
    seed : int
        What the jitter is drawn with.
    """

    ttft: Seconds = 0.0
    itl: Seconds = 0.0
    prefill_per_token: Seconds = 0.0
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    slowdown: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    seed: int = 0


class Rule(Strict):
    """When to answer what.

    Attributes
    ----------
    name : str, optional
        How messages call it.
    when : Match, optional
        Which requests it is for; without it, all that it can answer.
    times : int, optional
        How many requests it is for; without it, any number.
    reply : Reply
        The answer.
    replies : list of Reply
        Instead of `reply`: one answer after the other; the last one goes on.
    latency : Latency, optional
        How long its answers take, instead of the door's ``[latency]``.
    """

    name: str | None = None
    when: Match = Field(default_factory=Match)
    times: Count | None = None
    reply: Reply | None = None
    replies: Annotated[list[Reply], Field(min_length=1)] | None = None
    latency: Latency | None = None

    @model_validator(mode="after")
    def _check(self) -> "Rule":
        if (self.reply is None) == (self.replies is None):
            raise ValueError("give either reply or replies")
        if self.replies and self.times is not None and self.times < len(self.replies):
            raise ValueError(
                f"contradicts itself: {len(self.replies)} replies, but times = {self.times}"
            )
        if self.gives_text and self.when.path not in (None, *GENERATING):
            raise ValueError(
                f"{self.when.endpoint} is not answered with text: only chat and completions are"
            )
        return self

    @property
    def gives_text(self) -> bool:
        """Whether any of its replies is more than a fault."""
        replies = self.replies or ([self.reply] if self.reply else [])
        return any(reply.kind is not None for reply in replies)

    def reply_of(self, use: int) -> Reply:
        """Return the answer to the request that this rule is for the `use`-th time, from 0."""
        replies = self.replies or ([self.reply] if self.reply else [])
        return replies[min(use, len(replies) - 1)]


class Default(Strict):
    """What answers a request that no rule is for.

    Attributes
    ----------
    default : str
        ``echo`` (the default), ``random``, or ``fail``: a request to chat, completions or
        embeddings that no rule is for gets status 500, which says what was asked and why each rule
        was not for it.
    seed : int
        What ``random`` is drawn with. Default: 0.
    """

    default: Literal["echo", "random", "fail"] = "echo"
    seed: int = 0


class Start(Strict):
    """How the server starts.

    Attributes
    ----------
    load : float
        How many seconds loading the model takes. Default: 0.
    fault : str, optional
        ``hang`` (a missing file of weights), ``out-of-memory`` or ``bad-library``: the engine's
        thread dies as recorded, and the process stays and never listens.
    """

    load: Seconds = 0.0
    fault: Literal["hang", "out-of-memory", "bad-library"] | None = None


class Imitate(Strict):
    """Which deaths of the real server are imitated when a request that causes them comes.

    Attributes
    ----------
    wedge, crash : bool
        Requests that end the real engine, or the real process, end this one's, as with
        ``--sim-imitate wedge,crash``. Default: neither; they get status 500.
    """

    wedge: bool = False
    crash: bool = False


class Script(Strict):
    """A script file.

    Attributes
    ----------
    server : Default
        What answers when no rule does.
    latency : Latency
        How long answers take.
    rules : list of Rule
        In the order in which they are asked.
    faults : list of DoorFault
        What goes wrong whatever the rule.
    start : Start
        How the server starts.
    imitate : Imitate
        Which deaths are imitated.
    """

    server: Default = Field(default_factory=Default)
    latency: Latency = Field(default_factory=Latency)
    rules: list[Rule] = Field(default_factory=list)
    faults: list[DoorFault] = Field(default_factory=list)
    start: Start = Field(default_factory=Start)
    imitate: Imitate = Field(default_factory=Imitate)
