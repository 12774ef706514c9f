"""How long one request takes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_mlc_server.sim.rules import Latency


class RequestLatency:
    """The times of one request.

    They follow from the settings, the request's number and the token's, and not from the clock:
    two runs that send the same requests one after the other wait the same times. (How many others
    are running at a moment, which `slowdown` asks for, is the only thing that can differ.)

    Parameters
    ----------
    latency : Latency
        The settings.
    number : int
        The request's number.
    """

    def __init__(self, latency: Latency, number: int) -> None:
        self._latency = latency
        self._random = (
            random.Random(f"{latency.seed}/{number}")  # noqa: S311 (no cipher)
            if latency.jitter
            else None
        )

    def first_token(self, prompt_tokens: int, running: int) -> float:
        """Return the time from the start of the request to its first token, in seconds."""
        latency = self._latency
        return self._vary(latency.ttft + latency.prefill_per_token * prompt_tokens, running)

    def next_token(self, running: int) -> float:
        """Return the time from one token to the next, in seconds."""
        return self._vary(self._latency.itl, running)

    def _vary(self, time: float, running: int) -> float:
        slow = 1 + self._latency.slowdown * max(0, running - 1)
        if self._random is None:
            return time * slow
        return time * slow * (1 + self._latency.jitter * self._random.uniform(-1, 1))


def request_latency(latency: Latency, number: int) -> RequestLatency | None:
    """Return the times of a request, None if nothing takes any."""
    if not (latency.ttft or latency.itl or latency.prefill_per_token):
        return None
    return RequestLatency(latency, number)
