"""What a server answers to ``GET /metrics``: numbers by name.

The real server writes a tab between name and value and, after its first decode, labels without
quotes: no parser of Prometheus' text format takes that. Its mock engine answers with the settings
of the question itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

#: One sample: name, labels with or without quotes, value; then perhaps a time and an exemplar.
_SAMPLE = re.compile(
    r"""
    ^[ \t]* ([a-z_:][a-z0-9_:]*)
    (?: [ \t]* ( \{ (?: [^"}\n] | " (?: \\[^\n] | [^"\\\n] )* " )* \} ) [ \t]* | [ \t]+ )
    ( [-+]? (?: [0-9.]+ (?: e [-+]? [0-9]+ )? | inf(?:inity)? | nan ) )
    (?: [ \t]+ -?[0-9.]+ )? [ \t]* (?: \#[^\n]* )? \r?$
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE | re.ASCII,
)


class Metrics(Mapping[str, float]):
    r"""The numbers of a server's ``/metrics``, by their names with labels, as they were sent.

    A property is None where the server did not send that number: the mock engine counts nothing,
    and the rates are there after the first prefill and decode alone.

    Parameters
    ----------
    values
        The numbers.

    Examples
    --------
    >>> metrics = parse('prompt_tokens_sum\t7\nseconds{batch_size=1}\t0.25\n')
    >>> metrics.prompt_tokens, metrics["seconds{batch_size=1}"], metrics.decode_s
    (7, 0.25, None)
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, float]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Metrics({self._values!r})"

    @property
    def prompt_tokens(self) -> int | None:
        """Tokens of all prompts so far."""
        return self._count("prompt_tokens_sum")

    @property
    def completion_tokens(self) -> int | None:
        """Tokens of all answers so far."""
        return self._count("completion_tokens_sum")

    @property
    def prefill_tokens(self) -> int | None:
        """Prompt tokens that were computed, rather than found in the prefix cache."""
        return self._count("prefill_tokens_sum")

    @property
    def decode_tokens(self) -> int | None:
        """Tokens of answers after the first of each answer."""
        return self._count("decode_tokens_sum")

    @property
    def prefill_s(self) -> float | None:
        """Seconds spent on prefill so far."""
        return self._finite("engine_prefill_time_sum")

    @property
    def decode_s(self) -> float | None:
        """Seconds spent on decoding so far."""
        return self._finite("engine_decode_time_sum")

    @property
    def prefill_tokens_per_s(self) -> float | None:
        """Tokens per second of prefill, over all requests so far."""
        return self._finite("prefill_tokens_per_s")

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Tokens per second of decoding, over all requests so far."""
        return self._finite("decode_tokens_per_s")

    @property
    def last_prompt_tokens(self) -> int | None:
        """Tokens of the prompt of the request that finished last."""
        return self._count("last_finished_request_prompt_tokens")

    @property
    def last_completion_tokens(self) -> int | None:
        """Tokens of the answer of the request that finished last."""
        return self._count("last_finished_request_completion_tokens")

    @property
    def last_ttft_s(self) -> float | None:
        """Seconds to the first token of the request that finished last."""
        return self._finite("last_finished_request_ttft_s")

    @property
    def last_latency_s(self) -> float | None:
        """Seconds that the request which finished last took in the engine."""
        return self._finite("last_finished_request_end_to_end_latency_s")

    def _finite(self, name: str) -> float | None:
        value = self._values.get(name)
        return value if value is not None and math.isfinite(value) else None

    def _count(self, name: str) -> int | None:
        value = self._finite(name)
        return None if value is None else int(value)


def parse(text: str) -> Metrics:
    """Read what a server answers to ``GET /metrics``.

    Parameters
    ----------
    text
        The body. Lines that are no number with a name are passed over: comments, texts, truth
        values, and whatever else a proxy or a broken server may send.

    Returns
    -------
    Metrics
        The numbers. Of a name that comes twice, the last.
    """
    values = {}
    for name, labels, value in _SAMPLE.findall(text):
        try:
            values[name + labels] = float(value)
        except ValueError:  # 1.2.3
            continue
    return Metrics(values)
