"""``/debug/*``, which exists under ``--enable-debug``."""

# No postponed annotations here: FastAPI reads them at run time.

from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from pytest_mlc_server.sim.answers import engine_metrics
from pytest_mlc_server.sim.context import Context, Served
from pytest_mlc_server.sim.deaths import profiler_death, suffer
from pytest_mlc_server.sim.errors import BadRequestError, InternalError
from pytest_mlc_server.sim.responses import error_response, json_body

router = APIRouter()


@router.post("/debug/dump_event_trace")
async def debug_dump_event_trace(request: Request, served: Served) -> Response:
    """Return the recorded events."""
    model = _model_of(*await json_body(request))
    if served.trace is None:
        return error_response(f'The requested model "{model}" does not enable tracing')
    return JSONResponse(served.trace.as_chrome_events())


@router.post("/debug/cuda_profiler_start")
async def debug_cuda_profiler_start(served: Served) -> None:
    """Do what the profiler does where there is no CUDA: kill the engine, after the answer."""
    _profile(served, "start")


@router.post("/debug/cuda_profiler_stop")
async def debug_cuda_profiler_stop(served: Served) -> None:
    """Do what the profiler does where there is no CUDA: kill the engine, after the answer."""
    _profile(served, "stop")


@router.post("/debug/dump_engine_metrics", response_model=None)
async def debug_dump_engine_metrics(request: Request, served: Served) -> dict[str, Any]:
    """Return what the engine counted, as JSON."""
    body, _ = await json_body(request)
    # Looked up and not used, as with every server of one model; but JSON that is no object has no
    # such method, and the real server answers with a status 500.
    body.get("model")
    return {"metrics": await engine_metrics(served)}


@router.post("/debug/reset_engine")
async def debug_reset_engine_stats(request: Request, served: Served) -> None:
    """Forget what the engine counted."""
    _model_of(*await json_body(request))
    served.server.engine.reset()


def _profile(served: Context, name: str) -> None:
    server = served.server
    if not server.engine.is_mock and server.device.startswith("cpu"):
        # The answer is the same, whether the engine is dead or was spared.
        with suppress(InternalError):
            suffer(profiler_death(name), server.engine, server.imitate)


def _model_of(body: Any, text: str) -> Any:
    if "model" not in body:
        raise BadRequestError(f"Invalid request {text}")
    return body["model"]
