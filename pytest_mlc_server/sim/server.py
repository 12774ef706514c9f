"""The served model and its engine: checks a request, makes its prompt, has it answered."""

from __future__ import annotations

import sys
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_mlc_server.sim.errors import BadRequestError
from pytest_mlc_server.sim.exchange import ChatExchange, CompletionExchange
from pytest_mlc_server.sim.generation import generation_config
from pytest_mlc_server.sim.tools import offered_functions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pytest_mlc_server.sim.conversation import Message
    from pytest_mlc_server.sim.engine import Engine, Step
    from pytest_mlc_server.sim.model import ServedModel
    from pytest_mlc_server.sim.protocol import (
        AnyRequest,
        ChatCompletionRequest,
        ChatMessage,
        CompletionRequest,
    )


def log(level: str, place: str, message: str) -> None:
    """Write a line in the form of the real server's own log lines.

    Parameters
    ----------
    level : str
        ``INFO`` or ``ERROR``.
    place : str
        The file and line of the real server that would have said it, or the one here that does.
    message : str
        What to say.
    """
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    sys.stderr.write(f"[{now}] {level} {place}: {message}\n")
    sys.stderr.flush()


@dataclass(frozen=True)
class Server:
    """What the HTTP interface is an interface to.

    Attributes
    ----------
    model : ServedModel
        The one model that is served.
    engine : Engine
        What answers.
    enable_debug, enable_tracing : bool
        As the flags of these names.
    api_key : str or None
        What ``/v1/*`` asks for.
    """

    model: ServedModel
    engine: Engine
    enable_debug: bool = False
    enable_tracing: bool = False
    api_key: str | None = None

    def complete(self, request: CompletionRequest) -> CompletionExchange:
        """Begin to answer a completion request.

        Raises
        ------
        BadRequestError
            The request cannot be answered, and its sender can do something about it.
        """
        request_id = _request_id(request, "cmpl")
        with _failure_logged("engine.py:1306", "_handle_completion", request_id):
            if request.best_of != 1:
                raise BadRequestError('Request fields "best_of" are not supported right now.')
            prompt = self._completion_prompt(request)
            return CompletionExchange(
                request=request,
                request_id=request_id,
                steps=self._generate(request, prompt),
                show_extra=self.enable_debug,
                prompt_text=self.model.tokenizer.decode(prompt) if request.echo else "",
            )

    def chat(self, request: ChatCompletionRequest) -> ChatExchange:
        """Begin to answer a chat completion request.

        Raises
        ------
        BadRequestError
            The request cannot be answered, and its sender can do something about it.
        """
        request_id = _request_id(request, "chatcmpl")
        with _failure_logged("engine.py:1234", "_handle_chat_completion", request_id):
            for position, message in enumerate(request.messages):
                _check_message(message, position)
            functions = offered_functions(request)
            return ChatExchange(
                request=request,
                request_id=request_id,
                steps=self._generate(request, self._chat_prompt(request, functions)),
                show_extra=self.enable_debug,
                calls_functions=functions is not None,
            )

    def _completion_prompt(self, request: CompletionRequest) -> list[int]:
        if not isinstance(request.prompt, str):
            if not request.prompt:
                raise BadRequestError("Invalid request prompt []")
            return request.prompt
        prompt = self.model.tokenizer.encode(request.prompt)
        if not prompt:
            # The real server stumbles over an empty prompt, and answers with a status 500.
            raise IndexError("list index out of range")
        return prompt

    def _chat_prompt(self, request: ChatCompletionRequest, functions: str | None) -> list[int]:
        conversation = self.model.conversation
        messages: list[Message] = []
        for message in request.messages:
            if message.role == "system":
                if not isinstance(message.content, str):
                    raise TypeError("the content of a system message has to be a string")
                conversation = replace(conversation, system_message=message.content)
            else:
                messages.append((message.role, message.content))
        text = conversation.render(messages, functions or "")
        return (conversation.system_prefix_token_ids or []) + self.model.tokenizer.encode(text)

    def _generate(self, request: AnyRequest, prompt: list[int]) -> AsyncIterator[Step]:
        limit = self.engine.max_prompt_tokens
        if limit is not None and len(prompt) > limit:
            raise BadRequestError(
                f"Request prompt has {len(prompt)} tokens in total,"
                f" larger than the model input length limit {limit}."
            )
        if not self.enable_debug:
            request.debug_config = None
        return self.engine.generate(prompt, generation_config(request, self.model))


def _request_id(request: AnyRequest, prefix: str) -> str:
    return request.user if request.user is not None else f"{prefix}-{uuid.uuid4().hex}"


def _check_message(message: ChatMessage, position: int) -> None:
    if message.role == "system" and position != 0:
        raise BadRequestError(
            f"System prompt at position {position} in the message list is invalid."
        )
    if message.tool_call_id is not None and message.role != "tool":
        raise BadRequestError("Non-tool message having `tool_call_id` is invalid.")
    if isinstance(message.content, list) and message.role != "user":
        raise BadRequestError("Non-user message having a list of content is invalid.")
    if message.tool_calls is not None:
        if message.role != "assistant":
            raise BadRequestError("Non-assistant message having `tool_calls` is invalid.")
        raise BadRequestError("Assistant message having `tool_calls` is not supported yet.")


@contextmanager
def _failure_logged(place: str, handler: str, request_id: str) -> Iterator[None]:
    """Leave the line in the log by which the real server says that a request failed."""
    try:
        yield
    except BadRequestError:
        raise
    except Exception as error:
        log("ERROR", place, f"Error in {handler} for request {request_id}: {error}")
        raise
