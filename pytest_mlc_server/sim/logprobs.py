"""What a real engine says about the probability of its tokens."""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mlc_server.sim.generation import GenerationConfig
    from pytest_mlc_server.sim.tokenizer import Tokenizer

Entry = dict[str, Any]

# No probability is taken for smaller than this.
_SMALLEST = 1e-10


class LogprobWriter:
    """Describes tokens in the form in which chat completions show them.

    At temperature 0 there is no other token: its probability is 1. At any other temperature the
    probabilities are made up, always the same ones; the token that was taken is the likeliest.

    Parameters
    ----------
    tokenizer : Tokenizer
        What the tokens are those of.
    config : GenerationConfig
        How many tokens are to be named, and the temperature.
    """

    def __init__(self, tokenizer: Tokenizer, config: GenerationConfig) -> None:
        self._tokenizer = tokenizer
        self._certain = config.temperature == 0
        self._count = config.top_logprobs

    def entry(self, token_id: int, position: int) -> Entry:
        """Return the entry of the token at `position` of the reply."""
        probability = 1.0
        if not self._certain:
            probability = 0.5 + 0.5 * random.Random(f"{token_id} {position}").random()  # noqa: S311
        others = (other for other in range(self._count) if other != token_id)
        ranked = [(token_id, probability)] + [
            (other, (1 - probability) / 2**rank) for rank, other in enumerate(others, 1)
        ]
        top = [self._described(*token) for token in ranked[: self._count]]
        return {**self._described(token_id, probability), "top_logprobs": top}

    def entries(self, token_ids: Sequence[int], start: int) -> list[Entry]:
        """Return the entries of the tokens that begin at the position `start` of the reply."""
        return [self.entry(token_id, index) for index, token_id in enumerate(token_ids, start)]

    def _described(self, token_id: int, probability: float) -> Entry:
        content = self._tokenizer.token_bytes(token_id)
        logprob = math.log(max(probability, _SMALLEST))
        # Six digits: the real engine writes the number with a stream's default precision.
        return {
            "token": _visible(content),
            "logprob": float(f"{logprob:.6g}"),
            "bytes": list(content),
        }


def as_completion_logprobs(entries: list[Entry]) -> dict[str, Any]:
    """Return `entries` in the form in which text completions show them."""
    return {
        "text_offset": None,
        "token_logprobs": [entry["logprob"] for entry in entries],
        "tokens": [entry["token"] for entry in entries],
        "top_logprobs": [
            {token["token"]: token["logprob"] for token in entry["top_logprobs"]}
            for entry in entries
        ],
    }


@lru_cache(maxsize=4096)
def _visible(content: bytes) -> str:
    """Return what a real engine shows of a token: its visible ASCII characters alone."""
    return bytes(byte for byte in content if 33 <= byte <= 126).decode("ascii")
