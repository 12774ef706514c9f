"""``python -m mlc_llm serve MODEL --host H --port P …`` on the standard library alone.

It behaves as ``STANDIN`` in its environment says: words separated by spaces, each ``name`` or
``name=value``. See the functions below for what there is.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ORDERS = dict(
    word.partition("=")[::2] for word in os.environ.get("STANDIN", "").split()
)
ARGS = sys.argv[2:]
MODEL = ARGS[0] if ARGS else ""


def argument(flag, default=None):
    return ARGS[ARGS.index(flag) + 1] if flag in ARGS else default


def say(text):
    print(text, file=sys.stderr, flush=True)


def write(name, text):
    """Leave a fact for the test, whole or not at all."""
    with open(f"{name}.part", "w") as file:
        file.write(text)
    os.replace(f"{name}.part", name)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status, body, kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def allowed(self):
        key = argument("--api-key")
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self.reply(401, {"detail": "Invalid API Key"})
        return False

    def do_GET(self):
        if not self.allowed():
            return
        if "silent" in ORDERS:
            threading.Event().wait()
        if "models-status" in ORDERS:
            self.reply(int(ORDERS["models-status"]), {"detail": "as ordered"})
            return
        if "not-json" in ORDERS:
            self.reply(200, b"<html>hello</html>", "text/html")
            return
        name = ORDERS.get("lists", MODEL)
        self.reply(200, {"object": "list", "data": [{"id": name, "object": "model"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if not self.allowed():
            return
        if "wedged" in ORDERS:
            threading.Event().wait()
        if "generate-status" in ORDERS:
            self.reply(int(ORDERS["generate-status"]), {"detail": "as ordered"})
            return
        if body.get("prompt") == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if body.get("prompt") == "exit":
            os._exit(0)
        if body.get("prompt") == "environment":
            self.reply(200, {"environment": dict(os.environ), "argv": sys.argv, "cwd": os.getcwd()})
            return
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        self.reply(200, {"choices": [{"text": "x", "finish_reason": "length"}], "usage": usage})

    def log_message(self, format, *args):
        print(f'INFO:     {self.client_address[0]} - "{self.requestline}"', flush=True)


def daemon():
    """Start a grandchild that leaves the session, ignores signals and (`scrub`) the environment."""
    code = (
        "import os, signal, sys, threading\n"
        "for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(n, signal.SIG_IGN)\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "open(sys.argv[1] + '.part', 'w').write(str(os.getpid()))\n"
        "os.replace(sys.argv[1] + '.part', sys.argv[1])\n"
        "while True: signal.pause()\n"
    )
    env = {} if "scrub" in ORDERS else None
    subprocess.run([sys.executable, "-c", code, ORDERS["daemon"]], env=env, check=True)


def die_as_an_engine_does():
    """Print what Python prints when a thread dies, and go on without it, as the real server."""

    def work():
        raise RuntimeError("Cannot open params_shard_0.bin\n1. first advice\n2. second advice")

    thread = threading.Thread(target=work, name="Thread-1")
    thread.start()
    thread.join()
    threading.Event().wait()


def main():
    if "started" in ORDERS:
        with open(ORDERS["started"], "a") as file:
            file.write(f"{os.getpid()}\n")
    say("stand-in: starting")
    if "say" in ORDERS:
        say(ORDERS["say"])
    if "stubborn" in ORDERS:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    if "clean" in ORDERS:

        def leave(*_):
            write(ORDERS["clean"], "closed in order")
            os._exit(0)

        signal.signal(signal.SIGINT, leave)
    if "daemon" in ORDERS:
        daemon()
    if "flood" in ORDERS:
        for _ in range(int(ORDERS["flood"])):
            say("x" * 1000)
    if "mute" in ORDERS:
        os.close(1)
        os.close(2)
        os.open(os.devnull, os.O_WRONLY)
        os.open(os.devnull, os.O_WRONLY)
    if "exit" in ORDERS:
        say("stand-in: leaving as ordered")
        sys.exit(int(ORDERS["exit"]))
    if "die" in ORDERS:
        os.kill(os.getpid(), int(ORDERS["die"]))
    if "engine-dies" in ORDERS:
        die_as_an_engine_does()
    if "hang" in ORDERS:
        threading.Event().wait()
    if "delay" in ORDERS:
        time.sleep(float(ORDERS["delay"]))
    host, port = argument("--host", "127.0.0.1"), int(argument("--port", "8000"))
    if ":" in host:
        import socket

        ThreadingHTTPServer.address_family = socket.AF_INET6
    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    say(f"INFO:     Uvicorn running on http://{host}:{server.server_port} (Press CTRL+C to quit)")
    if "ready-at" in ORDERS:
        write(ORDERS["ready-at"], repr(time.time()))
    try:
        server.serve_forever(0.02)
    except KeyboardInterrupt:
        sys.exit(0)


main()
