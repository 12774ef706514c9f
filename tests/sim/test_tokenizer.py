from __future__ import annotations

import random
import sys

import pytest

from pytest_mlc_server.sim.streaming import REPLACEMENT, TextStreamer
from pytest_mlc_server.sim.tokenizer import ByteLevelBPE, HuggingFaceTokenizer, load_tokenizer
from tests.sim.simulator import MODEL_DIRECTORY

PATH = MODEL_DIRECTORY / "tokenizer.json"
PARTS = ["a", "the", " of", "  ", "\n", "config", "---", "<|im_end|>", "<", "ü", "漢", "🎉", "\0"]


@pytest.fixture(scope="module")
def tokenizer() -> ByteLevelBPE:
    return ByteLevelBPE.from_file(PATH)


def texts() -> list[str]:
    chance = random.Random(20)
    return ["", *("".join(chance.choices(PARTS, k=chance.randrange(40))) for _ in range(300))]


def test_any_text_survives_the_round_trip(tokenizer: ByteLevelBPE) -> None:
    everything = "".join(map(chr, [*range(0x800), *range(0xE000, 0x11000, 7), 0x10FFFF]))
    for text in [*texts(), everything]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokens_are_those_of_the_tokenizers_package(tokenizer: ByteLevelBPE) -> None:
    pytest.importorskip("tokenizers")
    reference = HuggingFaceTokenizer(PATH)
    chance = random.Random(21)
    for text in texts():
        assert tokenizer.encode(text) == reference.encode(text)
        token_ids = [chance.randrange(-3, 520) for _ in range(20)]
        assert tokenizer.decode(token_ids) == reference.decode(token_ids)


def test_stream_adds_up_and_splits_no_character(tokenizer: ByteLevelBPE) -> None:
    for text in texts():
        streamer = TextStreamer(tokenizer)
        pieces = [streamer.put([token_id]) for token_id in tokenizer.encode(text)]
        assert not any(REPLACEMENT in piece for piece in pieces)
        assert "".join(pieces) + streamer.finish() == text


def test_without_the_tokenizers_package_byte_level_files_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert isinstance(load_tokenizer(PATH), ByteLevelBPE)
