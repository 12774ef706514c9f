"""What answers: an engine takes a prompt in tokens and gives back the tokens of a reply.

Two engines are here. `EchoEngine` stands in for a real one: it says the prompt again, and apart
from that keeps to what a real engine does with a request. `MockEngine` is the stand-in of the real
server itself, ``--model-lib mock://echo``, with all that is peculiar about it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pytest_mlc_server.sim.errors import InternalError
from pytest_mlc_server.sim.generation import UNLIMITED, metrics_query
from pytest_mlc_server.sim.json_reply import json_reply
from pytest_mlc_server.sim.metrics import EngineMetrics, RequestMetrics
from pytest_mlc_server.sim.tokenizer import TextStreamer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pytest_mlc_server.sim.generation import GenerationConfig
    from pytest_mlc_server.sim.model import ServedModel

MOCK_LIBRARY = "mock://"


@dataclass(frozen=True)
class Delta:
    """What one step adds to one choice."""

    text: str
    finish_reason: str | None = None


@dataclass(frozen=True)
class Usage:
    """What a request cost; the last thing that an engine says about it."""

    prompt_tokens: int
    completion_tokens: int
    extra: dict[str, Any]

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

    @property
    def max_prompt_tokens(self) -> int | None:
        """The longest prompt that is accepted, None for any."""

    def generate(self, prompt: Sequence[int], config: GenerationConfig) -> AsyncIterator[Step]:
        """Answer `prompt`, step by step."""

    def metrics(self) -> dict[str, Any]:
        """Return what ``/metrics`` shows."""

    def reset(self) -> None:
        """Forget what was counted."""


@dataclass(frozen=True)
class _Reply:
    """A reply as it will be: the text that each token completes, and why it ends."""

    pieces: list[str]
    finish_reason: str


class MockEngine:
    """The real server's mock engine: echoes tokens, and reports the settings as its metrics.

    It ends at the end of the prompt or at `max_tokens`, looks at no stop string, no response
    format and no context window, and always counts the whole prompt as generated.

    Parameters
    ----------
    model : ServedModel
        Its tokenizer is used.
    """

    max_prompt_tokens: int | None = None

    def __init__(self, model: ServedModel) -> None:
        self._model = model

    async def generate(
        self, prompt: Sequence[int], config: GenerationConfig
    ) -> AsyncIterator[Step]:
        """Answer `prompt`, step by step."""
        limited = config.max_tokens != UNLIMITED and len(prompt) > config.max_tokens
        # The real one never answers when nothing may be generated; a token is kinder.
        token_ids = prompt[: max(1, config.max_tokens)] if limited else prompt
        pieces = _pieces(self._model, token_ids)
        async for step in _play(_Reply(pieces, "length" if limited else "stop"), config.n):
            yield step
        yield Usage(len(prompt), len(prompt) * config.n, config.as_json())

    def metrics(self) -> dict[str, Any]:
        """Return what ``/metrics`` shows: the settings of the question itself."""
        return metrics_query(self._model).as_json()

    def reset(self) -> None:
        """Forget what was counted: nothing was."""


class EchoEngine:
    """An engine that says the prompt again, or, asked for JSON, something that is JSON.

    Stop strings of the request, `max_tokens` and the context window end a reply as they do in a
    real engine, and tokens are counted as there.

    Parameters
    ----------
    model : ServedModel
        Its tokenizer and context window are used.
    """

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._metrics = EngineMetrics()

    @property
    def max_prompt_tokens(self) -> int | None:
        """The longest prompt that is accepted: the context window."""
        return self._model.context_window_size

    async def generate(
        self, prompt: Sequence[int], config: GenerationConfig
    ) -> AsyncIterator[Step]:
        """Answer `prompt`, step by step."""
        if config.debug_config.special_request is not None:
            yield Usage(0, 0, self.metrics())
            return
        start = time.perf_counter()
        reply = self._reply(prompt, config)
        first = None
        async for step in _play(reply, config.n):
            first = first or time.perf_counter()
            yield step
        cost = RequestMetrics(
            prompt_tokens=len(prompt),
            completion_tokens=len(reply.pieces) * config.n,
            decode_tokens=max(0, len(reply.pieces) - 1) * config.n,
            ttft_s=(first or start) - start,
            end_to_end_latency_s=time.perf_counter() - start,
        )
        self._metrics.add(cost, decode_steps=max(0, len(reply.pieces) - 1))
        yield Usage(cost.prompt_tokens, cost.completion_tokens, cost.as_json())

    def metrics(self) -> dict[str, Any]:
        """Return what ``/metrics`` shows."""
        return self._metrics.as_json()

    def reset(self) -> None:
        """Forget what was counted."""
        self._metrics = EngineMetrics()

    def _reply(self, prompt: Sequence[int], config: GenerationConfig) -> _Reply:
        token_ids = prompt
        if config.response_format.type == "json_object":
            try:
                text = json_reply(config.response_format.json_schema)
            except ValueError as error:
                raise InternalError(f"Failed to parse JSON: {error}") from error
            token_ids = self._model.tokenizer.encode(text)
        limit = max(1, self._model.context_window_size - len(prompt))
        if config.max_tokens >= 0:
            # Even for none, a real engine has generated the first token before it counts.
            limit = min(limit, max(1, config.max_tokens))
        pieces = _pieces(self._model, token_ids[:limit])
        finish_reason = "length" if len(token_ids) >= limit else "stop"
        return _stop(_Reply(pieces, finish_reason), config.stops)


def make_engine(model: ServedModel, model_lib: str | None) -> Engine:
    """Return the engine that the server's ``--model-lib`` asks for."""
    if model_lib is not None and model_lib.startswith(MOCK_LIBRARY):
        return MockEngine(model)
    return EchoEngine(model)


async def _play(reply: _Reply, n: int) -> AsyncIterator[Step]:
    """Say `reply` in all `n` choices at once, one token a step."""
    pieces = reply.pieces or [""]
    last = len(pieces) - 1
    for index, piece in enumerate(pieces):
        yield [Delta(piece, reply.finish_reason if index == last else None)] * n
        # A step of a real engine takes time in which other requests get their turn.
        await asyncio.sleep(0)


def _pieces(model: ServedModel, token_ids: Sequence[int]) -> list[str]:
    """Return the text that each token completes; incomplete characters end the last one."""
    streamer = TextStreamer(model.tokenizer.decode)
    pieces = [streamer.put([token_id]) for token_id in token_ids]
    if pieces:
        pieces[-1] += streamer.finish()
    return pieces


def _stop(reply: _Reply, stops: list[str]) -> _Reply:
    """Cut `reply` before the first of `stops`; the token that completes it is the last one."""
    text = "".join(reply.pieces)
    starts = [(text.find(stop), len(stop)) for stop in stops if stop and stop in text]
    if not starts:
        return reply
    # The one that is complete first counts, and of those that end together the longest.
    complete, end = min((start + length, start) for start, length in starts)
    pieces: list[str] = []
    length = 0
    for piece in reply.pieces:
        if length >= complete:
            break
        pieces.append(piece[: max(0, end - length)])
        length += len(piece)
    return _Reply(pieces, "stop")
