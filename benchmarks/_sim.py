"""The simulator as a process, and a client that takes less of the machine than any server.

The client speaks just enough HTTP/1.1 to keep connections open: it sends the same bytes again and
again, and reads of the answers where they end and how many events they have.
"""

from __future__ import annotations

import json
import os
import re
import select
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from pytest_mlc_server import engines

#: The two ways to name a model: a directory with a tokenizer of its own, and the built-in model.
MODELS = {"model directory": engines.mock_model(), "built-in model": "sim-model"}

#: What to be told costs: nothing, the control endpoints of a test suite, a script with one rule.
TOLD = ("nothing", "token", "script")

TOKEN = "benchmark"

_SCRIPT = '[[rules]]\nwhen = {{ last_message = "{word}" }}\nreply = {{ text = "{text}" }}\n'
_WORD = "Simulate"
_RUNNING = re.compile(rb"Uvicorn running on http://127\.0\.0\.1:(\d+)")
_TIMEOUT = 60.0


@dataclass(frozen=True)
class Simulator:
    """A running simulator.

    Parameters
    ----------
    port
        Where it listens.
    process
        What it takes.
    listening, answering
        Seconds from its start to the line that names its port, and to its first answer.
    """

    port: int
    process: psutil.Process
    listening: float
    answering: float

    def cpu(self) -> float:
        """Return the seconds of CPU time that it took until now."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def rss(self) -> float:
        """Return its resident memory in bytes."""
        return float(self.process.memory_info().rss)


def command(model: str, *flags: str) -> list[str]:
    """Return the command line of a simulator, at a port of the kernel's choice."""
    program = [sys.executable, "-m", "pytest_mlc_server", "sim", "serve", model]
    return [*program, "--port", "0", *flags]


@contextmanager
def simulator(model: str, told: str = "nothing", tokens: int = 128) -> Iterator[Simulator]:
    """Start a simulator; stop it at the end of the block.

    Parameters
    ----------
    model
        A value of `MODELS`.
    told
        One of `TOLD`.
    tokens
        Length of the text that a script's rule says, at least.
    """
    flags: tuple[str, ...] = ()
    environment: dict[str, str] = dict(os.environ)
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as access_log:
        if told == "token":
            environment["PYTEST_MLC_SIM_TOKEN"] = TOKEN
        elif told == "script":
            script = Path(directory) / "script.toml"
            script.write_text(_SCRIPT.format(word=_WORD, text=_text(tokens)), encoding="utf-8")
            flags = ("--script", str(script))
        began = time.perf_counter()
        child = subprocess.Popen(
            command(model, *flags), stdout=access_log, stderr=subprocess.PIPE, env=environment
        )
        try:
            port = _await_line(child)
            listening = time.perf_counter()
            _ask_once(port)
            answering = time.perf_counter()
            yield Simulator(port, psutil.Process(child.pid), listening - began, answering - began)
        finally:
            child.terminate()
            child.wait(_TIMEOUT)


def _await_line(child: subprocess.Popen[bytes]) -> int:
    """Wait for the line that names the port; what comes behind it is read and dropped."""
    said = b""
    if child.stderr is None:
        raise RuntimeError("no pipe")
    for line in child.stderr:
        said += line
        found = _RUNNING.search(line)
        if found:
            threading.Thread(target=child.stderr.read, daemon=True).start()
            return int(found[1])
    raise RuntimeError(f"the simulator ended:\n{said.decode()}")


def _ask_once(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), _TIMEOUT) as channel:
        channel.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = channel.recv(65536)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"no answer, but {answer!r}")


def chat(model: str, tokens: int, *, stream: bool) -> bytes:
    """Return a chat completion whose answer has `tokens` tokens."""
    messages = [{"role": "user", "content": _text(tokens)}]
    body: Mapping[str, object] = {
        "model": model,
        "messages": messages,
        "max_tokens": tokens,
        "stream": stream,
    }
    payload = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


def _text(tokens: int) -> str:
    """Return a text of at least as many tokens, for any of the tokenizers here."""
    words = f"{_WORD} an engine that says what it was asked, word by word, for as long as needed. "
    return words * (tokens // 64 + 1)


@dataclass
class Counted:
    """What a client got.

    Parameters
    ----------
    requests
        Answers, all of them with status 200.
    events
        Events of streams, without the last ones, which say that the stream is at its end.
    seconds
        How long it took.
    cpu
        Seconds of CPU time that the client took.
    """

    requests: int = 0
    events: int = 0
    seconds: float = 0.0
    cpu: float = 0.0


class _Connection:
    """A connection that is kept open, and the answer that comes over it."""

    def __init__(self, port: int, *, stream: bool) -> None:
        self.channel = socket.create_connection(("127.0.0.1", port))
        self.channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = stream
        self._tail = b""
        self._missing = 0

    def ask(self, request: bytes) -> None:
        self._tail = b""
        self._missing = -1
        self.channel.sendall(request)

    def read(self) -> tuple[int, bool]:
        """Read what is there; return the number of events in it, and whether it was the last."""
        data = self.channel.recv(262144)
        if not data:
            raise RuntimeError("the server closed a connection")
        if self._missing < 0:
            # A head comes in one piece, as all small things do that are written at once.
            head, _, data = data.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"no answer, but {head!r}")
            self._missing = 0 if self._stream else _content_length(head)
        if not self._stream:
            self._missing -= len(data)
            return 0, self._missing == 0
        # What may be cut in two is looked for with the end of what came before.
        known = self._tail.count(b"data: {")
        events = (self._tail + data).count(b"data: {") - known
        self._tail = (self._tail + data)[-12:]
        return events, self._tail.endswith(b"\r\n0\r\n\r\n")


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise RuntimeError("an answer without a length")


def load(port: int, request: bytes, connections: int, requests: int, *, stream: bool) -> Counted:
    """Send a request over and over; each connection has one on its way at a time.

    Parameters
    ----------
    port
        Where the server listens.
    request
        What is sent.
    connections
        How many are open at a time.
    requests
        How many requests are sent, over all connections together.
    stream
        Whether the answers are streams.
    """
    counted = Counted()
    opened = [_Connection(port, stream=stream) for _ in range(min(connections, requests))]
    with selectors.DefaultSelector() as selector:
        for connection in opened:
            selector.register(connection.channel, select.EPOLLIN, connection)
        left = requests - len(opened)
        began, cpu = time.perf_counter(), time.process_time()
        for connection in opened:
            connection.ask(request)
        while counted.requests < requests:
            for key, _ in selector.select(_TIMEOUT):
                events, ended = key.data.read()
                counted.events += events
                if ended:
                    counted.requests += 1
                    if left > 0:
                        left -= 1
                        key.data.ask(request)
        counted.seconds = time.perf_counter() - began
        counted.cpu = time.process_time() - cpu
    for connection in opened:
        connection.channel.close()
    return counted
