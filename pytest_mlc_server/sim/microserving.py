"""``/microserving/*``: the parts of a request that several servers share."""

# No postponed annotations here: FastAPI reads them at run time.

from typing import Any

from fastapi import APIRouter, Request, Response

from pytest_mlc_server.sim.answers import completion
from pytest_mlc_server.sim.context import Served
from pytest_mlc_server.sim.protocol import (
    CompletionRequest,
    DisaggConfig,
    PrepRecvRequest,
    PrepRecvResponse,
    RemoteSendRequest,
    StartGenerateRequest,
    StreamOptions,
)

router = APIRouter()


@router.post("/microserving/prep_recv", response_model=PrepRecvResponse)
async def prep_recv(request: PrepRecvRequest, raw: Request, served: Served) -> Any:
    """Fail, in the ways of a server that is one of one: there is no KV cache to receive."""
    _set_window(request, kind="prepare_receive", kv_window_begin=0, kv_window_end=request.end)
    await _in_one_piece(request, raw, served)
    # Only an engine that is asked to prepare says what it has prepared.
    raise AssertionError("the usage has no prefix_matched_length")


@router.post("/microserving/remote_send", response_model=None)
async def remote_send(request: RemoteSendRequest, raw: Request, served: Served) -> dict[str, Any]:
    """Go on with a text and throw it away: there is no KV cache to send."""
    _set_window(
        request,
        kind="remote_send",
        kv_window_begin=request.begin,
        kv_window_end=request.end,
        kv_append_metadata=request.kv_addr_info,
        dst_group_offset=request.recv_rank,
    )
    await _in_one_piece(request, raw, served)
    return {}


@router.post("/microserving/start_generate")
async def start_generate(request: StartGenerateRequest, raw: Request, served: Served) -> Response:
    """Go on with a text, whose beginning would be in the KV cache of the real server."""
    _set_window(request, kind="start_generation", kv_window_begin=request.begin)
    return await completion(request, raw, served)


def _set_window(request: CompletionRequest, **window: Any) -> None:
    if request.debug_config is None:
        # The real server's own words, though with --enable-debug or without it.
        raise AttributeError("'NoneType' object has no attribute 'disagg_config'")
    request.debug_config.disagg_config = DisaggConfig(**window)


async def _in_one_piece(request: CompletionRequest, raw: Request, served: Served) -> None:
    request.stream_options = StreamOptions(include_usage=True)
    request.stream = False
    await completion(request, raw, served)
