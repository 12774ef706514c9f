"""Where the text of a reply comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Echo:
    """The prompt, said again."""


@dataclass(frozen=True)
class Random:
    """Words without a meaning: the same for the same seed.

    Attributes
    ----------
    seed : int
        What the text follows from.
    tokens : int or None
        How long it is; None for as long as `max_tokens` allows.
    """

    seed: int = 0
    tokens: int | None = None


@dataclass(frozen=True)
class Text:
    """A given text, one token a step.

    Attributes
    ----------
    text : str
        What is said, unless `max_tokens`, a stop string or the context window ends it earlier.
    """

    text: str


@dataclass(frozen=True)
class Chunks:
    """A given text whose division is given too.

    Attributes
    ----------
    chunks : tuple of str
        What each event of a stream says.
    """

    chunks: tuple[str, ...]


Source = Echo | Random | Text | Chunks

ECHO = Echo()


class Latency(Protocol):
    """How long an engine thinks. All times are in seconds."""

    def first_token(self, prompt_tokens: int, running: int) -> float:
        """Return the time from the start of a request to its first token."""

    def next_token(self, running: int) -> float:
        """Return the time from one token to the next, with so many sequences running."""
