"""Starts the server, saying on the way what the real one says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import uvicorn

from pytest_mlc_server.sim.app import create_app
from pytest_mlc_server.sim.context import Context
from pytest_mlc_server.sim.embeddings import load_embedding_model
from pytest_mlc_server.sim.logs import log
from pytest_mlc_server.sim.model import load_model
from pytest_mlc_server.sim.server import Server
from pytest_mlc_server.sim.standin import make_engine
from pytest_mlc_server.sim.startup import MOCK_LIBRARY
from pytest_mlc_server.sim.trace import TraceRecorder

if TYPE_CHECKING:
    from argparse import Namespace

    from starlette.types import ASGIApp

    from pytest_mlc_server.sim.scripting import Scripting


def build(arguments: Namespace) -> ASGIApp:
    """Make the application that the command line asks for.

    Parameters
    ----------
    arguments : Namespace
        The parsed command line.

    Raises
    ------
    ValueError
        A file of the model directory cannot be used.
    """
    imitate = frozenset(arguments.sim_imitate)
    model = load_model(arguments.model, arguments.overrides, arguments.mode)
    server = Server(
        model=model,
        engine=make_engine(model, arguments.model_lib, imitate),
        enable_debug=arguments.enable_debug,
        enable_tracing=arguments.enable_tracing,
        api_key=arguments.api_key,
        imitate=imitate,
        device="cpu" if arguments.device == "auto" else arguments.device,
    )
    cors = {
        "allow_credentials": arguments.allow_credentials,
        "allow_origins": arguments.allow_origins,
        "allow_methods": arguments.allow_methods,
        "allow_headers": arguments.allow_headers,
    }
    app: ASGIApp = create_app(_context(arguments, server), cors)
    if arguments.scripting is not None:
        app = arguments.scripting.wrap(app, cors, server)
    if arguments.enable_debug:
        log("INFO", "serve.py:126", "Enable debug endpoint and debug_config in requests...")
    return app


def run(app: ASGIApp, host: str, port: int, scripting: Scripting | None = None) -> None:
    """Serve until a signal says to end. Where uvicorn cannot start, it ends the program."""
    # Named implementations: what else is installed changes neither behaviour nor start-up time.
    how: dict[str, Any] = {"log_level": "info", "loop": "asyncio", "http": "h11", "ws": "none"}
    if scripting is not None:
        scripting.run(app, host=host, port=port, **how)
    else:
        uvicorn.run(app, host=host, port=port, **how)


def _context(arguments: Namespace, server: Server) -> Context:
    embedding = None
    if arguments.embedding_model is not None:
        embedding = load_embedding_model(arguments.embedding_model)
    native = not (arguments.model_lib or "").startswith(MOCK_LIBRARY)
    trace = TraceRecorder(native=native) if arguments.enable_tracing else None
    return Context(server, embedding, trace)
