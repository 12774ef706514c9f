"""The server that is measured: a program of its own, which notes when it does what.

On the standard library's `socket` alone, so that its own work does not hide that of who waits for
it. `program()` makes it executable; it understands the command line of ``mlc_llm serve``, as far as
it matters here, and takes its orders from the environment:

``CHILD_DELAY``
    Seconds from its start until it listens.
``CHILD_MEMORY``
    Memory that it fills while it starts, in MiB.
``CHILD_DIES``
    Exit code with which it ends after that delay instead.
``CHILD_HOST``
    Address at which it listens, instead of that of the loopback interface.
``CHILD_NOTES``
    Directory of its notes: `began`, its first act, `ready`, when it listens and can answer, and
    `end`, its last act. Each is the reading of the monotonic clock, which all processes of a
    machine share, those in containers too. `starts.txt` has a letter for each server.
"""

import json
import os
import signal
import socket
import sys
import time

READY_LINE = "child: ready"


def program(directory: str) -> str:
    """Write this file as an executable whose interpreter starts fast, and return its path."""
    path = os.path.join(directory, "child")
    with open(__file__, encoding="utf-8") as source, open(path, "w", encoding="utf-8") as target:
        target.write(f"#!{sys.executable} -IS\n{source.read()}")
    os.chmod(path, 0o755)
    return path


def _note(name: str) -> None:
    now = time.monotonic()
    path = os.path.join(os.environ["CHILD_NOTES"], name)
    with open(f"{path}.{os.getpid()}", "w", encoding="ascii") as file:
        file.write(repr(now))
    os.replace(f"{path}.{os.getpid()}", path)


def _leave(code: int) -> None:
    _note("end")
    os._exit(code)


def _answer(client: socket.socket, model: str) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = client.recv(65536)
        if not chunk:
            return  # it only tried whether the port is open
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        body += client.recv(65536)
    if head.startswith(b"POST"):
        answer: object = {"choices": [{"text": "x"}], "usage": {"completion_tokens": 1}}
    else:
        answer = {"object": "list", "data": [{"id": model}]}
    payload = json.dumps(answer).encode()
    client.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n" % len(payload)
    )
    if not head.startswith(b"HEAD"):
        client.sendall(payload)


def main() -> None:
    _note("began")
    with open(os.path.join(os.environ["CHILD_NOTES"], "starts.txt"), "a", encoding="ascii") as file:
        file.write("x")
    arguments = sys.argv
    model = arguments[arguments.index("serve") + 1]
    port = int(arguments[arguments.index("--port") + 1])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _leave(0))
    # Written, and kept: pages that nobody has written take no memory.
    memory = b"x" * (int(os.environ.get("CHILD_MEMORY", "0")) << 20)
    time.sleep(float(os.environ.get("CHILD_DELAY", "0")))
    if "CHILD_DIES" in os.environ:
        _leave(int(os.environ["CHILD_DIES"]))
    host = os.environ.get("CHILD_HOST", "127.0.0.1")
    with socket.create_server((host, port), backlog=128) as server:
        _note("ready")
        print(READY_LINE, flush=True)
        while memory is not None:
            client, _ = server.accept()
            with client:
                try:
                    _answer(client, model)
                except OSError:
                    continue  # it did not wait for the answer


if __name__ == "__main__":
    main()
