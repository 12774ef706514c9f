"""The requests that kill a real engine, and how a real engine dies of them.

A *wedge* is a dead engine in a living server: the thread that generates has ended with an error,
and whoever waits for a token waits for ever. A *crash* is the end of the process by a signal. Both
are imitated where that is asked for. Otherwise a killing request is answered with a status 500,
and the log says what was spared.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_mlc_server.sim.errors import InternalError
from pytest_mlc_server.sim.logs import log
from pytest_mlc_server.sim.schema_check import schema_death

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_mlc_server.sim.engine import Engine
    from pytest_mlc_server.sim.generation import GenerationConfig
    from pytest_mlc_server.sim.model import ServedModel

#: What can be imitated.
KINDS = frozenset({"wedge", "crash"})

#: What an engine dies of that is asked for the second half of a request without a first.
NO_RECEIVER = "Check failed: (it_rstate != estate_->request_states.end()) is false: "

_MAX_TOP_LOGPROBS_ON_CPU = 5

_TRACEBACK = """\
Exception in thread Thread-1:
Traceback (most recent call last):
  File "lib/python3.11/threading.py", line 1045, in _bootstrap_inner
    self.run()
  File "lib/python3.11/threading.py", line 982, in run
    self._target(*self._args, **self._kwargs)
  File "python/tvm_ffi/cython/function.pxi", line 988, in tvm_ffi.core.Function.__call__
"""

_LAST_WORDS = {
    signal.SIGSEGV: "!!!!!!! Segfault encountered !!!!!!!\n",
    signal.SIGABRT: "free(): invalid next size (fast)\n",
}


@dataclass(frozen=True)
class Death:
    """How a request kills a real engine.

    Attributes
    ----------
    cause : str
        What the engine says of it: the message of its error.
    frames : str
        The last lines of the traceback before the error.
    signal : signal.Signals or None
        What ends the process; None where it goes on with a dead engine.
    error : str
        The type of the error.
    """

    cause: str
    frames: str = ""
    signal: signal.Signals | None = None
    error: str = "tvm.error.InternalError"

    @property
    def kind(self) -> str:
        """What it takes to have it imitated."""
        return "wedge" if self.signal is None else "crash"


#: What a real engine dies of when a prompt leaves no room for a reply.
DECODE_DEATH = Death(
    "Check failed: num_rsentries > 0 (0 vs. 0) : There should be at least one request state"
    " entry that can run decode. Possible failure reason: none of the prefill phase of the"
    " running requests is finished",
    '  File "cpp/serve/engine_actions/batch_decode.cc", line 74, in virtual'
    " tvm::ffi::Array<mlc::llm::serve::Request>"
    " mlc::llm::serve::BatchDecodeActionObj::Step(mlc::llm::serve::EngineState)\n"
    "    TVM_FFI_ICHECK_GT(num_rsentries, 0)\n\n",
)


def find_death(
    prompt: Sequence[int], config: GenerationConfig, model: ServedModel, device: str = "cpu"
) -> Death | None:
    """Return how this request would kill a real engine, None if it would not.

    Parameters
    ----------
    prompt : Sequence of int
        The prompt's token ids.
    config : GenerationConfig
        The settings of the request.
    model : ServedModel
        Its vocabulary and limits count.
    device : str
        What it runs on: the probabilities are worked out in another way on a GPU.
    """
    if config.debug_config.special_request is not None:
        return None
    if any(token_id < 0 for token_id in config.logit_bias):
        return Death("a token id in logit_bias is negative", signal=signal.SIGABRT)
    if len(prompt) >= model.limits.max_single_sequence_length:
        return None
    if max(prompt, default=0) >= model.vocabulary_size:
        return Death("a token id is outside the vocabulary", signal=signal.SIGSEGV)
    return (
        _window_death(len(prompt), model)
        or schema_wedge(config)
        or _stop_death(config)
        or _logprobs_death(config, device)
    )


def suffer(death: Death, engine: Engine, imitate: frozenset[str]) -> None:
    """Die of a request as a real engine does, or, where that is not asked for, fail at it alone.

    Raises
    ------
    InternalError
        The death was spared.
    """
    if death.kind not in imitate:
        log("ERROR", "simulator", f"A real engine dies of this request ({_how(death)}):")
        log("ERROR", "simulator", death.cause.strip())
        log("ERROR", "simulator", f"Imitate it with: --sim-imitate {death.kind}")
        raise InternalError(death.cause)
    if death.signal is not None:
        crash(death.signal)
    wedge(engine, death.cause, frames=death.frames, error=death.error)


def wedge(
    engine: Engine,
    cause: str,
    *,
    frames: str = "",
    error: str = "tvm.error.InternalError",
) -> None:
    """Let the engine die and the server live: every generation hangs from now on.

    Parameters
    ----------
    engine : Engine
        What dies.
    cause : str
        What it says of it: the message of its error.
    frames : str
        The last lines of the traceback before the error.
    error : str
        The type of the error.
    """
    engine.wedge()
    sys.stderr.write(f"{_TRACEBACK}{frames}{error}: {cause}\n")
    sys.stderr.flush()


def crash(number: signal.Signals = signal.SIGSEGV) -> None:
    """End the process by a signal, with the last words that the real one has for it."""
    sys.stderr.write(_LAST_WORDS.get(number, ""))
    sys.stderr.flush()
    # A debugger or a fault handler of the test process must not take it for an accident.
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def profiler_death(name: str) -> Death:
    """Return what ``/debug/cuda_profiler_start`` or ``_stop`` does to an engine without CUDA."""
    line = {"start": 28, "stop": 37}[name]
    frames = (
        '  File "<unknown>", line 0, in TVMFFIPyCallback(void*, TVMFFIAny const*, int,'
        " TVMFFIAny*)\n"
        '  File "<unknown>", line 0, in TVMFFIPyCallManager::ForwardPyErrorToFFI()\n'
        '  File "<unknown>", line 0, in TVMFFICyErrorSetRaisedFromPyError(_object*)\n'
        f'  File "python/mlc_llm/base.py", line {line}, in _debug_cuda_profiler_{name}\n'
        "    import cuda\n\n"
    )
    return Death("No module named 'cuda'", frames, error="RuntimeError")


def schema_wedge(config: GenerationConfig) -> Death | None:
    """Return how a response format kills a real engine."""
    if config.response_format.type != "json_object":
        return None
    cause = schema_death(config.response_format.json_schema)
    return None if cause is None else Death(cause)


def _window_death(prompt_tokens: int, model: ServedModel) -> Death | None:
    return DECODE_DEATH if prompt_tokens > model.limits.max_cached_prompt_tokens else None


def _stop_death(config: GenerationConfig) -> Death | None:
    if config.debug_config.ignore_eos or all(config.stops):
        return None
    return Death(
        "Check failed: (!stop_str.empty()) is false: Stop string cannot be empty.",
        '  File "cpp/tokenizers/streamer.cc", line 185, in'
        " mlc::llm::StopStrHandlerObj::StopStrHandlerObj(tvm::ffi::Array<tvm::ffi::String>,"
        " const std::vector<std::__cxx11::basic_string<char> >&)\n"
        '    TVM_FFI_ICHECK(!stop_str.empty()) << "Stop string cannot be empty.";\n\n',
    )


def _logprobs_death(config: GenerationConfig, device: str) -> Death | None:
    count = config.top_logprobs
    if count <= _MAX_TOP_LOGPROBS_ON_CPU or not device.startswith("cpu"):
        return None
    return Death(
        f"Check failed: num_top_probs <= {_MAX_TOP_LOGPROBS_ON_CPU}"
        f" ({count} vs. {_MAX_TOP_LOGPROBS_ON_CPU}) : ",
        '  File "cpp/serve/sampler/cpu_sampler.cc", line 303, in'
        " std::vector<std::pair<int, float> >"
        " mlc::llm::serve::ComputeTopProbs(tvm::runtime::Tensor, int, int)\n"
        "    TVM_FFI_ICHECK_LE(num_top_probs, 5);\n  \n",
    )


def _how(death: Death) -> str:
    if death.signal is None:
        return "its server lives on, and answers no generation any more"
    return f"the process ends by {death.signal.name}"
