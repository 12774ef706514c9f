"""The real server's mock engine, ``--model-lib mock://echo``, with all its peculiarities."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.sim.engine import Delta, Usage
from pytest_mlc_server.sim.errors import InternalError
from pytest_mlc_server.sim.generation import UNLIMITED, metrics_query
from pytest_mlc_server.sim.logs import log
from pytest_mlc_server.sim.reply import reply_pieces
from pytest_mlc_server.sim.sources import ECHO, Echo
from pytest_mlc_server.sim.tokenizer import split_text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from pytest_mlc_server.sim.engine import Step
    from pytest_mlc_server.sim.generation import GenerationConfig
    from pytest_mlc_server.sim.model import ServedModel
    from pytest_mlc_server.sim.sources import Latency, Source


class MockEngine:
    """Echoes tokens, and reports the settings as its metrics.

    It ends at the end of the prompt or at `max_tokens`, looks at no stop string, no response
    format and no context window, and always counts the whole prompt as generated.

    Parameters
    ----------
    model : ServedModel
        Its tokenizer is used.
    imitate : frozenset of str
        With "wedge", a request for no token is never answered, as by the real one.
    """

    is_mock = True
    max_prompt_tokens: int | None = None

    def __init__(self, model: ServedModel, imitate: frozenset[str] = frozenset()) -> None:
        self._model = model
        self._imitate = imitate
        self._dead = False

    async def generate(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        source: Source = ECHO,
        latency: Latency | None = None,
        request_id: str | None = None,  # noqa: ARG002 (it takes any number of the same name)
    ) -> AsyncGenerator[Step, None]:
        """Answer `prompt`, step by step."""
        await self.alive()
        token_ids, pieces = self._reply(prompt, source)
        limit = config.max_tokens
        limited = limit != UNLIMITED and len(token_ids) > limit
        if limited:
            await self._survive_no_tokens(limit)
            # What is not said leaves no character incomplete.
            echo = isinstance(source, Echo)
            pieces = split_text(self._model.tokenizer, prompt[:limit]) if echo else pieces[:limit]
        last = len(pieces) - 1
        for index, piece in enumerate(pieces):
            if latency is not None:
                first = index == 0
                wait = latency.first_token(len(prompt), 1) if first else latency.next_token(1)
                await asyncio.sleep(wait)
            await self.alive()
            reason = None if index < last else "length" if limited else "stop"
            yield [Delta(piece, reason)] * config.n
        yield Usage(len(prompt), len(token_ids) * config.n, config.as_json())

    def metrics(self) -> dict[str, Any]:
        """Return what ``/metrics`` shows: the settings of the question itself."""
        return metrics_query(self._model).as_json()

    def reset(self) -> None:
        """Forget what was counted: nothing was."""

    def wedge(self) -> None:
        """Be dead from now on: no request is answered any more."""
        self._dead = True

    async def alive(self) -> None:
        """Return at once, or never if the engine is dead."""
        if self._dead:
            await asyncio.get_running_loop().create_future()

    async def _survive_no_tokens(self, limit: int) -> None:
        """Refuse to say nothing: the real one never answers then."""
        if limit > 0:
            return
        if "wedge" in self._imitate:
            await asyncio.get_running_loop().create_future()
        log("ERROR", "simulator", f"The real mock engine never answers max_tokens={limit}.")
        log("ERROR", "simulator", "Imitate it with: --sim-imitate wedge")
        raise InternalError(f"max_tokens={limit} leaves nothing to say")

    def _reply(self, prompt: Sequence[int], source: Source) -> tuple[Sequence[int], list[str]]:
        if isinstance(source, Echo):
            return prompt, split_text(self._model.tokenizer, prompt) or [""]
        return reply_pieces(source, self._model)
