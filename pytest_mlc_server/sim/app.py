"""The HTTP interface."""

# No postponed annotations here: FastAPI reads them at run time.

import time
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse

from pytest_mlc_server.sim import debug, microserving
from pytest_mlc_server.sim.answers import chat_completion, completion, engine_metrics
from pytest_mlc_server.sim.context import Context, Served, context_of
from pytest_mlc_server.sim.embeddings import embedding_body
from pytest_mlc_server.sim.errors import BadRequestError
from pytest_mlc_server.sim.metrics import prometheus_text
from pytest_mlc_server.sim.openapi import describe
from pytest_mlc_server.sim.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    ListResponse,
)
from pytest_mlc_server.sim.responses import bad_request, error_response


async def _verify_api_key(request: Request) -> None:
    api_key = context_of(request).server.api_key
    # "Bearer " is taken out wherever it stands, as the real server does.
    given = request.headers.get("Authorization", "").replace("Bearer ", "")
    if api_key is not None and given != api_key:
        raise HTTPException(status_code=401, detail="Invalid API Key")


openai = APIRouter(dependencies=[Depends(_verify_api_key)])
unguarded = APIRouter()


def create_app(context: Context, cors: dict[str, Any]) -> FastAPI:
    """Return the application that serves `context`.

    Parameters
    ----------
    context : Context
        What to serve.
    cors : dict
        The keyword arguments of Starlette's `CORSMiddleware`.
    """
    app = FastAPI()
    app.state.context = context
    app.add_middleware(CORSMiddleware, **cors)
    app.include_router(openai)
    app.include_router(unguarded)
    app.include_router(microserving.router)
    if context.server.enable_debug:
        app.include_router(debug.router)
    app.add_exception_handler(BadRequestError, bad_request)
    # The documented way to change what is at /openapi.json, a method that mypy protects.
    app.openapi = describe(app)  # type: ignore[method-assign]
    return app


@openai.post("/v1/embeddings", response_model=None)
async def request_embedding(request: EmbeddingRequest, served: Served) -> Any:
    """Make vectors of texts, where an embedding model is served."""
    model = served.embedding
    if model is None:
        return error_response(
            f'The requested model "{request.model}" is not served as an embedding model.'
        )
    texts = model.texts(request)
    try:
        vectors, tokens = model.embed(texts)
    except Exception as error:
        return error_response(f"Embedding inference failed: {error}", status=500)
    return embedding_body(request, vectors, tokens)


@openai.get("/v1/models")
async def request_models(served: Served) -> ListResponse:
    """List the model, and the embedding model where there is one."""
    names = [served.server.model.name]
    if served.embedding is not None:
        names.append(served.embedding.name)
    created = int(time.time())
    return ListResponse(
        data=[
            {"id": name, "created": created, "object": "model", "owned_by": "MLC-LLM"}
            for name in names
        ]
    )


@openai.post("/v1/completions")
async def request_completion(request: CompletionRequest, raw_request: Request) -> Response:
    """Go on with a text."""
    return await completion(request, raw_request, context_of(raw_request))


@openai.post("/v1/chat/completions")
async def request_chat_completion(request: ChatCompletionRequest, raw_request: Request) -> Response:
    """Go on with a conversation."""
    return await chat_completion(request, raw_request, context_of(raw_request))


@unguarded.get("/metrics", response_class=PlainTextResponse)
async def metrics(served: Served) -> str:
    """Show what the engine counted, as Prometheus text."""
    return prometheus_text(await engine_metrics(served))
