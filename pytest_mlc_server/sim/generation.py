"""How a reply is generated: the settings of one request, completed with the model's."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.sim.errors import InternalError
from pytest_mlc_server.sim.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    DebugConfig,
    RequestResponseFormat,
)

if TYPE_CHECKING:
    from pytest_mlc_server.sim.model import ServedModel
    from pytest_mlc_server.sim.protocol import AnyRequest

UNLIMITED = -1

_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1

# A limit of the simulator's own: no mistyped number takes the memory of the machine, as it does
# with the real server.
_MAX_CHOICES = 2**16


@dataclass(frozen=True)
class GenerationConfig:
    """The settings of one generation.

    `stops` are the strings that the request names; the template's own are apart, because an
    engine that echoes the prompt would end at the first one. `seeded` tells whether the request
    names the seed.
    """

    n: int
    temperature: float
    top_p: float
    frequency_penalty: float
    presence_penalty: float
    logprobs: bool
    top_logprobs: int
    max_tokens: int
    seed: int
    seeded: bool
    logit_bias: dict[int, float]
    stops: list[str]
    template_stops: list[str]
    stop_token_ids: list[int]
    response_format: RequestResponseFormat
    debug_config: DebugConfig

    def as_json(self) -> dict[str, Any]:
        """Return the settings as the real engine writes them down."""
        debug: dict[str, Any] = {
            "ignore_eos": self.debug_config.ignore_eos,
            "pinned_system_prompt": self.debug_config.pinned_system_prompt,
        }
        if self.debug_config.special_request is not None:
            debug["special_request"] = self.debug_config.special_request
        debug["grammar_execution_mode"] = self.debug_config.grammar_execution_mode
        return {
            "n": self.n,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "repetition_penalty": 1.0,
            "logprobs": self.logprobs,
            "top_logprobs": self.top_logprobs,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "logit_bias": {str(token_id): bias for token_id, bias in self.logit_bias.items()},
            "stop_strs": self.stops + self.template_stops,
            "stop_token_ids": self.stop_token_ids,
            "response_format": {
                "type": self.response_format.type,
                "schema": self.response_format.json_schema,
            },
            "debug_config": debug,
        }


def generation_config(request: AnyRequest, model: ServedModel) -> GenerationConfig:
    """Complete the settings of `request` with the model's defaults.

    Raises
    ------
    InternalError
        A value that passes the protocol and not the engine.
    """
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    logprobs, top_logprobs = _logprobs(request)
    config = GenerationConfig(
        n=request.n,
        temperature=_first(request.temperature, model.defaults.get("temperature"), 1.0),
        top_p=_first(request.top_p, model.defaults.get("top_p"), 1.0),
        frequency_penalty=_first(
            request.frequency_penalty, model.defaults.get("frequency_penalty"), 0.0
        ),
        presence_penalty=_first(
            request.presence_penalty, model.defaults.get("presence_penalty"), 0.0
        ),
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        max_tokens=_max_tokens(request.max_tokens),
        seed=_random_seed() if request.seed is None else request.seed,
        seeded=request.seed is not None,
        logit_bias=request.logit_bias or {},
        stops=stops,
        template_stops=model.conversation.stop_str,
        stop_token_ids=model.conversation.stop_token_ids,
        response_format=request.response_format or RequestResponseFormat(),
        debug_config=request.debug_config or DebugConfig(),
    )
    _check(config)
    return config


def check_choices(request: AnyRequest) -> None:
    """Refuse a number of choices for which there is no memory.

    Raises
    ------
    MemoryError
        There are too many of them.
    """
    if request.n > _MAX_CHOICES:
        raise MemoryError(f'"n" is {request.n}')


def metrics_query(model: ServedModel) -> GenerationConfig:
    """Return the settings of the request by which the real server asks its engine for metrics."""
    debug_config = DebugConfig(special_request="query_engine_metrics")
    return generation_config(CompletionRequest(prompt="", debug_config=debug_config), model)


def _check(config: GenerationConfig) -> None:
    for name in ("n", "seed"):
        _check_int64(name, getattr(config, name))
    problems = {
        '"n" should be at least 1': config.n < 1,
        '"temperature" should be non-negative': config.temperature < 0,
        '"top_p" should be in range [0, 1]': config.top_p < 0 or config.top_p > 1,
    }
    for problem, found in problems.items():
        if found:
            raise InternalError(f"Check failed: (gen_config.IsOk()) is false: {problem}")
    if any(abs(token_id) > _INT32_MAX for token_id in config.logit_bias):
        raise InternalError("stoi")


def _check_int64(name: str, value: int) -> None:
    if not -_INT64_MAX - 1 <= value <= _INT64_MAX:
        # It reaches the engine as JSON, where such a number is none.
        raise ValueError(
            f"Check failed: (opt.has_value()) is false: key `{name}` has unexpected type"
        )


def _max_tokens(value: int | None) -> int:
    """Return the limit as a real engine keeps it: in 32 bits, of which it loses the rest."""
    if value is None:
        return UNLIMITED
    _check_int64("max_tokens", value)
    return (value + _INT32_MAX + 1) % 2**32 - _INT32_MAX - 1


def _logprobs(request: AnyRequest) -> tuple[bool, int]:
    if isinstance(request, ChatCompletionRequest):
        return request.logprobs, request.top_logprobs
    return request.logprobs is not None, request.logprobs or 0


def _first(*values: float | None) -> float:
    return next(float(value) for value in values if value is not None)


def _random_seed() -> int:
    return random.randrange(-(2**31), 2**31)  # noqa: S311 (it seeds a reply, not a cipher)
