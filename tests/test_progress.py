"""What a starting server is doing, read from its log, and the line that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import PopenServer, logs, progress
from pytest_mlc_server.progress import Starting
from tests.support_progress import DOWNLOADING, STAMP, snapshot

RECORDED = Path(__file__).parent / "data" / "logs"


def following(log: Path, **more: Any) -> Starting:
    return Starting("mlc 'model'", lambda: str(log), **more)


# --- the log --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "percent"),
    [
        # tqdm around the files of upstream's downloads, before and after the first one
        ("  0%|          | 0/5 [00:00<?, ?it/s]", 0),
        (" 45%|████▌     | 9/20 [00:03<00:10,  1.1it/s]", 45),
        ("100%|##########| 5/5 [00:09<00:00,  1.9s/it]", 100),
        ("params: 40%|####      | 2/5 [00:01<00:02,  1.3it/s]", 40),
        # git
        ("Receiving objects:  63% (19/30), 1.20 MiB | 2.00 MiB/s", 63),
        ("Filtering content: 100% (3/3), 4.00 GiB | 80.00 MiB/s, done.", 100),
        # the native loader of several GPUs
        ("[====>          ]  [25/80]", 31),
        ("[===============>]  [80/80]", 100),
        # none of these is how far anything is
        ("gpu_memory_utilization is set to 85% of the GPU", None),
        ("Estimated total single GPU memory usage: 54.235 MB (Parameters: 0.532 MB)", None),
        ("[12/40] compiling", None),
        ("[>]  [0/0]", None),
        ("progress 150x%", None),
        ("", None),
    ],
)
def test_how_far_a_bar_is(line: str, percent: int | None) -> None:
    assert progress.percentage(line) == percent


def test_a_bar_that_is_redrawn_is_followed_and_ends_with_its_phase(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    starting = following(log)
    assert starting.look().phase == logs.LAUNCHING  # there is no log yet
    log.write_text(DOWNLOADING)
    assert starting.look().percent is None
    for percent in (0, 20, 40):
        with log.open("a") as file:
            file.write(f"\r {percent}%|##  | {percent}/100 [00:03<00:10]")
        seen = starting.look()
        assert (seen.phase, seen.percent) == (logs.DOWNLOADING, percent)
        assert seen.last == "Downloading model from HuggingFace: HF://a/b"
    with log.open("a") as file:
        file.write(f"\n{STAMP}Compiling using commands below:\n")
    seen = starting.look()
    assert (seen.phase, seen.percent) == (logs.COMPILING, None)
    assert seen.last == "Compiling using commands below:"


@pytest.mark.parametrize("name", ["good-start", "jit-start", "device-auto", "download-failed"])
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_the_phase_is_the_guardians_however_the_log_grows(
    name: str, size: int, tmp_path: Path
) -> None:
    data = (RECORDED / f"{name}.txt").read_bytes()
    if size == 1:
        data = data[:3000]
    log = tmp_path / "server.log"
    reader, starting = logs.LogReader(str(log)), following(log)
    with log.open("wb", buffering=0) as file:
        for at in range(0, len(data), size):
            file.write(data[at : at + size])
            starting.look()
    assert data.count(b"\n") < 10_000
    while reader.read():
        pass
    assert starting.look().phase == reader.phase


def test_what_the_guardian_says_counts_until_the_log_says_more(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("--- waiting for another server that compiles this model ---\n")
    starting = following(log)
    starting.hear("waiting for another server (guardian\x1b[2J 7)")
    seen = starting.look()
    assert (seen.phase, seen.last) == ("waiting for another server (guardian 7)", "")
    with log.open("a") as file:
        file.write(DOWNLOADING)
    assert starting.look().phase == logs.DOWNLOADING


def test_a_log_that_goes_on_is_read_from_where_the_start_began(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(DOWNLOADING)
    starting = following(log, offset=logs.size(str(log)))
    assert starting.look().phase == logs.LAUNCHING


def test_of_a_long_log_the_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(f"{'x' * progress.MOST}\n" * 3 + DOWNLOADING)
    starting = following(log)
    assert starting.look().phase == logs.DOWNLOADING
    with log.open("a") as file:
        file.write(f"{STAMP}one more\n")
    assert starting.look().last == "one more"


def test_another_log_is_read_from_its_beginning(tmp_path: Path) -> None:
    first, second = tmp_path / "1.log", tmp_path / "2.log"
    first.write_text(f"{DOWNLOADING}{'x' * 500}\n")
    second.write_text(f"{STAMP}Compiling using commands below:\n")
    paths = iter([str(first), str(second)])
    starting = Starting("mlc", lambda: next(paths))
    assert [starting.look().phase, starting.look().phase] == [logs.DOWNLOADING, logs.COMPILING]


@pytest.mark.parametrize(
    ("written", "last"),
    [
        (b"\x1b[1mbold\x1b[0m \x1b]0;title\x07 \x9b2J\x00 text\n", "bold "),
        ("right\u202eleft\u2028next\n".encode(), "rightleftnext"),
        (b"\xff\xfe broken\n", "broken"),
        (b"key sk-secret-value here\n", "key *** here"),
        (b"one\n\n   \n\n", "one"),
        (b"whole\nhalf a li", "whole"),
        (b"a" * 100_000 + b"\n", "a" * 200),
        (STAMP.encode() + b"words\n", "words"),
        (b"[22:22:41] /project/x.cc:12: Warning: words\n", "Warning: words"),
        (b"[1mCompiling\n", "[1mCompiling"),
    ],
)
def test_the_last_line_is_safe_to_show(written: bytes, last: str, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_bytes(written)
    shown = following(log, hide=lambda text: text.replace("sk-secret-value", "***")).look().last
    assert shown.isprintable()
    assert last in shown
    assert len(shown) <= progress.LINE_WIDTH


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("HF://org/name", "mlc 'HF://org/name'"),
        ("/data/models/name-MLC/", "mlc 'name-MLC'"),
        ("dist/na\x1b[2Jme", "mlc 'na\\x1b[2Jme'"),
    ],
)
def test_a_server_is_named_shortly(model: str, what: str) -> None:
    assert Starting.of_server(PopenServer(model)).what == what


def test_an_external_server_is_attached_to() -> None:
    seen = Starting.of_server(PopenServer(None, url="http://127.0.0.1:9", engine="external")).look()
    assert (seen.what, seen.phase) == ("external http://127.0.0.1:9", "attaching")


# --- the line -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("short", 5, "short"),
        ("longer", 5, "long…"),
        ("日本語です", 10, "日本語です"),
        ("日本語です", 9, "日本語で…"),
        ("日本語です", 8, "日本語…"),
        ("e\u0301" * 5, 5, "e\u0301" * 5),
        ("longer", 1, "…"),
        ("longer", 0, ""),
    ],
)
def test_a_line_is_cut_by_its_columns(text: str, width: int, shown: str) -> None:
    assert progress.cut(text, width) == shown


def test_what_is_said() -> None:
    one = snapshot(percent=45)
    assert progress.plain(one, 165.9) == "mlc-server: mlc 'model': loading, 45 %, 65 s: a line"
    assert progress.plain(snapshot(last=""), 100.0) == "mlc-server: mlc 'model': loading, 0 s"
    assert "2 min 05 s" in progress.plain(one, 225.0)
    assert (
        progress.status([one], 101.0, 1) == "⠙ mlc-server: mlc 'model': loading, 45 %, 1 s: a line"
    )
    older = snapshot(what="mlc 'b'", began=90.0, key="b")
    assert progress.status([one, older], 101.0, 1, fine=False).startswith(
        "/ mlc-server: 2 servers start, the slowest: mlc 'b': loading, 11 s"
    )
