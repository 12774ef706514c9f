"""What the endpoints have in common: the server, and what is kept beside its engine."""

# No postponed annotations here: FastAPI reads them at run time.

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from pytest_mlc_server.sim.embeddings import EmbeddingModel
from pytest_mlc_server.sim.server import Server
from pytest_mlc_server.sim.trace import TraceRecorder


@dataclass(frozen=True)
class Context:
    """What an application serves.

    Attributes
    ----------
    server : Server
        The chat model and its engine.
    embedding : EmbeddingModel or None
        What ``--embedding-model`` names.
    trace : TraceRecorder or None
        The events of requests, under ``--enable-tracing``.
    """

    server: Server
    embedding: EmbeddingModel | None = None
    trace: TraceRecorder | None = None


def context_of(request: Request) -> Context:
    """Return what the application of a request serves."""
    context: Context = request.app.state.context
    return context


async def _context(request: Request) -> Context:
    # A coroutine, as all dependencies here: FastAPI would have a thread of its pool call a plain
    # function, which takes as long as all the rest of a request.
    return context_of(request)


#: The annotation by which an endpoint gets its `Context`. Those that suites call all the time use
#: `context_of`: FastAPI takes longer to solve a dependency than the engine to say a word.
Served = Annotated[Context, Depends(_context)]
