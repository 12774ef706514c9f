"""What a test cost at a server: differences of what the server counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.access_log import own_lines

if TYPE_CHECKING:
    from pytest_mlc_server.metrics import Metrics

__all__ = ["Counters", "Tally", "Usage", "describe", "own_lines", "total"]

RESET = "the engine's state was reset during the test, and with it its counters: at least so many"
RESTARTED = "the server was started again during the test, with new counters: at least so many"

_NO_REQUEST = "no request has finished"


@dataclass(frozen=True)
class Counters:
    """What ``/metrics`` counts since the server's start or its engine's last reset.

    The engine adds a request's tokens when the request has finished, and the time of each step as
    it is done. Requests that are broken off cost time and count no tokens.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    decode_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    last_prompt_tokens: int = 0
    last_completion_tokens: int = 0
    last_ttft_s: float | None = None

    @classmethod
    def of(cls, metrics: Metrics) -> Counters | None:
        """Return the counters among metrics; None for an engine that counts no tokens."""
        prompt, completion = metrics.prompt_tokens, metrics.completion_tokens
        if prompt is None or completion is None:
            return None
        return cls(
            prompt,
            completion,
            metrics.decode_tokens or 0,
            metrics.prefill_s or 0.0,
            metrics.decode_s or 0.0,
            metrics.last_prompt_tokens or 0,
            metrics.last_completion_tokens or 0,
            metrics.last_ttft_s,
        )

    def fell_since(self, before: Counters) -> bool:
        """Tell whether a number that only grows is smaller than it was."""
        return (
            self.prompt_tokens < before.prompt_tokens
            or self.completion_tokens < before.completion_tokens
            or self.prefill_s < before.prefill_s
            or self.decode_s < before.decode_s
        )


@dataclass(frozen=True)
class Usage:
    """What a test cost at one server, or at all that it used.

    What is None is not known, or there is none; `unknown` has the reasons.
    """

    server: str = ""
    """`base_url` of the server; empty for all servers together."""
    requests: int | None = None
    """Requests that the server answered, and those of our clients that got no answer."""
    errors: int | None = None
    """Those answered with a status of 400 or more, or not at all."""
    prompt_tokens: int | None = None
    """Tokens of the prompts of the requests that have finished."""
    completion_tokens: int | None = None
    """Tokens that they were answered with."""
    prefill_s: float | None = None
    """Seconds that the engine spent on prompts."""
    decode_s: float | None = None
    """Seconds that the engine spent on the tokens after the first ones."""
    ttft_s: float | None = None
    """Time to first token, in seconds, of the request that took longest, as far as is known."""
    tokens_per_s: float | None = None
    """Tokens per second of decoding, of all requests together."""
    seconds: float | None = None
    """Duration of the test so far."""
    shared: str = ""
    """Why others may have part in these numbers; empty where they are the test's alone."""
    note: str = ""
    """Why numbers are lower bounds; empty where they are exact."""
    ttft_at_least: bool = False
    """Whether a request of which nothing is known may have waited longer than `ttft_s`."""
    unknown: dict[str, str] = field(default_factory=dict, compare=False)
    """Why a number is None, by its name."""

    @property
    def total_tokens(self) -> int | None:
        """Prompt and completion tokens together."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens

    def as_dict(self) -> dict[str, Any]:
        """Return what a report carries: numbers and texts by name, ready for JSON."""
        left_out = ("unknown", "seconds")
        names = [one.name for one in fields(self) if one.name not in left_out]
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        return describe(self)


class Tally:
    """Adds up what one server did for one test, from one look at it to the next."""

    def __init__(self) -> None:
        self.requests = self.errors = 0
        self.counted = True
        """Whether requests are counted at all."""
        self.known = False
        """Whether tokens are."""
        self.prompt_tokens = self.completion_tokens = self.decode_tokens = 0
        self.prefill_s = self.decode_s = 0.0
        self.ttft_s: float | None = None
        self.ttft_at_least = False
        self.notes: list[str] = []

    def add(self, before: Counters, after: Counters, *, reset: bool) -> None:
        """Add what happened between two looks.

        Parameters
        ----------
        before, after
            What the server had counted.
        reset
            Whether the engine's state is known to have been reset in between.
        """
        self.known = True
        if reset or after.fell_since(before):
            self.note(RESET)
            before = Counters()
        prompt = after.prompt_tokens - before.prompt_tokens
        completion = after.completion_tokens - before.completion_tokens
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.decode_tokens += after.decode_tokens - before.decode_tokens
        self.prefill_s += after.prefill_s - before.prefill_s
        self.decode_s += after.decode_s - before.decode_s
        if (prompt or completion) and after.last_ttft_s is not None:
            self.ttft_s = max(self.ttft_s or 0.0, after.last_ttft_s)
            # The server remembers its last request alone: was that one all there was?
            alone = (prompt, completion) == (after.last_prompt_tokens, after.last_completion_tokens)
            self.ttft_at_least |= not alone

    def note(self, text: str) -> None:
        """Say why numbers are lower bounds."""
        if text not in self.notes:
            self.notes.append(text)

    def usage(self, server: str, shared: str, why: str, seconds: float | None = None) -> Usage:
        """Return the sums.

        Parameters
        ----------
        server
            `base_url` of the server.
        shared
            Why others may have part in them.
        why
            Why tokens are not known, where they are not.
        seconds
            Duration of the test so far.
        """
        unknown = {} if self.counted else dict.fromkeys(("requests", "errors"), "there is no log")
        if self.known:
            ttft, decoding = _NO_REQUEST, "nothing was decoded"
        else:
            ttft = decoding = why
            names = ("prompt_tokens", "completion_tokens", "total_tokens", "prefill_s", "decode_s")
            unknown |= dict.fromkeys(names, why)
        rate = self.decode_tokens / self.decode_s if self.decode_tokens and self.decode_s else None
        if self.ttft_s is None:
            unknown["ttft_s"] = ttft
        if rate is None:
            unknown["tokens_per_s"] = decoding
        return Usage(
            server,
            self.requests if self.counted else None,
            self.errors if self.counted else None,
            self.prompt_tokens if self.known else None,
            self.completion_tokens if self.known else None,
            self.prefill_s if self.known else None,
            self.decode_s if self.known else None,
            self.ttft_s,
            rate,
            seconds,
            shared,
            "; ".join(self.notes),
            self.ttft_at_least,
            unknown,
        )


def total(parts: Sequence[Usage], seconds: float | None = None) -> Usage:
    """Return what a test cost at all its servers together.

    Parameters
    ----------
    parts
        The cost at each server. None of them: nothing was used, and all counts are 0.
    seconds
        Duration of the test so far.
    """
    if not parts:
        nothing = Tally()
        nothing.known = True
        return nothing.usage("", "", "", seconds)
    if len(parts) == 1:
        return replace(parts[0], server="", seconds=seconds)
    unknown: dict[str, str] = {}
    notes = [f"{one.server}: {one.note}" for one in parts if one.note]

    def sum_of(name: str) -> Any:
        values = [getattr(one, name) for one in parts]
        known = [value for value in values if value is not None]
        if not known:
            unknown[name] = "; ".join(_distinct(one.unknown.get(name, "") for one in parts))
            return None
        if len(known) < len(values):
            notes.extend(
                f"{one.server}: {name} not known: {one.unknown.get(name, '')}"
                for one in parts
                if getattr(one, name) is None
            )
        return sum(known)

    waits = [one.ttft_s for one in parts if one.ttft_s is not None]
    decoded = [(one.tokens_per_s, one.decode_s) for one in parts]
    steps = [(rate * time, time) for rate, time in decoded if rate and time]
    if not waits:
        unknown["ttft_s"] = "; ".join(_distinct(one.unknown.get("ttft_s", "") for one in parts))
    if not steps:
        unknown["tokens_per_s"] = "nothing was decoded"
    return Usage(
        requests=sum_of("requests"),
        errors=sum_of("errors"),
        prompt_tokens=sum_of("prompt_tokens"),
        completion_tokens=sum_of("completion_tokens"),
        prefill_s=sum_of("prefill_s"),
        decode_s=sum_of("decode_s"),
        ttft_s=max(waits, default=None),
        tokens_per_s=sum(n for n, _ in steps) / sum(time for _, time in steps) if steps else None,
        seconds=seconds,
        shared="; ".join(_distinct(one.shared for one in parts)),
        note="; ".join(_distinct(notes)),
        ttft_at_least=any(one.ttft_at_least for one in parts),
        unknown=unknown,
    )


def _distinct(texts: Iterable[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]


def describe(usage: Usage) -> str:
    """Return one line for people: only what is known."""
    words = [_number(usage.requests, "request")]
    if usage.prompt_tokens is not None:
        words.append(f"{usage.prompt_tokens} prompt + {usage.completion_tokens} completion tokens")
    if usage.ttft_s is not None:
        least = "at least " if usage.ttft_at_least else ""
        words.append(f"first token after {least}{duration(usage.ttft_s)}")
    if usage.tokens_per_s is not None:
        words.append(f"{usage.tokens_per_s:.1f} tokens/s")
    if usage.errors:
        words.append(_number(usage.errors, "error"))
    if usage.prompt_tokens is None:
        words.append(f"tokens not known: {usage.unknown.get('prompt_tokens', '')}")
    if usage.shared:
        words.append(f"shared: {usage.shared}")
    if usage.note:
        words.append(usage.note)
    return ", ".join(word for word in words if word)


def duration(seconds: float) -> str:
    """Return a duration for people: ``0.3 ms``, ``1.25 s``."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _number(count: int | None, what: str) -> str:
    return "" if count is None else f"{count} {what}{'' if count == 1 else 's'}"
