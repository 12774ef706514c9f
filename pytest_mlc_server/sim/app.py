"""The HTTP interface."""

# No postponed annotations here: FastAPI reads them at run time.

import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from pytest_mlc_server.sim.errors import BadRequestError
from pytest_mlc_server.sim.exchange import ChatExchange, CompletionExchange
from pytest_mlc_server.sim.metrics import prometheus_text
from pytest_mlc_server.sim.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    PrepRecvRequest,
    RemoteSendRequest,
    StartGenerateRequest,
)
from pytest_mlc_server.sim.server import Server


def _server(request: Request) -> Server:
    server: Server = request.app.state.server
    return server


Served = Annotated[Server, Depends(_server)]


def _verify_api_key(request: Request, server: Served) -> None:
    # "Bearer " is taken out wherever it stands, as the real server does.
    given = request.headers.get("Authorization", "").replace("Bearer ", "")
    if server.api_key is not None and given != server.api_key:
        raise HTTPException(status_code=401, detail="Invalid API Key")


openai = APIRouter(dependencies=[Depends(_verify_api_key)])
unguarded = APIRouter()
debug = APIRouter()


def create_app(server: Server, cors: dict[str, Any]) -> FastAPI:
    """Return the application that serves `server`.

    Parameters
    ----------
    server : Server
        What to serve.
    cors : dict
        The keyword arguments of Starlette's `CORSMiddleware`.
    """
    app = FastAPI()
    app.state.server = server
    app.add_middleware(CORSMiddleware, **cors)
    app.include_router(openai)
    app.include_router(unguarded)
    if server.enable_debug:
        app.include_router(debug)
    app.add_exception_handler(BadRequestError, _bad_request)
    return app


@openai.post("/v1/embeddings")
async def request_embedding(request: EmbeddingRequest) -> Response:
    """Refuse: no embedding model is served."""
    return _error(f'The requested model "{request.model}" is not served as an embedding model.')


@openai.get("/v1/models")
async def request_models(server: Served) -> dict[str, Any]:
    """List the one model."""
    created = int(time.time())
    model = {"id": server.model.name, "created": created, "object": "model", "owned_by": "MLC-LLM"}
    return {"object": "list", "data": [model]}


@openai.post("/v1/completions")
async def request_completion(request: CompletionRequest, server: Served) -> Response:
    """Go on with a text."""
    return await _answer(server.complete(request))


@openai.post("/v1/chat/completions")
async def request_chat_completion(request: ChatCompletionRequest, server: Served) -> Response:
    """Go on with a conversation."""
    return await _answer(server.chat(request))


@unguarded.get("/metrics", response_class=PlainTextResponse)
async def metrics(server: Served) -> str:
    """Show what the engine counted, as Prometheus text."""
    return prometheus_text(server.engine.metrics())


@unguarded.post("/microserving/prep_recv")
async def prep_recv(request: PrepRecvRequest) -> Response:
    """Fail: there is no KV cache to prepare."""
    raise NotImplementedError(f"no KV cache is simulated to receive {request.end} tokens")


@unguarded.post("/microserving/remote_send")
async def remote_send(request: RemoteSendRequest) -> Response:
    """Fail: there is no KV cache to send."""
    raise NotImplementedError(f"no KV cache is simulated to send from {request.begin}")


@unguarded.post("/microserving/start_generate")
async def start_generate(request: StartGenerateRequest, server: Served) -> Response:
    """Go on with a text, whose beginning would be in the KV cache of the real server."""
    if request.debug_config is None:
        raise AttributeError("'NoneType' object has no attribute 'disagg_config'")
    return await _answer(server.complete(request))


@debug.post("/debug/dump_event_trace", response_model=None)
async def debug_dump_event_trace(request: Request, server: Served) -> Response | list[Any]:
    """Return the recorded events: none are recorded."""
    body = await _json_body(request)
    model = _model_of(*body)
    if not server.enable_tracing:
        return _error(f'The requested model "{model}" does not enable tracing')
    return []


@debug.post("/debug/cuda_profiler_start")
async def debug_cuda_profiler_start() -> None:
    """Do nothing: there is no GPU."""


@debug.post("/debug/cuda_profiler_stop")
async def debug_cuda_profiler_stop() -> None:
    """Do nothing: there is no GPU."""


@debug.post("/debug/dump_engine_metrics")
async def debug_dump_engine_metrics(request: Request, server: Served) -> dict[str, Any]:
    """Return what the engine counted, as JSON."""
    await _json_body(request)
    return {"metrics": server.engine.metrics()}


@debug.post("/debug/reset_engine")
async def debug_reset_engine(request: Request, server: Served) -> None:
    """Forget what the engine counted."""
    _model_of(*await _json_body(request))
    server.engine.reset()


async def _answer(exchange: ChatExchange | CompletionExchange) -> Response:
    if exchange.request.stream:
        return StreamingResponse(_event_stream(exchange), media_type="text/event-stream")
    return JSONResponse(await exchange.body())


async def _event_stream(exchange: ChatExchange | CompletionExchange) -> AsyncIterator[str]:
    async for event in exchange.events():
        yield f"data: {_compact(event)}\n\n"
    yield "data: [DONE]\n\n"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _error(message: str) -> Response:
    # JSON within a JSON string: the real server encodes its errors twice.
    return JSONResponse(
        _compact({"object": "error", "message": message, "code": 400}), status_code=400
    )


async def _bad_request(_request: Request, error: Exception) -> Response:
    return _error(str(error))


async def _json_body(request: Request) -> tuple[Any, str]:
    """Return the body of a debug request, which the real server parses by hand, and its text."""
    text = (await request.body()).decode("utf-8")
    try:
        return json.loads(text), text
    except json.JSONDecodeError:
        raise BadRequestError(f"Invalid request {text}") from None


def _model_of(body: Any, text: str) -> Any:
    if "model" not in body:
        raise BadRequestError(f"Invalid request {text}")
    return body["model"]
