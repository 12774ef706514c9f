"""The engine that stands in for a real one."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.sim.closing import closing
from pytest_mlc_server.sim.engine import MOCK_LIBRARY, Delta, Usage
from pytest_mlc_server.sim.logs import log
from pytest_mlc_server.sim.metrics import EngineMetrics, RequestMetrics
from pytest_mlc_server.sim.mock_engine import MockEngine
from pytest_mlc_server.sim.reply import deltas, make_reply
from pytest_mlc_server.sim.scheduler import Scheduler
from pytest_mlc_server.sim.sources import ECHO, Random

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

    from pytest_mlc_server.sim.engine import Engine, Step
    from pytest_mlc_server.sim.generation import GenerationConfig
    from pytest_mlc_server.sim.model import ServedModel
    from pytest_mlc_server.sim.sources import Latency, Source

_SILENT = Delta("", tokens=0)


class StandInEngine:
    """An engine without a model: it keeps to all that a real engine does, but for what it says.

    Stop strings, `max_tokens`, the response format, the context window and the batch size count
    as they do in a real engine, and tokens are counted as there.

    Parameters
    ----------
    model : ServedModel
        Its tokenizer and limits are used.
    imitate : frozenset of str
        With "wedge", a request whose id is used a second time is never answered, as in a real
        engine.
    """

    is_mock = False

    def __init__(self, model: ServedModel, imitate: frozenset[str] = frozenset()) -> None:
        self._model = model
        self._metrics = EngineMetrics()
        self._abandons = "wedge" in imitate
        self._in_flight: set[str] = set()
        self._abandoned: set[str] = set()
        self._dead = False
        self.scheduler = Scheduler(model.limits.max_num_sequence)

    @property
    def max_prompt_tokens(self) -> int | None:
        """The longest prompt that is accepted."""
        return self._model.limits.max_prompt_tokens

    async def generate(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        source: Source = ECHO,
        latency: Latency | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[Step, None]:
        """Answer `prompt`, step by step."""
        name = request_id if request_id is not None else f"anonymous-{id(config)}"
        if name in self._in_flight:
            self._refuse_twin(name)
        self._in_flight.add(name)
        try:
            async with closing(self._answer(prompt, config, source, latency)) as steps:
                async for step in steps:
                    if self._dead or self._abandoned:
                        await self._still_served(name)
                    yield step
        except (GeneratorExit, asyncio.CancelledError):
            log("INFO", "engine.py:1371", f"request {name} cancelled")
            raise
        finally:
            self._in_flight.discard(name)
            self._abandoned.discard(name)

    def metrics(self) -> dict[str, Any]:
        """Return what ``/metrics`` shows."""
        return self._metrics.as_json()

    def reset(self) -> None:
        """Forget what was counted."""
        self._metrics = EngineMetrics()

    def wedge(self) -> None:
        """Be dead from now on: no request is answered any more."""
        self._dead = True

    async def alive(self) -> None:
        """Return at once, or never if the engine is dead."""
        if self._dead:
            await asyncio.get_running_loop().create_future()

    def _refuse_twin(self, name: str) -> None:
        """Refuse a second request of the same id; a real engine forgets the first one over it."""
        error = (
            f'The request id "{name} already exists. Please make sure the request id is unique."'
        )
        log("ERROR", "engine.py:1382", f"Exception in _generate for request {name}: {error}")
        log("INFO", "engine.py:1371", f"request {name} cancelled")
        if self._abandons:
            self._abandoned.add(name)
        raise RuntimeError(error)

    async def _still_served(self, name: str) -> None:
        await self.alive()
        if name in self._abandoned:
            await asyncio.get_running_loop().create_future()

    async def _answer(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        source: Source,
        latency: Latency | None,
    ) -> AsyncIterator[Step]:
        await self.alive()
        if config.debug_config.special_request is not None:
            yield Usage(0, 0, self.metrics())
            return
        if len(prompt) >= self._model.limits.max_single_sequence_length:
            yield [Delta("", "length", tokens=0)] * config.n
            yield Usage(0, 0, None)
            return
        start = time.perf_counter()
        async with self.scheduler.places(config.n):
            first = 0.0
            tokens = steps = 0
            for step in self._steps(prompt, config, source):
                if latency is not None:
                    await self._think(latency, len(prompt), steps)
                first = first or time.perf_counter()
                steps += 1
                tokens += sum([delta.tokens for delta in step]) if config.n > 1 else step[0].tokens
                yield step
        cost = RequestMetrics(
            prompt_tokens=len(prompt),
            completion_tokens=tokens,
            decode_tokens=max(0, tokens - config.n),
            ttft_s=first - start,
            end_to_end_latency_s=time.perf_counter() - start,
        )
        self._metrics.add(cost, decode_steps=max(0, steps - 1), batch_size=config.n)
        yield Usage(cost.prompt_tokens, cost.completion_tokens, cost.as_json())

    async def _think(self, latency: Latency, prompt_tokens: int, steps: int) -> None:
        running = self.scheduler.running
        wait = latency.next_token(running) if steps else latency.first_token(prompt_tokens, running)
        if wait > 0:
            await asyncio.sleep(wait)

    def _steps(
        self, prompt: Sequence[int], config: GenerationConfig, source: Source
    ) -> Iterator[list[Delta]]:
        """Say all choices, one token of each a step."""
        reply = make_reply(prompt, config, source, self._model, 0)
        if config.n == 1:
            return ([delta] for delta in deltas(reply, config, self._model.tokenizer))
        replies = [reply]
        for choice in range(1, config.n):
            other = isinstance(source, Random)
            replies.append(
                make_reply(prompt, config, source, self._model, choice) if other else reply
            )
        choices = [deltas(reply, config, self._model.tokenizer) for reply in replies]
        return _in_turns(choices, self.scheduler.capacity)


def make_engine(
    model: ServedModel, model_lib: str | None, imitate: frozenset[str] = frozenset()
) -> Engine:
    """Return the engine that the server's ``--model-lib`` asks for.

    Parameters
    ----------
    model : ServedModel
        What it serves.
    model_lib : str or None
        ``mock://echo`` for the real server's mock engine; anything else stands for a real one.
    imitate : frozenset of str
        Which deaths of a real engine are imitated.
    """
    if model_lib is not None and model_lib.startswith(MOCK_LIBRARY):
        return MockEngine(model, imitate)
    return StandInEngine(model, imitate)


def _in_turns(choices: list[Iterator[Delta]], capacity: int) -> Iterator[list[Delta]]:
    """Have all choices begin at once and no more than `capacity` of them go on at a time."""
    step = [next(choice) for choice in choices]
    yield step
    unfinished = [index for index, delta in enumerate(step) if delta.finish_reason is None]
    while unfinished:
        step = [_SILENT] * len(choices)
        for index in unfinished[:capacity]:
            step[index] = next(choices[index])
        yield step
        unfinished = [index for index in unfinished if step[index].finish_reason is None]
