"""What ``/metrics`` counts, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Number
from typing import Any

_HEADER = """\
# NOTE: these metrics count token in the unit of serving model's tokenization
# be careful when comparing them to client-side metrics that may use
# different tokenization to standardize across models.
"""

# The real engine has a slot for each size up to this one.
_LARGEST_BATCH_TRACKED = 64


@dataclass(frozen=True)
class RequestMetrics:
    """What one finished request cost.

    Attributes
    ----------
    prompt_tokens, completion_tokens, decode_tokens : int
        Of all choices together; the first token of each choice comes from the prefill.
    ttft_s, end_to_end_latency_s : float
        Seconds from the start to the first token and to the last one.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    decode_tokens: int = 0
    ttft_s: float = 0.0
    end_to_end_latency_s: float = 0.0

    @property
    def decode_time_s(self) -> float:
        """Seconds from the first token to the last one."""
        return self.end_to_end_latency_s - self.ttft_s

    def as_json(self) -> dict[str, Any]:
        """Return the numbers under the names of the real engine."""
        result: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "prefill_tokens": self.prompt_tokens,
            "decode_tokens": self.decode_tokens,
            "jump_forward_tokens": 0,
        }
        result.update(
            _rates(self.prompt_tokens, self.ttft_s, self.decode_tokens, self.decode_time_s)
        )
        result["end_to_end_latency_s"] = self.end_to_end_latency_s
        result["ttft_s"] = self.ttft_s
        result["inter_token_latency_s"] = self.end_to_end_latency_s / max(1, self.completion_tokens)
        return result


@dataclass
class _TimeCost:
    """What steps of one kind took. The first one warms up, and is not counted."""

    total_s: float = 0.0
    count: int = 0
    warm: bool = False

    def add(self, seconds: float, steps: int) -> None:
        counted = steps if self.warm else steps - 1
        self.warm = True
        self.total_s += seconds * counted / steps
        self.count += counted


@dataclass
class EngineMetrics:
    """What all finished requests cost: sums, and one entry for each batch size seen."""

    prefill_time_s: float = 0.0
    decode_time_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    decode_tokens: int = 0
    last: RequestMetrics = field(default_factory=RequestMetrics)
    _decode_times: dict[int, _TimeCost] = field(default_factory=dict)

    def add(self, request: RequestMetrics, decode_steps: int, batch_size: int = 1) -> None:
        """Count a finished request.

        Parameters
        ----------
        request : RequestMetrics
            What it cost.
        decode_steps : int
            How many steps its decoding took.
        batch_size : int
            How many sequences were decoded in each of them: its choices.
        """
        self.prefill_time_s += request.ttft_s
        self.decode_time_s += request.decode_time_s
        self.prompt_tokens += request.prompt_tokens
        self.completion_tokens += request.completion_tokens
        self.decode_tokens += request.decode_tokens
        self.last = request
        if decode_steps > 0 and batch_size <= _LARGEST_BATCH_TRACKED:
            times = self._decode_times.setdefault(batch_size, _TimeCost())
            times.add(request.decode_time_s, decode_steps)

    def as_json(self) -> dict[str, Any]:
        """Return the numbers under the names of the real engine."""
        return {
            "engine_prefill_time_sum": self.prefill_time_s,
            "engine_decode_time_sum": self.decode_time_s,
            "engine_jump_forward_time_sum": 0.0,
            "prompt_tokens_sum": self.prompt_tokens,
            "completion_tokens_sum": self.completion_tokens,
            "prefill_tokens_sum": self.prompt_tokens,
            "decode_tokens_sum": self.decode_tokens,
            "jump_forward_tokens_sum": 0,
            **_rates(
                self.prompt_tokens, self.prefill_time_s, self.decode_tokens, self.decode_time_s
            ),
            "last_finished_request": self.last.as_json(),
            "decode_time_by_batch_size": self._by_batch_size(),
            "draft_time_by_batch_size": {},
            "verify_time_by_batch_size": {},
        }

    def _by_batch_size(self) -> dict[str, Any]:
        numbers: dict[str, Any] = {}
        for size, times in sorted(self._decode_times.items()):
            if times.count:
                numbers[f"mean{{batch_size={size}}}"] = times.total_s / times.count
                numbers[f"count{{batch_size={size}}}"] = times.count
        return numbers


def prometheus_text(metrics: dict[str, Any]) -> str:
    """Write `metrics` as ``/metrics`` shows them.

    The numbers of a level come first, then each level below it under a heading of its own. Name
    and value are separated by a tab, labels have no quotes: so the real server writes it.
    """
    lines = [_HEADER]
    _write_level(lines, metrics, heading="", prefix="")
    return "\n".join(lines)


def _write_level(lines: list[str], level: dict[str, Any], heading: str, prefix: str) -> None:
    if heading:
        lines.append(f"\n# {heading}")
    lines.extend(
        f"{prefix}{name}\t{value}" for name, value in level.items() if isinstance(value, Number)
    )
    for name, value in level.items():
        if isinstance(value, dict) and value:
            _write_level(lines, value, f"{heading}/{name}", f"{prefix}{name}_")


def _rates(prefilled: int, prefill_s: float, decoded: int, decode_s: float) -> dict[str, float]:
    """Return tokens per second, left out as long as there is nothing to divide by."""
    rates = {}
    if prefilled and prefill_s > 0:
        rates["prefill_tokens_per_s"] = prefilled / prefill_s
    if decoded and decode_s > 0:
        rates["decode_tokens_per_s"] = decoded / decode_s
    return rates
