"""What becomes of a request that one server of several would compute a part of.

No other server is there, neither for a real engine nor for this one: such a request is wrong, or
kills the engine, or waits for ever.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from typing import TYPE_CHECKING

from pytest_mlc_server.sim.deaths import Death, suffer
from pytest_mlc_server.sim.errors import InternalError
from pytest_mlc_server.sim.logs import log

if TYPE_CHECKING:
    from pytest_mlc_server.sim.engine import Engine
    from pytest_mlc_server.sim.generation import GenerationConfig

_NO_RECEIVER = "Check failed: (it_rstate != estate_->request_states.end()) is false: "

_FRAMES = (
    '  File "cpp/serve/engine.cc", line 596, in bool'
    " mlc::llm::serve::EngineImpl::HandleDisaggRequest(mlc::llm::serve::Request)\n"
    "    TVM_FFI_ICHECK(it_rstate != estate_->request_states.end());\n\n"
)


async def disaggregate(config: GenerationConfig, engine: Engine, imitate: frozenset[str]) -> None:
    """Let a request for a part fail as it does in a real engine; return if it is for the whole.

    Parameters
    ----------
    config : GenerationConfig
        The settings of the request.
    engine : Engine
        What would answer.
    imitate : frozenset of str
        With "wedge", the request dies, or waits for ever, as in a real engine.

    Raises
    ------
    InternalError
        It is wrong, or its fate was spared.
    """
    part = config.debug_config.disagg_config
    if part is None:
        return
    if part.kv_append_metadata is not None:
        _check_metadata(part.kv_append_metadata)
    if part.kind is None or engine.is_mock:
        return
    if part.kind == "start_generation":
        await engine.alive()
        suffer(Death(_NO_RECEIVER, _FRAMES), engine, imitate)
    elif "wedge" in imitate:
        await asyncio.get_running_loop().create_future()
    else:
        cause = f"No other server takes part in {part.kind}."
        log("ERROR", "simulator", f"A real engine never answers this request: {cause}")
        log("ERROR", "simulator", "Imitate it with: --sim-imitate wedge")
        raise InternalError(cause)


def _check_metadata(encoded: str) -> None:
    """Look at where the KV cache goes, as far as a real engine looks at it before it begins."""
    try:
        # Characters that do not belong to base64 are skipped, as the real decoder skips them.
        places = json.loads(base64.b64decode(encoded + "=="))
    except (binascii.Error, UnicodeDecodeError):
        raise _invalid(
            "kv_append_metadata parse error: Expecting value: line 1 column 1 (char 0)"
        ) from None
    except json.JSONDecodeError as error:
        raise _invalid(f"kv_append_metadata parse error: {error}") from None
    if not isinstance(places, list):
        raise _invalid("kv_append_metadata is not array of integer.")
    at = 0
    while at < len(places):
        if not isinstance(places[at], int):
            raise _invalid("Invalid kv append metadata value in kv_append_metadata array")
        end = at + max(0, places[at]) * 2 + 1
        if end > len(places):
            raise _invalid("Invalid kv append metadata compression in kv_append_metadata")
        if not all(isinstance(place, int) for place in places[at:end]):
            raise _invalid("Invalid kv append metadata value in kv_append_metadata array")
        at = end


def _invalid(message: str) -> InternalError:
    return InternalError(f"Check failed: (gen_config.IsOk()) is false: {message}")
