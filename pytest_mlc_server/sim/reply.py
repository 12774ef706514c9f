"""A reply as it will be: its tokens, and what each step of the engine says of them."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from pytest_mlc_server.sim.engine import Delta
from pytest_mlc_server.sim.json_reply import json_reply
from pytest_mlc_server.sim.logprobs import LogprobWriter
from pytest_mlc_server.sim.sources import Chunks, Echo, Random, Text
from pytest_mlc_server.sim.streaming import StopStringFilter, TextStreamer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_mlc_server.sim.generation import GenerationConfig
    from pytest_mlc_server.sim.model import ServedModel
    from pytest_mlc_server.sim.sources import Source
    from pytest_mlc_server.sim.tokenizer import Tokenizer

# What a reply of random words is cut to where the request does not say how long it may be.
_RANDOM_TOKENS = 64

# The longest text whose tokens are kept, so that what is kept takes a few MiB at most.
_KEPT_LENGTH = 4096


@dataclass(frozen=True)
class Reply:
    """The tokens of one choice.

    Attributes
    ----------
    token_ids : Sequence of int
        All that is generated, unless a stop string ends it earlier.
    pieces : list of str or None
        What each token says; None where it takes a decoder to tell.
    finish_reason : str
        Why it ends: "stop" is the model's own end, for which it generates one more token.
    stops : list of str
        What ends it earlier.
    sizes : Sequence of int or None
        How many tokens each step generates; None for one at a time.
    """

    token_ids: Sequence[int]
    pieces: list[str] | None
    finish_reason: str
    stops: list[str]
    sizes: Sequence[int] | None = None


def make_reply(
    prompt: Sequence[int], config: GenerationConfig, source: Source, model: ServedModel, choice: int
) -> Reply:
    """Work out what is said to `prompt`.

    Parameters
    ----------
    prompt : Sequence of int
        The prompt's token ids.
    config : GenerationConfig
        The settings of the request.
    source : Source
        Where the text comes from.
    model : ServedModel
        Its tokenizer and context window are used.
    choice : int
        Which choice it is: random text is another one for each.
    """
    limit = max(1, model.limits.max_single_sequence_length - len(prompt))
    if config.max_tokens >= 0:
        # Even for none, a real engine has generated the first token before it counts.
        limit = min(limit, max(1, config.max_tokens))
    reply = _whole_reply(prompt, config, source, model, choice, limit)
    ignore_eos = config.debug_config.ignore_eos
    if ignore_eos and reply.finish_reason == "stop":
        reply = _repeated(reply, limit)
    if len(reply.token_ids) >= limit:
        pieces = None if reply.pieces is None else reply.pieces[:limit]
        reply = replace(
            reply, token_ids=reply.token_ids[:limit], pieces=pieces, finish_reason="length"
        )
    return replace(reply, stops=[]) if ignore_eos else reply


def reply_pieces(source: Source, model: ServedModel) -> tuple[list[int], list[str]]:
    """Return the tokens of a given text, and what each of them says."""
    if isinstance(source, Chunks):
        parts = [model.tokenizer.split(chunk)[0] for chunk in source.chunks]
        return [token_id for part in parts for token_id in part], list(source.chunks)
    if isinstance(source, Text):
        return model.tokenizer.split(source.text)
    seed = source.seed if isinstance(source, Random) else 0
    tokens = source.tokens if isinstance(source, Random) else None
    token_ids = random_tokens(model.tokenizer, str(seed), tokens or _RANDOM_TOKENS)
    return token_ids, [model.tokenizer.piece(token_id) or "" for token_id in token_ids]


def deltas(reply: Reply, config: GenerationConfig, tokenizer: Tokenizer) -> Iterator[Delta]:
    """Return what each step of the engine says of `reply`."""
    if not (config.logprobs or reply.sizes or _may_stop(reply)) and reply.pieces:
        return _plain_deltas(reply, reply.pieces)
    return _deltas(reply, config, tokenizer)


def random_tokens(tokenizer: Tokenizer, seed: str, count: int) -> list[int]:
    """Return `count` tokens that are words or parts of them, the same ones for the same `seed`."""
    return random.Random(seed).choices(tokenizer.plain_tokens, k=count)  # noqa: S311 (no cipher)


def _whole_reply(
    prompt: Sequence[int],
    config: GenerationConfig,
    source: Source,
    model: ServedModel,
    choice: int,
    limit: int,
) -> Reply:
    tokenizer = model.tokenizer
    stops = config.stops + config.template_stops
    if config.response_format.type == "json_object" and isinstance(source, Echo | Random):
        seed = source.seed if isinstance(source, Random) else None
        source = Text(json_reply(config.response_format.json_schema, seed))
    if isinstance(source, Text):
        return Reply(*_tokens_of(source.text, tokenizer), "stop", stops)
    if isinstance(source, Chunks):
        parts = [tokenizer.split(chunk) for chunk in source.chunks]
        token_ids = [token_id for ids, _ in parts for token_id in ids]
        pieces = [piece for _, texts in parts for piece in texts]
        return Reply(token_ids, pieces, "stop", stops, [len(ids) for ids, _ in parts])
    if isinstance(source, Random):
        own = config.seed if config.seeded else None
        digest = zlib.crc32(repr(list(prompt)).encode())
        seed_text = f"{source.seed} {own} {digest} {choice}"
        count = source.tokens or (limit if config.max_tokens >= 0 else min(limit, _RANDOM_TOKENS))
        token_ids = random_tokens(tokenizer, seed_text, min(count, limit))
        return Reply(token_ids, _known_pieces(token_ids, tokenizer), "stop", stops)
    # An echo would end at the first mark of the template, were it taken for a stop string.
    prompt = prompt[:limit]
    return Reply(prompt, _known_pieces(prompt, tokenizer), "stop", config.stops)


def _tokens_of(text: str, tokenizer: Tokenizer) -> tuple[list[int], list[str]]:
    """Split a given text; a rule gives the same one again and again."""
    if len(text) > _KEPT_LENGTH:
        return tokenizer.split(text)
    return _kept_tokens_of(text, tokenizer)


@lru_cache(maxsize=32)
def _kept_tokens_of(text: str, tokenizer: Tokenizer) -> tuple[list[int], list[str]]:
    return tokenizer.split(text)


def _known_pieces(token_ids: Sequence[int], tokenizer: Tokenizer) -> list[str] | None:
    """Return what each token says, None where one of them is no text on its own."""
    pieces = [tokenizer.piece(token_id) for token_id in token_ids]
    known = [piece for piece in pieces if piece is not None]
    return known if len(known) == len(pieces) else None


def _repeated(reply: Reply, limit: int) -> Reply:
    """Say `reply` again and again: a model that must not end goes on."""
    if not reply.token_ids:
        return reply
    times = -(-limit // len(reply.token_ids))
    return replace(
        reply,
        token_ids=list(reply.token_ids) * times,
        pieces=None if reply.pieces is None else reply.pieces * times,
        sizes=None if reply.sizes is None else list(reply.sizes) * times,
    )


def _may_stop(reply: Reply) -> bool:
    """Tell whether a stop string, or what may become one, is in the text."""
    if not reply.stops:
        return False
    if reply.pieces is None:
        return True
    text = "".join(reply.pieces)
    return any(stop[:1] in text for stop in reply.stops)


def _plain_deltas(reply: Reply, pieces: list[str]) -> Iterator[Delta]:
    """Say a text in which nothing is held back."""
    if reply.finish_reason == "stop":
        for piece in pieces:
            yield Delta(piece)
        yield Delta("", "stop")
        return
    for piece in pieces[:-1]:
        yield Delta(piece)
    yield Delta(pieces[-1], reply.finish_reason)


def _deltas(reply: Reply, config: GenerationConfig, tokenizer: Tokenizer) -> Iterator[Delta]:
    text = _TextOfTokens(reply, tokenizer)
    writer = LogprobWriter(tokenizer, config) if config.logprobs else None
    stop = StopStringFilter(reply.stops)
    start = 0
    for size in _step_sizes(reply):
        said: list[int] = []
        entries = writer.entries(reply.token_ids[start : start + size], start) if writer else None
        for index in range(start, start + size):
            said += stop.put(index, text.content(index))
            if stop.triggered:
                committed = index + 1 - start
                if entries is not None:
                    del entries[committed:]
                yield Delta(text.put(said) + text.finish(), "stop", entries, committed)
                return
        start += size
        if start == len(reply.token_ids) and reply.finish_reason != "stop":
            said += stop.finish()
            yield Delta(text.put(said) + text.finish(), reply.finish_reason, entries, size)
            return
        yield Delta(text.put(said), None, entries, size)
    entries = writer.entries(config.stop_token_ids[:1], start) if writer else None
    yield Delta(text.put(stop.finish()) + text.finish(), "stop", entries)


def _step_sizes(reply: Reply) -> Sequence[int]:
    if reply.sizes is None:
        return [1] * len(reply.token_ids)
    sizes = []
    left = len(reply.token_ids)
    for size in reply.sizes:
        if left <= 0:
            break
        sizes.append(min(size, left))
        left -= size
    return sizes


class _TextOfTokens:
    """The text of the tokens of a reply, which are named by their places in it."""

    def __init__(self, reply: Reply, tokenizer: Tokenizer) -> None:
        self._token_ids = reply.token_ids
        self._pieces = reply.pieces
        self._tokenizer = tokenizer
        self._streamer = TextStreamer(tokenizer)

    def content(self, index: int) -> bytes:
        """Return what a token stands for."""
        if self._pieces is not None:
            return self._pieces[index].encode("utf-8", errors="replace")
        return self._tokenizer.token_bytes(self._token_ids[index])

    def put(self, indices: Sequence[int]) -> str:
        """Return the text that the tokens complete."""
        if self._pieces is not None:
            return "".join([self._pieces[index] for index in indices])
        return self._streamer.put([self._token_ids[index] for index in indices])

    def finish(self) -> str:
        """Return the text of the tokens that are still held back."""
        return "" if self._pieces is not None else self._streamer.finish()
