"""One request and its response, in the form of the OpenAI API as the real server speaks it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pytest_mlc_server.sim.engine import Delta, Usage
from pytest_mlc_server.sim.protocol import ChatCompletionRequest, CompletionRequest
from pytest_mlc_server.sim.tools import INVALID_CALL, parse_calls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pytest_mlc_server.sim.engine import Step
    from pytest_mlc_server.sim.protocol import AnyRequest

RequestT = TypeVar("RequestT", bound="AnyRequest")

Body = dict[str, Any]


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
    steps: AsyncIterator[Step]
    show_extra: bool

    async def events(self) -> AsyncIterator[Body]:
        """Return the body of each event of a stream."""
        async for choices, usage in self._parts():
            if usage is None:
                yield self._stream_body([self._stream_choice(*choice) for choice in choices], None)
            elif self._usage_is_streamed():
                yield self._stream_body([], usage)

    async def body(self) -> Body:
        """Return the body of a response in one piece."""
        texts = [""] * self.request.n
        reasons: list[str | None] = [None] * self.request.n
        total: Body | None = None
        async for choices, usage in self._parts():
            total = usage or total
            for index, text, reason in choices:
                texts[index] += text
                reasons[index] = reasons[index] or reason
        return self._full_body(texts, reasons, total)

    async def _parts(self) -> AsyncIterator[tuple[list[tuple[int, str, str | None]], Body | None]]:
        """Return which choices go on with which text, or the usage. Steps without text are none."""
        async for step in self.steps:
            if isinstance(step, Usage):
                yield [], step.as_json(with_extra=self.show_extra)
                continue
            choices = [
                (index, delta.text, self._reason(delta))
                for index, delta in enumerate(step)
                if delta.text or delta.finish_reason is not None
            ]
            if choices:
                yield choices, None

    def _reason(self, delta: Delta) -> str | None:
        return delta.finish_reason

    def _usage_is_streamed(self) -> bool:
        options = self.request.stream_options
        return options is not None and bool(options.include_usage)

    def _stream_choice(self, index: int, text: str, reason: str | None) -> Body:
        raise NotImplementedError

    def _stream_body(self, choices: list[Body], usage: Body | None) -> Body:
        raise NotImplementedError

    def _full_body(self, texts: list[str], reasons: list[str | None], usage: Body | None) -> Body:
        raise NotImplementedError


@dataclass
class CompletionExchange(Exchange[CompletionRequest]):
    """A text completion.

    Attributes
    ----------
    prompt_text : str
        The prompt, for a request that wants it echoed.
    """

    prompt_text: str = ""

    async def _parts(self) -> AsyncIterator[tuple[list[tuple[int, str, str | None]], Body | None]]:
        choices = range(self.request.n)
        if self.request.echo:
            yield [(index, self.prompt_text, None) for index in choices], None
        reasons: list[str | None] = [None for _ in choices]
        async for part, usage in super()._parts():
            for index, _, reason in part:
                reasons[index] = reason or reasons[index]
            yield part, usage
        suffix = self.request.suffix
        if suffix is not None:
            # Behind the usage, if there is one: so the real server orders them.
            yield [(index, suffix, reasons[index]) for index in choices], None

    def _stream_choice(self, index: int, text: str, reason: str | None) -> Body:
        return {"finish_reason": reason, "index": index, "logprobs": None, "text": text}

    def _stream_body(self, choices: list[Body], usage: Body | None) -> Body:
        return {
            "id": self.request_id,
            "choices": choices,
            "created": int(time.time()),
            "model": self.request.model,
            "object": "text_completion",
            "usage": usage,
        }

    def _full_body(self, texts: list[str], reasons: list[str | None], usage: Body | None) -> Body:
        choices = [
            self._stream_choice(index, text, reason)
            for index, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ]
        return self._stream_body(choices, usage)


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

    def _reason(self, delta: Delta) -> str | None:
        if delta.finish_reason is not None and self.calls_functions:
            return "tool_calls"
        return delta.finish_reason

    def _stream_choice(self, index: int, text: str, reason: str | None) -> Body:
        delta = {"content": text, "role": "assistant", **self._no_tools}
        return {"finish_reason": reason, "index": index, "delta": delta, "logprobs": None}

    def _stream_body(self, choices: list[Body], usage: Body | None) -> Body:
        return self._envelope(choices, "chat.completion.chunk", usage)

    def _full_body(self, texts: list[str], reasons: list[str | None], usage: Body | None) -> Body:
        choices = []
        for index, (text, finish_reason) in enumerate(zip(texts, reasons, strict=True)):
            message: Body = {"content": text, "role": "assistant", **self._no_tools}
            reason = finish_reason
            if self.calls_functions:
                message, reason = _called(message)
            logprobs: Body | None = {"content": []} if self.request.logprobs else None
            choices.append(
                {"finish_reason": reason, "index": index, "message": message, "logprobs": logprobs}
            )
        return self._envelope(choices, "chat.completion", usage)

    def _envelope(self, choices: list[Body], kind: str, usage: Body | None) -> Body:
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
