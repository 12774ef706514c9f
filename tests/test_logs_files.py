"""The files that a server's log names: libraries, and directories of downloaded models."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_mlc_server.logs import CACHED, GIVEN, MADE, LogReader

RECORDED = Path(__file__).parent / "data" / "logs"

LIBRARY = "dist/home/model_lib/efee774417efdd41a8bfbef9d466a22d.so"


def read(text: str, directory: Path) -> LogReader:
    path = directory / "server.log"
    path.write_text(text)
    reader = LogReader(str(path))
    reader.read()
    return reader


@pytest.mark.parametrize(
    ("name", "libraries", "built"),
    [
        ("jit-start", [(LIBRARY, MADE)], True),
        ("good-start", [("dist/tiny-llama-q0f32-MLC/tiny-llama-q0f32-cpu.so", GIVEN)], True),
        ("download-failed", [], False),
        ("no-tokenizer", [("dist/tiny-llama-q0f32-MLC/tiny-llama-q0f32-cpu.so", GIVEN)], True),
        ("no-model", [], False),
    ],
)
def test_recorded_starts(
    name: str, libraries: list[tuple[str, str]], built: bool, tmp_path: Path
) -> None:
    reader = read((RECORDED / f"{name}.txt").read_text(), tmp_path)
    assert reader.libraries == libraries
    assert reader.directories == []
    assert reader.built is built


@pytest.mark.parametrize(
    ("line", "directory"),
    [
        ("Weights already downloaded: \x1b[1m/c/hf/o/n\x1b[0m", ("/c/hf/o/n", CACHED)),
        ("Use cached weight: /c/with a space/n", ("/c/with a space/n", CACHED)),
        ("Moving /tmp/x/tmp to \x1b[1m/c/hf/o/n\x1b[0m", ("/c/hf/o/n", MADE)),
    ],
)
def test_directories_of_downloads(line: str, directory: tuple[str, str], tmp_path: Path) -> None:
    stamp = "[2026-11-22 22:18:29] INFO download_cache.py:166: "
    assert read(f"{stamp}{line}\n", tmp_path).directories == [directory]
    # Nobody else's line is taken for upstream's.
    assert read(f"{line}\n", tmp_path).directories == []


def test_what_is_served_later_names_no_library(tmp_path: Path) -> None:
    text = (RECORDED / "jit-start.txt").read_text() + "Using cached model lib: /elsewhere.so\n"
    assert read(text, tmp_path).libraries == [(LIBRARY, MADE)]
