from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_mlc_server import logs
from tests.conftest import await_

#: What the real server wrote, byte for byte but for paths.
RECORDED = Path(__file__).parent / "data" / "logs"

#: The last words of engines that died while their process lived on.
DEAD = {
    "missing-weights-shard": """\
tvm.error.InternalError: Check failed: (!fs.fail()) is false: Cannot open \
dist/broken-llama-q0f32-MLC/params_shard_0.bin""",
    "library-is-none": """\
tvm.error.InternalError: Check failed: (lib_handle_ != nullptr) is false: Failed to load dynamic \
shared library dist/not-a-lib.so dist/not-a-lib.so: file too short""",
    "cache-too-big": "tvm.error.InternalError: std::bad_alloc",
    "no-gpu-memory": """\
tvm.error.InternalError: Check failed: (output_res.IsOk()) is false: Insufficient GPU memory \
error: The available single GPU memory is 0.000 MB, which is less than the sum of model weight \
size (0.532 MB) and temporary buffer size (53.200 MB).
1. You can set a larger "gpu_memory_utilization" value.
2. If the model weight size is too large, please enable tensor parallelism by passing \
`--tensor-parallel-shards $NGPU` to `mlc_llm gen_config` or use quantization.
3. If the temporary buffer size is too large, please use a smaller `--prefill-chunk-size` in \
`mlc_llm gen_config`.""",
}


def recorded(name: str) -> bytes:
    return (RECORDED / f"{name}.txt").read_bytes()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[92mlocal\x1b[0m mode", "local mode"),
        ("\x1b[1;31mred\x1b[m", "red"),
        ("a\r\nb\tc", "a\nb\tc"),
        ("bell \x07 null \x00 progress \r", "bell ? null ? progress ?"),
        ("ä € 😀", "ä € 😀"),
    ],
)
def test_plain_text_has_no_colours_and_no_characters_that_reports_cannot_hold(
    text: str, shown: str
) -> None:
    assert logs.plain(text) == shown


def test_a_log_is_read_whole_or_from_one_place_to_another(log: Path) -> None:
    log.write_bytes(b"one\ntwo\nthree\n")
    assert logs.size(str(log)) == 14
    assert logs.read(str(log)) == "one\ntwo\nthree\n"
    assert logs.read(str(log), 4) == "two\nthree\n"
    assert logs.read(str(log), 4, 8) == "two\n"
    assert logs.read(str(log), 14) == ""


def test_of_a_long_part_the_end_is_read_from_a_whole_line_on(log: Path) -> None:
    log.write_bytes(b"first\n" * 10 + b"second\nlast\n")
    text = logs.read(str(log), limit=15)
    assert text == "[57 bytes left out]\nsecond\nlast\n"


def test_bytes_that_are_no_text_are_replaced(log: Path) -> None:
    log.write_bytes(b"caf\xe9\n")
    assert logs.read(str(log)) == "caf\ufffd\n"


def test_a_log_that_is_not_there_is_empty(log: Path) -> None:
    assert (logs.size(str(log)), logs.read(str(log)), logs.tail(str(log))) == (0, "", "")


def test_the_tail_has_the_last_lines_without_colours(log: Path) -> None:
    log.write_bytes(b"".join(b"line %d\n" % n for n in range(100)) + b"\x1b[31mend\x1b[0m\n\n\n")
    assert logs.tail(str(log), 3) == "line 98\nline 99\nend"
    assert len(logs.tail(str(log)).splitlines()) == 30


def test_the_tail_of_a_log_of_many_megabytes_is_its_end(log: Path) -> None:
    log.write_bytes(b"x" * (20 << 20) + b"\nend\n")
    assert logs.tail(str(log), 1) == "end"


# --- the reader -----------------------------------------------------------------------------------


def in_one_piece(data: bytes) -> list[bytes]:
    return [data]


def in_single_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


@pytest.mark.parametrize("pieces", [in_one_piece, in_single_bytes])
@pytest.mark.parametrize("name", DEAD)
def test_the_last_words_of_an_engine_that_died_are_found_with_all_their_lines(
    log: Path, name: str, pieces: Callable[[bytes], list[bytes]]
) -> None:
    reader = logs.LogReader(str(log))
    with log.open("ab", buffering=0) as file:
        for piece in pieces(recorded(name)):
            file.write(piece)
            assert reader.read()
    assert reader.died == DEAD[name]
    assert not reader.running


@pytest.mark.parametrize("name", ["port-in-use", "no-device", "no-model", "good-start"])
def test_no_engine_died_in_other_logs(log: Path, name: str) -> None:
    log.write_bytes(recorded(name))
    reader = logs.LogReader(str(log))
    assert reader.read()
    assert reader.died == ""


def test_a_listening_server_is_recognised(log: Path) -> None:
    log.write_bytes(recorded("good-start"))
    reader = logs.LogReader(str(log))
    reader.read()
    assert reader.running


def test_an_engine_that_dies_after_the_server_listens_is_found_too(log: Path) -> None:
    reader = logs.LogReader(str(log))
    log.write_bytes(recorded("good-start"))
    reader.read()
    with log.open("ab") as file:
        file.write(recorded("cache-too-big"))
    reader.read()
    assert reader.running
    assert reader.died == DEAD["cache-too-big"]


def test_a_traceback_of_another_thread_is_no_death_of_the_engine(log: Path) -> None:
    log.write_bytes(recorded("cache-too-big").replace(b"thread Thread-1:", b"thread logger:"))
    reader = logs.LogReader(str(log))
    reader.read()
    assert reader.died == ""


def test_a_log_that_is_not_there_has_no_news(log: Path) -> None:
    assert not logs.LogReader(str(log)).read()


def test_news_are_told_once(log: Path) -> None:
    log.write_text("a line\n")
    reader = logs.LogReader(str(log))
    assert [reader.read(), reader.read()] == [True, False]


def test_a_line_that_never_ends_does_not_fill_the_memory(log: Path) -> None:
    log.write_bytes(b"x" * (3 << 20) + b"\n" + recorded("cache-too-big"))
    reader = logs.LogReader(str(log))
    while reader.read():
        assert len(reader._rest) <= 1 << 16
    assert reader.died == DEAD["cache-too-big"]


# --- the live copy --------------------------------------------------------------------------------


def test_the_live_copy_has_every_line_with_its_prefix(log: Path, tmp_path: Path) -> None:
    terminal = tmp_path / "terminal"
    output = os.open(terminal, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    live = logs.LiveLog(str(log), output, "[gw1] ")
    with log.open("ab", buffering=0) as file:
        file.write(b"one\ntw")
        await_(lambda: terminal.read_text() == "[gw1] one\n", "the first line")
        file.write(b"o\nunfinished")
        live.close()
    os.close(output)
    assert terminal.read_text() == "[gw1] one\n[gw1] two\n[gw1] unfinished\n"


def test_the_live_copy_survives_a_terminal_that_is_gone(log: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    live = logs.LiveLog(str(log), writer, "")
    log.write_text("a line that nobody sees\n")
    live.close()
    os.close(writer)
    assert log.read_text() == "a line that nobody sees\n"
