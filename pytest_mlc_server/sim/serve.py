"""Starts the server, saying on the way what the real one says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import uvicorn

from pytest_mlc_server.sim.app import create_app
from pytest_mlc_server.sim.engine import MOCK_LIBRARY, make_engine
from pytest_mlc_server.sim.model import load_model
from pytest_mlc_server.sim.server import Server, log

if TYPE_CHECKING:
    from argparse import Namespace

    from fastapi import FastAPI

_GREEN, _PLAIN = "\x1b[92m", "\x1b[0m"

_MODES = {
    "local": "We choose small max batch size and KV cache capacity to use less GPU memory.",
    "interactive": "We fix max batch size to 1 for interactive single sequence use.",
    "server": (
        "We use as much GPU memory as possible (within the limit of gpu_memory_utilization)."
    ),
}

_OTHER_MODES = {
    "local": ("211", "If you have low concurrent requests and want to use less GPU memory, "),
    "interactive": (
        "214",
        "If you don't have concurrent requests and only use the engine interactively, ",
    ),
    "server": (
        "219",
        "If you have high concurrent requests and want to maximize the GPU memory utilization, ",
    ),
}


def build(arguments: Namespace) -> FastAPI:
    """Make the application that the command line asks for.

    Parameters
    ----------
    arguments : Namespace
        The parsed command line.

    Raises
    ------
    ValueError
        The model directory cannot be used.
    """
    log("INFO", "simulator", "This is the simulator of pytest-mlc-server: no model is loaded.")
    model = load_model(arguments.model, arguments.overrides)
    _announce(arguments)
    server = Server(
        model=model,
        engine=make_engine(model, arguments.model_lib),
        enable_debug=arguments.enable_debug,
        enable_tracing=arguments.enable_tracing,
        api_key=arguments.api_key,
    )
    cors = {
        "allow_credentials": arguments.allow_credentials,
        "allow_origins": arguments.allow_origins,
        "allow_methods": arguments.allow_methods,
        "allow_headers": arguments.allow_headers,
    }
    return create_app(server, cors)


def run(app: FastAPI, host: str, port: int) -> None:
    """Serve until a signal says to end. Where uvicorn cannot start, it ends the program."""
    # Named implementations: what else is installed changes neither behaviour nor start-up time.
    uvicorn.run(app, host=host, port=port, log_level="info", loop="asyncio", http="h11", ws="none")


def _announce(arguments: Namespace) -> None:
    device = "cpu" if arguments.device == "auto" else arguments.device
    name = device if ":" in device else f"{device}:0"
    log("INFO", "auto_device.py:80", f"{_GREEN}Found{_PLAIN} device: {name}")
    library = arguments.model_lib
    if library is not None and library.startswith(MOCK_LIBRARY):
        log("INFO", "engine_base.py:146", f"[DEBUG] mock test: {library}")
    elif library is not None:
        log("INFO", "engine_base.py:149", f"Using library model: {library}")
    mode = f"{_GREEN}{arguments.mode}{_PLAIN}"
    choice = _MODES[arguments.mode]
    log("INFO", "engine_base.py:189", f"The selected engine mode is {mode}. {choice}")
    for other, (line, reason) in _OTHER_MODES.items():
        if other != arguments.mode:
            log("INFO", f"engine_base.py:{line}", f'{reason}please select mode "{other}".')
    if arguments.enable_debug:
        log("INFO", "serve.py:126", "Enable debug endpoint and debug_config in requests...")
