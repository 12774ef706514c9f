"""Token ids to text, as they come: what is held back, and where a stop string ends it all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_mlc_server.sim.tokenizer import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# A UTF-8 character has at most four bytes: three tokens may be waiting for the fourth.
_MAX_HELD_TOKENS = 3


class TextStreamer:
    """Turns token ids into text as they come, holding back what may still become a character.

    Parameters
    ----------
    tokenizer : Tokenizer
        What decodes them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Sentence-piece decoders treat the first token of a text differently: a token must not be
        # decoded without the one before it.
        self._context: list[int] = []
        self._held: list[int] = []

    def put(self, token_ids: Iterable[int]) -> str:
        """Take new tokens, return the text that they complete."""
        return "".join([self._put(token_id) for token_id in token_ids])

    def finish(self) -> str:
        """Return the text of the tokens that are still held back."""
        text, self._held = self._text_of(len(self._held)), []
        return text

    def _put(self, token_id: int) -> str:
        if not self._held:
            piece = self._tokenizer.piece(token_id)
            if piece is not None:
                self._context = [token_id]
                return piece
        self._held.append(token_id)
        ready = len(self._held)
        text = self._text_of(ready)
        while ready > max(0, len(self._held) - _MAX_HELD_TOKENS) and text.endswith(REPLACEMENT):
            ready -= 1
            text = self._text_of(ready)
        if ready:
            self._context = self._held[:ready]
            del self._held[:ready]
        return text

    def _text_of(self, count: int) -> str:
        if count == 0:
            return ""
        known = self._tokenizer.decode(self._context) if self._context else ""
        text = self._tokenizer.decode(self._context + self._held[:count])
        # What was said as unreadable cannot be taken back when more bytes make it readable.
        return text[len(known) :] if text.startswith(known) else self._tokenizer.decode(self._held)


class StopStringFilter:
    """Lets tokens through until a stop string is complete, holding back what may become one.

    As in a real engine, it is whole tokens that are let through: a token in which a stop string
    begins is lost altogether.

    Parameters
    ----------
    stops : Sequence of str
        The stop strings; none may be empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop.encode("utf-8", errors="replace") for stop in stops)
        self._longest = max(map(len, self._stops), default=0)
        self._first_bytes = {stop[0] for stop in self._stops}
        self._held: list[tuple[int, int]] = []
        self._text = b""
        self.triggered = False

    def put(self, token_id: int, text: bytes) -> list[int]:
        """Take a token and its text, return the tokens that are let through now."""
        if not self._held and self._first_bytes.isdisjoint(text):
            return [token_id]
        position = len(self._text)
        self._text += text
        self._held.append((token_id, len(text)))
        for end in range(position + 1, len(self._text) + 1):
            found = [stop for stop in self._stops if self._text.endswith(stop, 0, end)]
            if found:
                self.triggered = True
                return self._release(end - max(map(len, found)))
        return self._release(len(self._text) - self._partial_match())

    def finish(self) -> list[int]:
        """Return the tokens that are still held back."""
        return self._release(len(self._text))

    def _partial_match(self) -> int:
        """Return how many bytes at the end may be the beginning of a stop string."""
        for length in range(min(self._longest - 1, len(self._text)), 0, -1):
            tail = self._text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0

    def _release(self, length: int) -> list[int]:
        """Let the tokens through that lie within the first `length` bytes."""
        released = []
        end = 0
        for token_id, size in self._held:
            if end + size > length:
                break
            end += size
            released.append(token_id)
        del self._held[: len(released)]
        self._text = self._text[end:]
        return released
