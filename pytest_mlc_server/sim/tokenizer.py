"""Text to token ids and back.

The simulator ships a byte-level BPE tokenizer with 512 tokens: every byte is a token, so any text
survives the round trip. A model directory that brings a ``tokenizer.json`` of its own is read with
the ``tokenizers`` package.
"""

from __future__ import annotations

import json
import re
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from pytest_mlc_server.sim.streaming import TextStreamer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_PLAIN = re.compile(" ?[a-z]+")
_BYTE_FALLBACK = re.compile("<0x([0-9A-F]{2})>")


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer."""

    #: How many tokens there are.
    vocabulary_size: int

    def __hash__(self) -> int:
        """Tell it from others: what it made of a text may be kept."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, special tokens recognised, none added."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of `token_ids`, special tokens included, unknown ids left out."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return what a token stands for; nothing for an unknown id."""

    def piece(self, token_id: int) -> str | None:
        """Return the text of a token, None where it depends on the tokens around it."""

    def split(self, text: str) -> tuple[list[int], list[str]]:
        """Return the token ids of `text`, and which part of it each of them completes."""

    @property
    def plain_tokens(self) -> list[int]:
        """Tokens that are letters, with or without a space before them."""


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
        self.vocabulary_size = len(self._bytes_of)
        self._pieces = {token_id: _text(text) for token_id, text in self._bytes_of.items()}
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
        content = b"".join([self._bytes_of.get(token_id, b"") for token_id in token_ids])
        return content.decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return what a token stands for; nothing for an unknown id."""
        return self._bytes_of.get(token_id, b"")

    def piece(self, token_id: int) -> str | None:
        """Return the text of a token, None where it depends on the tokens around it."""
        return self._pieces.get(token_id)

    def split(self, text: str) -> tuple[list[int], list[str]]:
        """Return the token ids of `text`, and which part of it each of them completes."""
        token_ids = self.encode(text)
        return token_ids, split_text(self, token_ids)

    @cached_property
    def plain_tokens(self) -> list[int]:
        """Tokens that are letters, with or without a space before them."""
        return _plain_tokens(self._pieces)


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
        self.vocabulary_size: int = self._backend.get_vocab_size(with_added_tokens=True)
        description = json.loads(path.read_text(encoding="utf-8"))
        decoder = (description.get("decoder") or {}).get("type")
        self._is_byte_level = decoder == "ByteLevel"
        self._added = set(self._backend.get_added_tokens_decoder())
        # Filled as tokens are asked for: to read a large vocabulary would take too long at start.
        self._bytes_of: dict[int, bytes] = {}
        self._pieces: dict[int, str | None] = {}

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, special tokens recognised, none added."""
        token_ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of `token_ids`, special tokens included, unknown ids left out."""
        known = [token_id for token_id in token_ids if 0 <= token_id < self.vocabulary_size]
        text: str = self._backend.decode(known, skip_special_tokens=False)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """Return what a token stands for; nothing for an unknown id."""
        content = self._bytes_of.get(token_id)
        if content is None:
            content = self._bytes_of[token_id] = self._content(token_id)
        return content

    def piece(self, token_id: int) -> str | None:
        """Return the text of a token, None where it depends on the tokens around it."""
        if not self._is_byte_level:
            return None
        if token_id not in self._pieces:
            self._pieces[token_id] = _text(self.token_bytes(token_id))
        return self._pieces[token_id]

    def split(self, text: str) -> tuple[list[int], list[str]]:
        """Return the token ids of `text`, and which part of it each of them completes."""
        if self._is_byte_level:
            token_ids = self.encode(text)
            pieces = split_text(self, token_ids)
            if "".join(pieces) == text:
                return token_ids, pieces
        # Decoding would not give the text again, but for its spaces or its capital letters.
        encoding = self._backend.encode(text, add_special_tokens=False)
        if not encoding.ids:
            return [], []
        ends = [end for _, end in encoding.offsets[:-1]] + [len(text)]
        starts = [0, *ends[:-1]]
        return encoding.ids, [text[start:end] for start, end in zip(starts, ends, strict=True)]

    @cached_property
    def plain_tokens(self) -> list[int]:
        """Tokens that are letters, with or without a space before them."""
        known = range(self.vocabulary_size)
        return _plain_tokens({token_id: _text(self.token_bytes(token_id)) for token_id in known})

    def _content(self, token_id: int) -> bytes:
        if not 0 <= token_id < self.vocabulary_size:
            return b""
        token: str = self._backend.id_to_token(token_id) or ""
        if token_id in self._added:
            return token.encode()
        if not self._is_byte_level:
            byte = _BYTE_FALLBACK.fullmatch(token)
            return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()
        alphabet = _byte_alphabet()
        if all(char in alphabet for char in token):
            return bytes(alphabet[char] for char in token)
        return token.encode()


def split_text(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[str]:
    """Return the text that each token completes; incomplete characters end the last one."""
    pieces = [tokenizer.piece(token_id) for token_id in token_ids]
    known = [piece for piece in pieces if piece is not None]
    if len(known) == len(pieces):
        return known
    streamer = TextStreamer(tokenizer)
    texts = [streamer.put([token_id]) for token_id in token_ids]
    texts[-1] += streamer.finish()
    return texts


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json`` with the ``tokenizers`` package, or, without it, as byte-level BPE.

    Raises
    ------
    ValueError
        The file is no tokenizer, or needs the ``tokenizers`` package, which cannot be imported.
    """
    try:
        return HuggingFaceTokenizer(path)
    except ImportError as error:
        description = json.loads(path.read_text(encoding="utf-8"))
        if not _is_plain_byte_level(description):
            raise ValueError(f"{path} needs the package tokenizers ({error})") from error
        return ByteLevelBPE(description)
    except Exception as error:
        # The package raises nothing more telling.
        raise ValueError(f"{path} is not a tokenizer: {error}") from error


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


def _text(content: bytes) -> str | None:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _plain_tokens(texts: Mapping[int, str | None]) -> list[int]:
    """Return the tokens that are words; where there are none, those that are any text at all."""
    known = {token_id: text for token_id, text in texts.items() if text}
    plain = sorted(token_id for token_id, text in known.items() if _PLAIN.fullmatch(text))
    return plain or sorted(known)


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
