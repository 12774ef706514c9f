"""Requests, as uvicorn's access lines in a server's log tell of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_mlc_server import access_log, logs
from pytest_mlc_server.access_log import OWN_PATH, AccessLog, own_lines

CHAT = 'INFO:     127.0.0.1:41000 - "POST /v1/chat/completions HTTP/1.1" 200 OK\n'
OWN = f'INFO:     127.0.0.1:41001 - "GET {OWN_PATH} HTTP/1.1" 200 OK\n'
RUNNING = "INFO:     Uvicorn running on http://127.0.0.1:1234 (Press CTRL+C to quit)\n"
MODELS = 'INFO:     127.0.0.1:41002 - "GET /v1/models HTTP/1.1" 200 OK\n'
PROBE = 'INFO:     127.0.0.1:41003 - "POST /v1/completions HTTP/1.1" 200 OK\n'


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "server.log"
    path.touch()
    return path


def count(path: Path, reader: AccessLog | None = None) -> tuple[int, int]:
    reader = reader or AccessLog(str(path))
    reader.read(path.stat().st_size)
    return reader.requests, reader.errors


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", (0, 0)),
        (CHAT, (1, 0)),
        (CHAT * 3, (3, 0)),
        (CHAT.replace("200 OK", "400 Bad Request"), (1, 1)),
        (CHAT.replace("200 OK", "500 Internal Server Error") + CHAT, (2, 1)),
        (CHAT.replace("200 OK", "307 Temporary Redirect"), (1, 0)),
        (CHAT.replace("127.0.0.1:41000", "[::1]:41000"), (1, 0)),
        (CHAT.replace("127.0.0.1:41000", "::1:41000"), (1, 0)),
        (CHAT.replace("/v1/chat/completions", "/v1/models?x=%22"), (1, 0)),
        (CHAT.replace(" 200 OK", ""), (1, 0)),
        (OWN + CHAT + OWN, (1, 0)),
        (OWN.replace("127.0.0.1:41001", "[::1]:41001"), (0, 0)),
        # The test's own look at the metrics is the test's.
        (OWN.replace(OWN_PATH, "/metrics"), (1, 0)),
        ("[2026-11-22 22:23:23] INFO engine_base.py:149: no request\n" + CHAT, (1, 0)),
        ('a model that says INFO:     x - "GET / HTTP/1.1" 200\n', (0, 0)),
        # What the guardian asks of a server that has just begun to listen.
        (CHAT + RUNNING + MODELS + PROBE + CHAT, (2, 0)),
        (RUNNING + MODELS + PROBE + MODELS + PROBE, (2, 0)),
        (RUNNING + CHAT + MODELS, (1, 0)),
        ("\xff\xfe\n" + CHAT + "an unfinished line", (1, 0)),
        (CHAT + CHAT.rstrip("\n"), (1, 0)),
    ],
)
def test_what_counts(lines: str, expected: tuple[int, int], log: Path) -> None:
    log.write_text(lines, encoding="latin-1")
    assert count(log) == expected


def test_only_what_is_new_is_read(log: Path) -> None:
    log.write_text(CHAT * 2)
    reader = AccessLog(str(log))
    assert count(log, reader) == (2, 0)
    reader.clear()
    assert count(log, reader) == (0, 0)
    with log.open("a") as file:
        file.write(CHAT + CHAT[:30])
    assert count(log, reader) == (1, 0)
    reader.clear()
    with log.open("a") as file:
        file.write(CHAT[30:])
    assert count(log, reader) == (1, 0)


def test_a_probe_that_is_read_later_is_still_none(log: Path) -> None:
    reader = AccessLog(str(log))
    for part in (RUNNING, MODELS, PROBE, CHAT):
        with log.open("a") as file:
            file.write(part)
        count(log, reader)
    assert reader.requests == 1


def test_lines_across_chunks(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "_CHUNK", 37)
    log.write_text((CHAT + OWN) * 20)
    assert count(log) == (20, 0)


def test_a_hundred_thousand_requests(log: Path) -> None:
    log.write_text(CHAT * 100_000)
    reader = AccessLog(str(log))
    assert count(log, reader) == (100_000, 0)
    assert reader.complete


def test_a_log_that_grew_beyond_measure_is_not_read_whole(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "LONGEST", 5 * len(CHAT))
    log.write_text(CHAT * 100)
    reader = AccessLog(str(log))
    assert count(log, reader) == (5, 0)
    assert not reader.complete


def test_a_log_that_is_gone_has_no_requests(tmp_path: Path) -> None:
    reader = AccessLog(str(tmp_path / "none.log"))
    reader.read(1000)
    assert reader.requests == 0


def test_resets_of_the_engine_are_seen(log: Path) -> None:
    reset = 'INFO:     127.0.0.1:1 - "POST /debug/reset_engine HTTP/1.1" 200 OK\n'
    log.write_text(reset + reset.replace("200 OK", "400 Bad Request"))
    reader = AccessLog(str(log))
    assert count(log, reader) == (2, 1)
    assert reader.resets == 1


def test_our_own_lines_are_left_out_of_what_is_shown() -> None:
    others = CHAT + OWN.replace(OWN_PATH, "/metrics") + MODELS
    assert own_lines(OWN + others + OWN.rstrip("\n")) == others
    assert own_lines(f"{CHAT}{OWN}{MODELS}") == CHAT + MODELS
    assert own_lines(others) == others


def test_our_own_lines_are_neither_shown_live_nor_the_last_request(
    log: Path, tmp_path: Path
) -> None:
    log.write_text(CHAT + OWN)
    reader = logs.LogReader(str(log))
    reader.read()
    assert reader.last_request == '"POST /v1/chat/completions HTTP/1.1" 200 OK'
    terminal = tmp_path / "terminal"
    with terminal.open("wb") as output:
        logs.LiveLog(str(log), output.fileno(), "").close()
    assert terminal.read_text() == CHAT
