"""How a completion reaches its client: in one piece or as a stream, or not at all."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse, StreamingResponse

from pytest_mlc_server.sim.responses import error_response
from pytest_mlc_server.sim.sources import ECHO
from pytest_mlc_server.sim.trace import now_us

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from fastapi import Request, Response
    from starlette.types import Receive, Scope, Send

    from pytest_mlc_server.sim.context import Context
    from pytest_mlc_server.sim.engine import Engine
    from pytest_mlc_server.sim.exchange import ChatExchange, CompletionExchange
    from pytest_mlc_server.sim.protocol import ChatCompletionRequest, CompletionRequest
    from pytest_mlc_server.sim.sources import Latency, Source

    Exchange = ChatExchange | CompletionExchange


async def completion(request: CompletionRequest, raw: Request, context: Context) -> Response:
    """Go on with a text."""
    exchange = _begin(context, request.user, lambda: context.server.complete(request, *_told(raw)))
    return await _answer(exchange, raw, context.server.engine)


async def chat_completion(
    request: ChatCompletionRequest, raw: Request, context: Context
) -> Response:
    """Go on with a conversation."""
    exchange = _begin(
        context, request.user, lambda: context.server.chat(request, *_told(raw)), says_skips=True
    )
    return await _answer(exchange, raw, context.server.engine)


def _told(raw: Request) -> tuple[Source, Latency | None]:
    """Return what a rule says that the answer is, and how long it takes."""
    told: tuple[Source, Latency | None] = raw.scope.get("mlc_sim", (ECHO, None))
    return told


async def engine_metrics(context: Context) -> dict[str, Any]:
    """Ask the engine what it counted: it is a request like others, so that a dead engine is silent.

    Parameters
    ----------
    context : Context
        What is served.
    """
    await context.server.engine.alive()
    if context.trace is not None:
        context.trace.queried()
    return context.server.engine.metrics()


def _begin(
    context: Context, user: str | None, begin: Callable[[], Any], *, says_skips: bool = False
) -> Exchange:
    """Have the server begin to answer, and what happens recorded where that is asked for."""
    trace = context.trace
    began = now_us()
    try:
        exchange: Exchange = begin()
    except Exception:
        if trace is not None:
            trace.refused(user, began)
        raise
    if trace is not None:
        trace.received(exchange.request_id, began)
        exchange.steps = trace.follow(exchange, says_skips=says_skips)
    return exchange


async def _answer(exchange: Exchange, raw: Request, engine: Engine) -> Response:
    if not exchange.request.stream:
        return await _in_one_piece(exchange, raw, engine)
    events = exchange.events()
    # Awaited here, so that what goes wrong at once has a status of its own and no stream.
    first = await anext(events)
    return _Stream(_event_stream(first, events), media_type="text/event-stream")


async def _in_one_piece(exchange: Exchange, raw: Request, engine: Engine) -> Response:
    """Answer, unless the client goes away: nobody waits then, and the engine is free for others."""
    answer = asyncio.ensure_future(exchange.body())
    # The body of the request was read, so the next message can only say that the client is gone.
    gone = asyncio.ensure_future(raw.receive())
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return JSONResponse(await answer)
        # A dead engine keeps the real server from noticing, and so from ending on a signal.
        await engine.alive()
        return error_response("The request has disconnected")
    finally:
        answer.cancel()
        gone.cancel()


class _Stream(StreamingResponse):
    """A stream that is closed when its client has gone, and not when its memory is collected.

    Until then the engine would hold its place, and four clients that went away at a bad moment
    would keep all others waiting.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.body_iterator):  # type: ignore[type-var]
            await super().__call__(scope, receive, send)


async def _event_stream(
    first: bytes, events: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        yield first
        async for event in events:
            yield event
        yield b"data: [DONE]\n\n"
