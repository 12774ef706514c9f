"""The served model and its engine: checks a request, makes its prompt, has it answered."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_mlc_server.sim.closing import closing
from pytest_mlc_server.sim.deaths import find_death, suffer
from pytest_mlc_server.sim.disaggregation import disaggregate
from pytest_mlc_server.sim.errors import BadRequestError
from pytest_mlc_server.sim.exchange import ChatExchange, CompletionExchange
from pytest_mlc_server.sim.generation import check_choices, generation_config
from pytest_mlc_server.sim.logs import log
from pytest_mlc_server.sim.sources import ECHO
from pytest_mlc_server.sim.tools import offered_functions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pytest_mlc_server.sim.conversation import Message
    from pytest_mlc_server.sim.engine import Engine, Step
    from pytest_mlc_server.sim.generation import GenerationConfig
    from pytest_mlc_server.sim.model import ServedModel
    from pytest_mlc_server.sim.protocol import (
        AnyRequest,
        ChatCompletionMessage,
        ChatCompletionRequest,
        CompletionRequest,
    )
    from pytest_mlc_server.sim.sources import Latency, Source


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
    imitate : frozenset of str
        Which deaths of a real engine are imitated and not only told of: "wedge", "crash".
    device : str
        What the model would run on: some requests kill an engine on a CPU alone.
    """

    model: ServedModel
    engine: Engine
    enable_debug: bool = False
    enable_tracing: bool = False
    api_key: str | None = None
    imitate: frozenset[str] = frozenset()
    device: str = "cpu"

    def complete(
        self,
        request: CompletionRequest,
        source: Source = ECHO,
        latency: Latency | None = None,
    ) -> CompletionExchange:
        """Begin to answer a completion request.

        What only the engine finds out goes wrong when the first step is taken.

        Raises
        ------
        BadRequestError
            The request cannot be answered, and its sender can do something about it.
        """
        check_choices(request)
        request_id = _request_id(request, "cmpl")
        if request.best_of != 1:
            raise BadRequestError('Request fields "best_of" are not supported right now.')
        prompt = self._completion_prompt(request)
        job = _Job(request_id, prompt, source, latency, "engine.py:1306", "_handle_completion")
        return CompletionExchange(
            request=request,
            request_id=request_id,
            steps=self._generate(request, job),
            show_extra=self.enable_debug,
            prompt_text=self.model.tokenizer.decode(prompt) if request.echo else "",
        )

    def chat(
        self,
        request: ChatCompletionRequest,
        source: Source = ECHO,
        latency: Latency | None = None,
    ) -> ChatExchange:
        """Begin to answer a chat completion request.

        What only the engine finds out goes wrong when the first step is taken.

        Raises
        ------
        BadRequestError
            The request cannot be answered, and its sender can do something about it.
        """
        check_choices(request)
        request_id = _request_id(request, "chatcmpl")
        for position, message in enumerate(request.messages):
            _check_message(message, position)
        functions = offered_functions(request)
        prompt = self._chat_prompt(request, functions)
        job = _Job(request_id, prompt, source, latency, "engine.py:1234", "_handle_chat_completion")
        return ChatExchange(
            request=request,
            request_id=request_id,
            steps=self._generate(request, job),
            show_extra=self.enable_debug,
            calls_functions=functions is not None,
        )

    def _completion_prompt(self, request: CompletionRequest) -> list[int]:
        if isinstance(request.prompt, str):
            prompt = self.model.tokenizer.encode(request.prompt)
        else:
            prompt = request.prompt
            if not prompt:
                raise BadRequestError("Invalid request prompt []")
        self._check_length(prompt)
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
        prompt = (conversation.system_prefix_token_ids or []) + self.model.tokenizer.encode(text)
        self._check_length(prompt)
        return prompt

    def _check_length(self, prompt: list[int]) -> None:
        limit = self.engine.max_prompt_tokens
        if limit is not None and len(prompt) > limit:
            raise BadRequestError(
                f"Request prompt has {len(prompt)} tokens in total,"
                f" larger than the model input length limit {limit}."
            )

    async def _generate(self, request: AnyRequest, job: _Job) -> AsyncGenerator[Step, None]:
        if not self.enable_debug:
            request.debug_config = None
        try:
            config = generation_config(request, self.model)
            if not job.prompt:
                # The real server stumbles over an empty prompt, and answers with a status 500.
                raise IndexError("list index out of range")
            await self._survive(job.prompt, config)
            generation = self.engine.generate(
                job.prompt, config, job.source, job.latency, job.request_id
            )
            async with closing(generation) as steps:
                async for step in steps:
                    yield step
        except Exception as error:
            # The line by which the real server says that a request failed.
            message = f"Error in {job.handler} for request {job.request_id}: {error}"
            log("ERROR", job.place, message)
            raise

    async def _survive(self, prompt: list[int], config: GenerationConfig) -> None:
        """Let a request that kills a real engine do as much to this one as is asked for."""
        await disaggregate(config, self.engine, self.imitate)
        if self.engine.is_mock:
            return
        death = find_death(prompt, config, self.model, self.device)
        if death is not None:
            await self.engine.alive()
            suffer(death, self.engine, self.imitate)


@dataclass(frozen=True)
class _Job:
    """A prompt that is to be answered, and who asks for it, as the log says it."""

    request_id: str
    prompt: list[int]
    source: Source
    latency: Latency | None
    place: str
    handler: str


def _request_id(request: AnyRequest, prefix: str) -> str:
    return request.user if request.user is not None else f"{prefix}-{uuid.uuid4().hex}"


def _check_message(message: ChatCompletionMessage, position: int) -> None:
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
