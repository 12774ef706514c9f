"""``/v1/embeddings``: vectors that follow from a text alone, and are near for texts alike."""

from __future__ import annotations

import base64
import json
import math
import random
import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.sim.model import load_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_mlc_server.sim.protocol import EmbeddingRequest
    from pytest_mlc_server.sim.tokenizer import Tokenizer

_DEFAULT_DIMENSIONS = 1024
_DEFAULT_PREFILL_CHUNK = 2048

# Below this a vector is left as it is: so the real server avoids dividing by nothing.
_SMALLEST_NORM = 1e-12

# Small beside the 1 of a word's part: it is to tell nothing, only to be there.
_NOISE = 0.01

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class EmbeddingModel:
    """A model that makes vectors of texts.

    Attributes
    ----------
    name : str
        The id in ``/v1/models``: what ``--embedding-model`` says.
    tokenizer : Tokenizer
        Of the model directory, or the built-in one.
    dimensions : int
        The length of a vector: the model's ``hidden_size``.
    longest : int
        How many tokens of a text are read; the rest is ignored.
    first_token, last_token : int or None
        What is put before and behind a text that has it not yet.
    """

    name: str
    tokenizer: Tokenizer
    dimensions: int = _DEFAULT_DIMENSIONS
    longest: int = _DEFAULT_PREFILL_CHUNK
    first_token: int | None = None
    last_token: int | None = None

    def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Return a unit vector for each of `texts` that has a token, and the number of tokens.

        A text without tokens is left out, as the real engine leaves it out.
        """
        counts = [self._tokens(text) for text in texts]
        vectors = [
            _unit(_direction(text, self.dimensions))
            for text, count in zip(texts, counts, strict=True)
            if count
        ]
        return vectors, sum(counts)

    def texts(self, request: EmbeddingRequest) -> list[str]:
        """Return the texts of `request`, which may give them as tokens."""
        given: Any = request.input
        if isinstance(given, str):
            return [given]
        if isinstance(given[0], str):
            return list(given)
        if isinstance(given[0], int):
            return [self.tokenizer.decode(given)]
        return [self.tokenizer.decode(token_ids) for token_ids in given]

    def _tokens(self, text: str) -> int:
        token_ids = self.tokenizer.encode(text)
        count = len(token_ids)
        count += self.first_token is not None and token_ids[:1] != [self.first_token]
        count += self.last_token is not None and token_ids[-1:] != [self.last_token]
        return min(count, self.longest)


def load_embedding_model(name: str) -> EmbeddingModel:
    """Read the model directory `name`, or take the built-in tokenizer where there is none.

    Parameters
    ----------
    name : str
        What ``--embedding-model`` says.

    Raises
    ------
    ValueError
        The directory's files cannot be used.
    """
    from pathlib import Path

    directory = Path(name)
    tokenizer = load_model(name).tokenizer
    config = _read(directory / "mlc-chat-config.json")
    shape = config.get("model_config", {})
    first, last = _encoder_tokens(_read(directory / "tokenizer_config.json"), tokenizer)
    if first is None and last is None:
        end = config.get("eos_token_id")
        last = end[0] if isinstance(end, list) else end
    return EmbeddingModel(
        name=name,
        tokenizer=tokenizer,
        dimensions=shape.get("hidden_size", _DEFAULT_DIMENSIONS),
        longest=config.get("prefill_chunk_size", _DEFAULT_PREFILL_CHUNK),
        first_token=first,
        last_token=last,
    )


def embedding_body(
    request: EmbeddingRequest, vectors: list[list[float]], tokens: int
) -> dict[str, Any]:
    """Return the body of the response that gives `vectors` in the form that `request` asks for."""
    data: list[dict[str, Any]] = []
    for index, vector in enumerate(vectors):
        shown: list[float] | str = vector
        if request.dimensions is not None:
            shown = vector = _unit(vector[: request.dimensions])
        if request.encoding_format == "base64":
            packed = struct.pack(f"<{len(vector)}f", *vector)
            shown = base64.b64encode(packed).decode("ascii")
        data.append({"object": "embedding", "embedding": shown, "index": index})
    return {
        "object": "list",
        "data": data,
        "model": request.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _direction(text: str, dimensions: int) -> list[float]:
    """Hash the parts of `text` into a vector: what two texts share, their vectors share."""
    text = text.lower()
    # No place is empty in a real vector: cut to a few dimensions, it would have no direction.
    draw = random.Random(zlib.crc32(text.encode("utf-8", "surrogatepass"))).random  # noqa: S311
    vector = [_NOISE * (draw() - 0.5) for _ in range(dimensions)]
    for part in _parts(text):
        code = zlib.crc32(part.encode("utf-8", "surrogatepass"))
        # The lowest bit is the sign, so that parts that fall together cancel out and not add up.
        vector[(code >> 1) % dimensions] += 1.0 if code & 1 else -1.0
    return vector


def _parts(text: str) -> Iterator[str]:
    # Also the empty text has a part, because it has a vector.
    yield "text:"
    for word in _WORD.findall(text):
        # A word counts three times as much as a part of it: spelling alone is no likeness.
        yield from (f"word{place}:{word}" for place in range(3))
        marked = f"<{word}>"
        yield from (marked[start : start + 3] for start in range(len(marked) - 2))


def _unit(vector: list[float]) -> list[float]:
    """Return `vector` at length one, in the single precision that the real server computes in."""
    norm = math.sqrt(sum(value * value for value in vector))
    scaled = [value / norm for value in vector] if norm > _SMALLEST_NORM else vector
    return list(struct.unpack(f"{len(scaled)}f", struct.pack(f"{len(scaled)}f", *scaled)))


def _encoder_tokens(config: dict[str, Any], tokenizer: Tokenizer) -> tuple[int | None, int | None]:
    """Return the ids of the tokens that begin and end a text for an encoder, as BERT is one."""
    added = config.get("added_tokens_decoder", {})
    ids: list[int | None] = []
    for name in ("cls_token", "sep_token"):
        content = config.get(name)
        found = [int(key) for key, token in added.items() if token.get("content") == content]
        if content is not None and not found:
            found = encoded if len(encoded := tokenizer.encode(content)) == 1 else []
        ids.append(found[-1] if content is not None and found else None)
    return ids[0], ids[1]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    return content if isinstance(content, dict) else {}
