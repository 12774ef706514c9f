"""Text to token ids and back.

The simulator ships a byte-level BPE tokenizer with 512 tokens: every byte is a token, so any text
survives the round trip. A model directory that brings a ``tokenizer.json`` of its own is read with
the ``tokenizers`` package.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# A UTF-8 character has at most four bytes: three tokens may be waiting for the fourth.
_MAX_HELD_TOKENS = 3

# How many tokens of what was already emitted a decoder may look back at. Sentence-piece decoders
# treat the first token of a text differently, so that a token must not be decoded on its own.
_CONTEXT_TOKENS = 4


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, special tokens recognised, none added."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of `token_ids`, special tokens included, unknown ids left out."""


class ByteLevelBPE:
    """Byte-level byte-pair encoding without pre-tokenization, in pure Python.

    Merges are applied one after the other in the order of their rank, each over the whole text,
    which gives the same tokens as always merging the pair of the lowest rank (a merge can only
    make pairs of a higher rank) and runs at the speed of `str.replace`.

    Parameters
    ----------
    description : dict
        The content of a ``tokenizer.json`` of this kind.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        model = description["model"]
        byte_of = _byte_alphabet()
        self._special: dict[str, int] = {
            token["content"]: token["id"] for token in description["added_tokens"]
        }
        self._bytes_of: dict[int, bytes] = {
            token_id: token.encode() for token, token_id in self._special.items()
        }
        # While encoding, each token is one character: a byte its own code point, a merged token
        # one above. `_id_of` turns the characters into ids at the end.
        self._id_of: dict[str, int] = {}
        character_of: dict[str, str] = {}
        for token, token_id in model["vocab"].items():
            if token in self._special:
                continue
            content = bytes(byte_of[char] for char in token)
            self._bytes_of[token_id] = content
            character = content.decode("latin-1") if len(content) == 1 else chr(0x100 + token_id)
            character_of[token] = character
            self._id_of[character] = token_id
        self._merges: list[tuple[str, str]] = [
            (character_of[left] + character_of[right], character_of[left + right])
            for left, right in model["merges"]
        ]
        self._split = re.compile(f"({'|'.join(map(re.escape, self._special))})")

    @classmethod
    def from_file(cls, path: Path) -> ByteLevelBPE:
        """Read a ``tokenizer.json``."""
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, special tokens recognised, none added."""
        token_ids: list[int] = []
        for part in self._split.split(text):
            special = self._special.get(part)
            if special is not None:
                token_ids.append(special)
                continue
            symbols = part.encode("utf-8", errors="replace").decode("latin-1")
            for pair, merged in self._merges:
                symbols = symbols.replace(pair, merged)
            token_ids.extend(map(self._id_of.__getitem__, symbols))
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of `token_ids`, special tokens included, unknown ids left out."""
        content = b"".join(self._bytes_of.get(token_id, b"") for token_id in token_ids)
        return content.decode("utf-8", errors="replace")


class HuggingFaceTokenizer:
    """A ``tokenizer.json`` of any kind, read with the ``tokenizers`` package.

    Parameters
    ----------
    path : Path
        The ``tokenizer.json``.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Backend

        self._backend = Backend.from_file(str(path))
        self._vocabulary_size: int = self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, special tokens recognised, none added."""
        token_ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of `token_ids`, special tokens included, unknown ids left out."""
        known = [token_id for token_id in token_ids if 0 <= token_id < self._vocabulary_size]
        text: str = self._backend.decode(known, skip_special_tokens=False)
        return text


class TextStreamer:
    """Turns token ids into text as they come, holding back what may still become a character.

    Parameters
    ----------
    decode : Callable
        The tokenizer's `decode`.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []
        self._context_text = ""
        self._held: list[int] = []

    def put(self, token_ids: Iterable[int]) -> str:
        """Take new tokens, return the text that they complete."""
        pieces = []
        for token_id in token_ids:
            self._held.append(token_id)
            ready = len(self._held)
            text = self._text_of(ready)
            while ready > max(0, len(self._held) - _MAX_HELD_TOKENS) and text.endswith(REPLACEMENT):
                ready -= 1
                text = self._text_of(ready)
            pieces.append(text)
            self._emit(ready)
        return "".join(pieces)

    def finish(self) -> str:
        """Return the text of the tokens that are still held back."""
        text = self._text_of(len(self._held))
        self._emit(len(self._held))
        return text

    def _text_of(self, count: int) -> str:
        if count == 0:
            return ""
        return self._decode(self._context + self._held[:count])[len(self._context_text) :]

    def _emit(self, count: int) -> None:
        if count:
            self._context = (self._context + self._held[:count])[-_CONTEXT_TOKENS:]
            self._context_text = self._decode(self._context)
            del self._held[:count]


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json`` with the ``tokenizers`` package, or, without it, as byte-level BPE.

    Raises
    ------
    ValueError
        The file needs the ``tokenizers`` package, and that cannot be imported.
    """
    try:
        return HuggingFaceTokenizer(path)
    except ImportError as error:
        description = json.loads(path.read_text(encoding="utf-8"))
        if not _is_plain_byte_level(description):
            raise ValueError(f"{path} needs the package tokenizers ({error})") from error
        return ByteLevelBPE(description)


def _is_plain_byte_level(description: dict[str, Any]) -> bool:
    """Tell whether `ByteLevelBPE` encodes exactly as this ``tokenizer.json`` asks for."""
    pre_tokenizer = description.get("pre_tokenizer") or {}
    model = description.get("model") or {}
    return (
        pre_tokenizer.get("type") == "ByteLevel"
        and pre_tokenizer.get("use_regex") is False
        and pre_tokenizer.get("add_prefix_space") is False
        and description.get("normalizer") is None
        and model.get("type") == "BPE"
        and all(isinstance(merge, list) for merge in model["merges"])
    )


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """Return which byte each character of a byte-level vocabulary stands for.

    Printable Latin-1 characters stand for themselves; the other bytes, in their order, for the
    code points from 256 on. The alphabet is GPT-2's, and every byte-level tokenizer uses it.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(0x100) if chr(byte) not in alphabet]
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return alphabet
