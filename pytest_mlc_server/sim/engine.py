"""What an engine is: it takes a prompt in tokens and gives back the tokens of a reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from pytest_mlc_server.sim.generation import GenerationConfig
    from pytest_mlc_server.sim.logprobs import Entry
    from pytest_mlc_server.sim.sources import Latency, Source

MOCK_LIBRARY = "mock://"


class Delta(NamedTuple):
    """What one step adds to one choice.

    A tuple: there is one for each token, and a frozen dataclass takes four times as long to make.

    Attributes
    ----------
    text : str
        What it says.
    finish_reason : str or None
        Why it is the last one, if it is.
    logprobs : list or None
        An entry for each token that was generated, for a request that asks for them.
    tokens : int
        How many tokens were generated.
    """

    text: str
    finish_reason: str | None = None
    logprobs: list[Entry] | None = None
    tokens: int = 1


@dataclass(frozen=True)
class Usage:
    """What a request cost; the last thing that an engine says about it."""

    prompt_tokens: int
    completion_tokens: int
    extra: dict[str, Any] | None

    def as_json(self, *, with_extra: bool) -> dict[str, Any]:
        """Return the ``usage`` of a response; `extra` is for ``--enable-debug`` alone."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "extra": self.extra if with_extra else None,
        }


# One delta for each of the `n` choices, or, at the end, the usage.
Step = list[Delta] | Usage


class Engine(Protocol):
    """What the server needs of an engine."""

    #: Whether it is the real server's mock engine, which nothing kills.
    is_mock: bool

    @property
    def max_prompt_tokens(self) -> int | None:
        """The longest prompt that is accepted, None for any."""

    def generate(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        source: Source = ...,
        latency: Latency | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[Step, None]:
        """Answer `prompt`, step by step.

        Parameters
        ----------
        prompt : Sequence of int
            Token ids.
        config : GenerationConfig
            The settings of the request.
        source : Source
            Where the text of the reply comes from.
        latency : Latency, optional
            How long it takes; no time at all without.
        request_id : str, optional
            What the request is called; None for one that no other has.
        """

    def metrics(self) -> dict[str, Any]:
        """Return what ``/metrics`` shows."""

    def reset(self) -> None:
        """Forget what was counted."""

    def wedge(self) -> None:
        """Be dead from now on: no request is answered any more."""

    async def alive(self) -> None:
        """Return at once, or never if the engine is dead."""
