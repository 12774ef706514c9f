"""One request and its response, in the form of the OpenAI API as the real server speaks it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic_core import to_json

from pytest_mlc_server.sim.closing import closing
from pytest_mlc_server.sim.engine import Delta, Usage
from pytest_mlc_server.sim.logprobs import as_completion_logprobs
from pytest_mlc_server.sim.protocol import ChatCompletionRequest, CompletionRequest
from pytest_mlc_server.sim.tools import INVALID_CALL, parse_calls

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from pytest_mlc_server.sim.engine import Step
    from pytest_mlc_server.sim.logprobs import Entry
    from pytest_mlc_server.sim.protocol import AnyRequest

RequestT = TypeVar("RequestT", bound="AnyRequest")

Body = dict[str, Any]

# Which choices go on with which text, or the usage.
Part = tuple[list[tuple[int, Delta]], Body | None]

_encode = json.JSONEncoder(ensure_ascii=False).encode


@dataclass
class Exchange(Generic[RequestT]):
    """A request that an engine is answering.

    Attributes
    ----------
    request : CompletionRequest or ChatCompletionRequest
        What was asked for.
    request_id : str
        The ``id`` of the response.
    steps : AsyncIterator
        What the engine says.
    show_extra : bool
        Whether the usage shows the engine's own numbers.
    """

    request: RequestT
    request_id: str
    steps: AsyncGenerator[Step, None]
    show_extra: bool

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Return the events of a stream, as they are sent."""
        write = _PlainEvents(self)
        async with closing(self._parts()) as parts:
            async for choices, usage in parts:
                # A step of a real engine takes time in which other requests get their turn.
                await asyncio.sleep(0)
                if usage is not None:
                    if self._usage_is_streamed():
                        yield _event(self._stream_body([], usage))
                elif len(choices) == 1 and choices[0][1].logprobs is None:
                    yield write(*choices[0])
                else:
                    bodies = [self._stream_choice(index, delta) for index, delta in choices]
                    yield _event(self._stream_body(bodies, None))

    async def body(self) -> Body:
        """Return the body of a response in one piece."""
        texts: list[list[str]] = [[] for _ in range(self.request.n)]
        reasons: list[str | None] = [None] * self.request.n
        entries: list[list[Entry] | None] = [None] * self.request.n
        total: Body | None = None
        async with closing(self._parts()) as parts:
            async for choices, usage in parts:
                total = usage or total
                for index, delta in choices:
                    texts[index].append(delta.text)
                    reasons[index] = reasons[index] or delta.finish_reason
                    if delta.logprobs is not None:
                        entries[index] = (entries[index] or []) + delta.logprobs
        said = [
            Delta("".join(text), reason, logprobs)
            for text, reason, logprobs in zip(texts, reasons, entries, strict=True)
        ]
        full = [self._full_choice(index, delta) for index, delta in enumerate(said)]
        return self._envelope(full, total)

    async def _parts(self) -> AsyncIterator[Part]:
        """Return what is said. Steps without text are none, and their probabilities are lost."""
        async with closing(self.steps) as steps:
            async for step in steps:
                if isinstance(step, Usage):
                    yield [], step.as_json(with_extra=self.show_extra)
                    continue
                choices = [
                    (index, self._seen(delta))
                    for index, delta in enumerate(step)
                    if delta.text or delta.finish_reason is not None
                ]
                if choices:
                    yield choices, None

    def _seen(self, delta: Delta) -> Delta:
        return delta

    def _usage_is_streamed(self) -> bool:
        options = self.request.stream_options
        return options is not None and bool(options.include_usage)

    def _stream_choice(self, index: int, delta: Delta) -> Body:
        raise NotImplementedError

    def _full_choice(self, index: int, delta: Delta) -> Body:
        raise NotImplementedError

    def _stream_body(self, choices: list[Body], usage: Body | None) -> Body:
        raise NotImplementedError

    def _envelope(self, choices: list[Body], usage: Body | None) -> Body:
        raise NotImplementedError


class _PlainEvents:
    """Writes events of one choice that are all alike but for the text: most events are.

    Parameters
    ----------
    exchange : Exchange
        What they are the events of.
    """

    _MARK = "\x00text\x00"

    def __init__(self, exchange: Exchange[Any]) -> None:
        self._exchange = exchange
        self._made: tuple[int, int] | None = None
        self._head = self._tail = ""

    def __call__(self, index: int, delta: Delta) -> bytes:
        if delta.finish_reason is not None:
            return self._written(index, delta)
        made = (index, int(time.time()))
        if made != self._made:
            template = self._written(index, Delta(self._MARK)).decode()
            self._head, self._tail = template.split(_encode(self._MARK))
            self._made = made
        return f"{self._head}{_encode(delta.text)}{self._tail}".encode()

    def _written(self, index: int, delta: Delta) -> bytes:
        exchange = self._exchange
        return _event(exchange._stream_body([exchange._stream_choice(index, delta)], None))


@dataclass
class CompletionExchange(Exchange[CompletionRequest]):
    """A text completion.

    Attributes
    ----------
    prompt_text : str
        The prompt, for a request that wants it echoed.
    """

    prompt_text: str = ""

    async def _parts(self) -> AsyncIterator[Part]:
        choices = range(self.request.n)
        if self.request.echo:
            yield [(index, Delta(self.prompt_text)) for index in choices], None
        reasons: list[str | None] = [None for _ in choices]
        async with closing(super()._parts()) as parts:
            async for part, usage in parts:
                for index, delta in part:
                    reasons[index] = delta.finish_reason or reasons[index]
                yield part, usage
        suffix = self.request.suffix
        if suffix is not None:
            # Behind the usage, if there is one: so the real server orders them.
            yield [(index, Delta(suffix, reasons[index])) for index in choices], None

    def _stream_choice(self, index: int, delta: Delta) -> Body:
        logprobs = None if delta.logprobs is None else as_completion_logprobs(delta.logprobs)
        return {
            "finish_reason": delta.finish_reason,
            "index": index,
            "logprobs": logprobs,
            "text": delta.text,
        }

    def _full_choice(self, index: int, delta: Delta) -> Body:
        return self._stream_choice(index, delta)

    def _stream_body(self, choices: list[Body], usage: Body | None) -> Body:
        return self._envelope(choices, usage)

    def _envelope(self, choices: list[Body], usage: Body | None) -> Body:
        return {
            "id": self.request_id,
            "choices": choices,
            "created": int(time.time()),
            "model": self.request.model,
            "object": "text_completion",
            "usage": usage,
        }


@dataclass
class ChatExchange(Exchange[ChatCompletionRequest]):
    """A chat completion.

    Attributes
    ----------
    calls_functions : bool
        Whether the reply is to be read as function calls.
    """

    calls_functions: bool = False

    _no_tools: ClassVar[Body] = {"name": None, "tool_calls": None, "tool_call_id": None}

    def _seen(self, delta: Delta) -> Delta:
        if delta.finish_reason is not None and self.calls_functions:
            return Delta(delta.text, "tool_calls", delta.logprobs)
        return delta

    def _stream_choice(self, index: int, delta: Delta) -> Body:
        said = {"content": delta.text, "role": "assistant", **self._no_tools}
        logprobs = None if delta.logprobs is None else {"content": delta.logprobs}
        return {
            "finish_reason": delta.finish_reason,
            "index": index,
            "delta": said,
            "logprobs": logprobs,
        }

    def _full_choice(self, index: int, delta: Delta) -> Body:
        message: Body = {"content": delta.text, "role": "assistant", **self._no_tools}
        reason = delta.finish_reason
        if self.calls_functions:
            message, reason = _called(message)
        logprobs = {"content": delta.logprobs or []} if self.request.logprobs else None
        return {"finish_reason": reason, "index": index, "message": message, "logprobs": logprobs}

    def _stream_body(self, choices: list[Body], usage: Body | None) -> Body:
        return self._envelope(choices, usage, "chat.completion.chunk")

    def _envelope(
        self, choices: list[Body], usage: Body | None, kind: str = "chat.completion"
    ) -> Body:
        return {
            "id": self.request_id,
            "choices": choices,
            "created": int(time.time()),
            "model": self.request.model,
            "system_fingerprint": "",
            "object": kind,
            "usage": usage,
        }


def _called(message: Body) -> tuple[Body, str]:
    """Read `message` as function calls. What is no Python at all stays as it was said."""
    try:
        calls = parse_calls(message["content"])
    except (SyntaxError, ValueError):
        return message, "error"
    if not calls:
        return {**message, "content": INVALID_CALL}, "error"
    return {**message, "content": None, "tool_calls": calls}, "tool_calls"


def _event(body: Body) -> bytes:
    # Written by pydantic, as the real server's are: its floats have another form than json's.
    return b"data: " + to_json(body, inf_nan_mode="null") + b"\n\n"
