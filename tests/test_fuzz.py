"""Arbitrary input: it is refused, or it means one thing; nothing crashes and nothing hangs."""

from __future__ import annotations

import itertools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_mlc_server import ServerConfig, engines, leases, logs
from pytest_mlc_server.guardian import keeper
from pytest_mlc_server.guardian.holder import Holder
from pytest_mlc_server.guardian.loop import Loop
from pytest_mlc_server.guardian.spawn import Order
from pytest_mlc_server.overrides import OVERRIDES, parse_overrides
from tests.conftest import WATCHDOG

fuzz = settings(
    max_examples=80,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

KEYS = sorted(OVERRIDES)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)

# --- overrides -----------------------------------------------------------------------------------

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.lists(st.none()),
)
PAIRS = st.lists(
    st.tuples(st.sampled_from(KEYS) | st.text(max_size=8), st.integers().map(str) | st.text()),
    max_size=4,
)
TEXTS = st.text() | PAIRS.map(lambda pairs: ";".join(f"{k}={v}" for k, v in pairs))


def assert_refused_or_round_trips(overrides: Any) -> None:
    try:
        accepted = ServerConfig(model="m", overrides=overrides).overrides
    except ValueError:  # a ConfigError, and what Python says of numbers beyond all bounds
        return
    known = {key: value for key, value in accepted.items() if key in OVERRIDES}
    written = engines.format_overrides(known)
    assert dict(ServerConfig(model="m", overrides=parse_overrides(written)).overrides) == known


@fuzz
@given(TEXTS)
@example("opt=")
@example("max_num_sequence=9" + "9" * 5000)
@example("opt=a\0b")
def test_overrides_as_text_are_refused_or_round_trip(text: str) -> None:
    assert_refused_or_round_trips(text)


@fuzz
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(), VALUES, max_size=4))
@example({"gpu_memory_utilization": 10**400})
@example({"max_num_sequence": 10**5000})
@example({"opt": " O2 "})
@example({"opt": "a\0b"})
def test_overrides_as_a_mapping_are_refused_or_round_trip(mapping: dict[str, Any]) -> None:
    assert_refused_or_round_trips(mapping)


# --- the log -------------------------------------------------------------------------------------

LINES = st.sampled_from(
    [
        b"Exception in thread Thread-1 (work):",
        b"Traceback (most recent call last):",
        b"tvm.error.InternalError: Check failed: (!fs.fail()) is false",
        b"1. first advice",
        b'INFO:     127.0.0.1:1 - "POST /v1/completions HTTP/1.1" 200 OK',
        b"INFO:     Uvicorn running on http://127.0.0.1:8000 (Press CTRL+C to quit)",
        b"INFO:     Started server process [1]",
        b"[2026-01-01 00:00:00] INFO auto_device.py:80: \x1b[92mFound\x1b[0m device: cpu:0",
        b"Compiling using commands below",
        b"\xff\xfe\x00 \xe2\x82",
        b"x" * 70000 + b" Uvicorn running on http://127.0.0.1:1",
        b"",
    ]
)
LOGS = st.lists(LINES | st.binary(max_size=60), max_size=12).map(b"\n".join)


@contextmanager
def log_file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "server.log"


def what_it_says(path: Path, chunks: list[bytes]) -> tuple[object, ...]:
    path.write_bytes(b"")
    reader = logs.LogReader(str(path))
    for chunk in chunks:
        with path.open("ab") as file:
            file.write(chunk)
        reader.read()
    return reader.phase, reader.running, reader.died, reader.last_request


@fuzz
@given(LOGS, st.lists(st.integers(0, 80000), max_size=6))
def test_it_does_not_matter_in_which_chunks_a_log_comes(data: bytes, cuts: list[int]) -> None:
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[a:b] for a, b in itertools.pairwise(ends)]
    with log_file() as path:
        assert what_it_says(path, chunks) == what_it_says(path, [data])


@fuzz
@given(LOGS | st.binary(), st.integers(0, 200), st.none() | st.integers(0, 200), st.integers(1, 50))
def test_parts_of_a_log_can_be_shown(data: bytes, start: int, end: int | None, limit: int) -> None:
    with log_file() as path:
        path.write_bytes(data)
        shown = [
            logs.read(str(path), start, end, limit),
            logs.tail(str(path), limit),
            logs.plain(data.decode("latin-1")),
        ]
        assert len(logs.tail(str(path), 3).split("\n")) <= 3
    for text in shown:
        assert all(c >= " " or c in "\n\t" for c in text)
        text.encode()  # whatever the report is written to can hold it


# --- messages to the guardian --------------------------------------------------------------------

OPERATIONS = st.fixed_dictionaries(
    {"op": st.sampled_from(["stop", "check", "restart"])},
    optional=dict.fromkeys(("timeout", "deadline", "port", "reason", "discard"), JSON),
)
ORDER = {
    "mark": "m",
    "port": 0,
    "startup_timeout": 1.0,
    "startup_limit": 1.0,
    "stop_timeout": 1.0,
    "expected": {"model": "m", "api_key": None, "generate": True},
    "holders": [[os.getpid(), ""]],
}
#: An order in which one thing is wrong.
ORDERS = st.tuples(st.sampled_from(sorted(ORDER)), JSON).map(lambda pair: {**ORDER, **dict([pair])})
MESSAGES = st.one_of(
    st.binary(max_size=50),
    (OPERATIONS | ORDERS | JSON).map(lambda value: json.dumps(value).encode()),
)
STREAMS = st.lists(MESSAGES, max_size=5).map(lambda lines: b"".join(line + b"\n" for line in lines))


@contextmanager
def signals_kept() -> Iterator[None]:
    """Undo what the guardian does to the signals of its process."""
    numbers = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)


@fuzz
@given(st.binary() | STREAMS, st.booleans())
@example(b"[" * 100_000 + b"\n", False)
@example(b'{"op": "stop"}\n', True)
@example(json.dumps({**ORDER, "stop_timeout": float("inf")}).encode() + b"\n", False)
def test_no_message_is_too_much_for_the_guardian(data: bytes, ordered: bool) -> None:
    ours, theirs = socket.socketpair()
    with log_file() as log, signals_kept(), ours:
        order = Order(["1", "server", "/", str(log), "", "", "", ""])
        loop = Loop(theirs.detach(), order, 0, 0.0)
        try:
            first = json.dumps(ORDER).encode() + b"\n" if ordered else b""
            ours.settimeout(WATCHDOG)
            ours.sendall(first + data)
            ours.shutdown(socket.SHUT_WR)
            for _ in range(2):  # the messages, then their end
                loop._first._read()
            # Its holder has gone: whatever it said, the server is being stopped, in finite time.
            assert loop.stopping is not None
            assert 0 <= loop.stopping.pause() < 1e9
        finally:
            for end in (loop.holders, loop._selector, loop.alarm):
                end.close()


@fuzz
@given(st.binary(max_size=200) | STREAMS)
def test_a_holder_hears_messages_alone_and_then_the_end(data: bytes) -> None:
    heard: list[dict[str, Any]] = []
    lost: list[bool] = []
    ours, theirs = socket.socketpair()
    with ours, selectors.DefaultSelector() as selector:
        holder = Holder(theirs.detach(), selector, heard.append, lambda: lost.append(True))
        ours.sendall(data)
        ours.close()
        for _ in range(2):
            holder._read()
        holder.close()
    assert all(isinstance(message, dict) for message in heard)
    assert lost == [True]


# --- messages of the guardian --------------------------------------------------------------------

EVENTS = st.fixed_dictionaries(
    {"event": st.sampled_from(["spawned", "ready", "stopped"]) | JSON},
    optional=dict.fromkeys(("keeper", "pid"), JSON),
).map(lambda value: json.dumps(value).encode())


@fuzz
@given(st.lists(MESSAGES | EVENTS, max_size=5).map(b"\n".join))
@example(b"[" * 100_000 + b"\n")
@example(b'{"event": "spawned", "keeper": "\\u0000"}\n')
def test_a_guardian_that_talks_nonsense_is_lost(data: bytes) -> None:
    lease = leases.Lease.__new__(leases.Lease)
    lease._inbox, lease._log, lease._keeper, lease._keeper_start = b"", "/nowhere.log", 0, ""
    lease._socket, theirs = socket.socketpair()
    with lease._socket, theirs:
        theirs.settimeout(WATCHDOG)
        theirs.sendall(data)
        theirs.close()
        with suppress(leases.GuardianLostError):
            for _ in range(data.count(b"\n")):
                message = lease.next(WATCHDOG)
                assert isinstance(message, dict)
                assert "event" in message
            with pytest.raises(leases.GuardianLostError):
                lease.next(WATCHDOG)


# --- the order -----------------------------------------------------------------------------------


class _ExitedError(Exception):
    pass


def _exit(status: int) -> None:
    raise _ExitedError


FIELDS = st.lists(st.binary(max_size=10), max_size=8).map(b"\0".join)
RECORDS = FIELDS.map(lambda fields: len(fields).to_bytes(4, "big") + fields)


@fuzz
@given(st.binary(max_size=40) | RECORDS)
@example(b"\xff\xff\xff\xff0")
@example(b"\0\0\0\x0c1\0a\0/\0l\0s\0k\0A")
def test_bytes_that_are_no_order_are_refused(data: bytes) -> None:
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    try:
        with mock.patch("os._exit", _exit):
            order = Order(keeper.read_order(reader))
    except (_ExitedError, ValueError):
        return
    finally:
        os.close(reader)
    assert order.argv
    assert all(isinstance(value, str) for value in order.env.values())


def _order(*fields: bytes) -> bytes:
    record = b"\0".join(fields)
    return len(record).to_bytes(4, "big") + record


NONSENSE: dict[str, Callable[[Path], bytes]] = {
    "nothing": lambda _: b"",
    "half an order": lambda _: b"\0\0\1\0" + b"1\0a",
    "no order": lambda _: _order(b"hello"),
    "an enormous order": lambda _: b"\xff\xff\xff\xff" + b"x" * 100_000,
    "an order, then noise": lambda path: (
        _order(b"1", b"/bin/cat", b"/", bytes(path / "log"), b"", b"") + b"\xff\xfe\n"
    ),
    "an order, then another language": lambda path: (
        _order(b"1", b"/bin/cat", b"/", bytes(path / "log"), b"", b"") + b'{"hello": "there"}\n'
    ),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_guardian_that_hears_nonsense_ends_in_order(name: str, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    entry = Path(leases.__file__).parent / "guardian" / "__main__.py"
    psutil_home = str(Path(sys.modules["psutil"].__file__ or "").parent.parent)
    with ours, theirs:
        guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", str(entry), str(theirs.fileno()), psutil_home],
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        ours.sendall(NONSENSE[name](tmp_path))
        if name in ("nothing", "half an order", "an enormous order"):
            ours.shutdown(socket.SHUT_WR)
        _, words = guardian.communicate(timeout=WATCHDOG)
    assert b"Traceback" not in words
    assert words.count(b"\n") <= 1
