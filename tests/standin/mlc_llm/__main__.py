"""``python -m mlc_llm serve MODEL --host H --port P …`` on the standard library alone.

It behaves as ``STANDIN`` in its environment says: words separated by spaces, each ``name`` or
``name=value``. See the functions below for what there is.
"""

# ruff: noqa: A002, ARG002, C901, E501 - a script of many small orders, and one long list of them

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ORDERS = dict(word.partition("=")[::2] for word in os.environ.get("STANDIN", "").split())
ARGS = sys.argv[2:]
MODEL = ARGS[0] if ARGS else ""


def argument(flag, default=None):
    for word in ARGS:
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return ARGS[ARGS.index(flag) + 1] if flag in ARGS else default


def say(text):
    print(text, file=sys.stderr, flush=True)


def write(name, text):
    """Leave a fact for the test, whole or not at all."""
    with open(f"{name}.part", "w") as file:
        file.write(text)
    os.replace(f"{name}.part", name)


def note(file, text):
    """Add a line to a file of facts."""
    with open(file, "a") as facts:
        facts.write(f"{text}\n")


#: The prompt that has hurt the engine: "wedge", "wedge-silently", "wedge-with-metrics" (silent for
#: ever), "busy" or "busy-by-log" (silent, and working).
ENGINE = {"state": "", "steps": 0}

#: An event for each POST: what a trace has.
TRACE = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def note_request(self):
        if "requests" in ORDERS:
            agent = self.headers.get("User-Agent", "-").partition("/")[0]
            note(ORDERS["requests"], f"{self.command} {self.path} {agent}")

    def metrics(self):
        if ENGINE["state"] == "wedge-with-metrics":  # those of a dead engine hang, too
            threading.Event().wait()
        if ENGINE["state"] == "busy":
            ENGINE["steps"] += 1
        self.reply(200, f"steps\t{ENGINE['steps']}\n".encode(), "text/plain")

    def hurt(self, prompt):
        """Wedge the engine or keep it busy, as the prompt says; whoever asks waits for ever."""
        ENGINE["state"] = prompt
        if prompt == "wedge":
            engine_dies()
        while prompt == "busy-by-log":
            say("[12:00:00] stand-in: another step")
            time.sleep(0.02)
        threading.Event().wait()

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
        self.note_request()
        if self.path == "/metrics":
            self.metrics()
            return
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
        data = [] if "no-models" in ORDERS else [{"id": name, "object": "model"}]
        self.reply(200, {"object": "list", "data": data})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        prompt = str(body.get("prompt"))
        if prompt.startswith(("wedge", "busy")):
            ENGINE["state"] = prompt  # before the note that a test waits for
        self.note_request()
        if self.path == "/debug/reset_engine":
            self.reply(int(ORDERS.get("reset-status", 200)), None)
            return
        if self.path.startswith("/debug/dump_event_trace"):
            status = int(ORDERS.get("trace-status", 200 if "--enable-tracing" in ARGS else 400))
            self.reply(status, TRACE if status == 200 else {"detail": "no trace"})
            return
        TRACE.append({"name": "receive request (0)", "ph": "i", "ts": time.time_ns() // 1000})
        TRACE[-1] |= {"pid": 1, "tid": f"cmpl-{len(TRACE)}"}
        if not self.allowed():
            return
        if prompt.startswith(("wedge", "busy")):
            self.hurt(prompt)
        if ENGINE["state"]:
            threading.Event().wait()
        if "wedged" in ORDERS:
            threading.Event().wait()
        if "generate-status" in ORDERS:
            self.reply(int(ORDERS["generate-status"]), {"detail": "as ordered"})
            return
        if body.get("prompt") == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
            threading.Event().wait()  # another thread may be the one that takes the signal
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
    while not os.path.exists(ORDERS["daemon"]):  # a test reads it as soon as this one is ready
        time.sleep(0.005)


def respawn():
    """Start a supervisor that replaces its worker whenever that is killed, and ignores signals."""
    code = (
        "import os, signal, sys\n"
        "for n in (signal.SIGINT, signal.SIGTERM): signal.signal(n, signal.SIG_IGN)\n"
        "while True:\n"
        "    worker = os.fork()\n"
        "    if not worker:\n"
        "        with open(sys.argv[1], 'a') as file: file.write(f'{os.getppid()} {os.getpid()}\\n')\n"
        "        while True: signal.pause()\n"
        "    os.waitpid(worker, 0)\n"
    )
    subprocess.Popen([sys.executable, "-c", code, ORDERS["respawn"]])
    while not (os.path.exists(ORDERS["respawn"]) and os.path.getsize(ORDERS["respawn"])):
        time.sleep(0.005)


def record(path):
    """Leave the names of the signals that arrive, one a line, and obey none of them."""

    def note(number, _):
        with open(path, "a") as file:
            file.write(f"{signal.Signals(number).name}\n")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, note)


def print_log(path):
    """Print a recorded log; a line ``@await FILE`` in it waits for that file."""
    with open(path, "rb") as log:
        for line in log:
            if line.startswith(b"@await "):
                while not os.path.exists(line.split(b" ", 1)[1].strip()):
                    time.sleep(0.005)
            elif line.startswith(b"@repeat "):
                # The rest of the line again and again, for ever or until such a file is there.
                until, text = line[8:].split(b" ", 1)
                while not os.path.exists(until):
                    os.write(2, text)
                    time.sleep(0.02)
            else:
                os.write(2, line)


def engine_dies():
    """Print what Python prints when a thread dies, and go on without it, as the real server."""

    def work():
        raise RuntimeError("Cannot open params_shard_0.bin\n1. first advice\n2. second advice")

    thread = threading.Thread(target=work, name="Thread-1")
    thread.start()
    thread.join()


def build():
    """Download and compile what is missing, with upstream's words; leave facts of what is made.

    ``builds=FACTS`` names the file of facts; ``build-gate=FILE`` is waited for while something is
    made; ``build-fails`` says what fails.
    """
    home = os.environ["MLC_LLM_HOME"]
    directory = MODEL
    if MODEL.startswith("HF://"):
        say(
            f"[2026-01-01 00:00:00] INFO download_cache.py:227: Downloading model from HuggingFace: {MODEL}"
        )
        directory = os.path.join(home, "model_weights", "hf", MODEL.removeprefix("HF://"))
        if os.path.isdir(directory):
            say(
                f"[2026-01-01 00:00:00] INFO download_cache.py:166: Weights already downloaded: \033[1m{directory}\033[0m"
            )
        else:
            with made("download"):
                os.makedirs(directory)
                with open(os.path.join(directory, "mlc-chat-config.json"), "w") as file:
                    file.write("{}")
            say(
                f"[2026-01-01 00:00:00] INFO download_cache.py:219: Moving /tmp/x/tmp to \033[1m{directory}\033[0m"
            )
    if argument("--model-lib"):
        say(
            f"[2026-01-01 00:00:00] INFO engine_base.py:149: Using library model: {argument('--model-lib')}"
        )
        return
    key = hashlib.md5(repr((directory, argument("--overrides"), argument("--device"))).encode())
    library = os.path.join(home, "model_lib", f"{key.hexdigest()}.so")
    if os.path.exists(library) and os.environ.get("MLC_JIT_POLICY") != "REDO":
        say(
            f"[2026-01-01 00:00:00] INFO jit.py:160: Using cached model lib: \033[1m{library}\033[0m"
        )
    else:
        say("[2026-01-01 00:00:00] INFO jit.py:128: Compiling using commands below:")
        with made("compile"):
            os.makedirs(os.path.dirname(library), exist_ok=True)
            with open(library, "w") as file:
                file.write("library")
        say(
            f"[2026-01-01 00:00:00] INFO jit.py:136: Using compiled model lib: \033[1m{library}\033[0m"
        )
    say("[2026-01-01 00:00:00] INFO engine_base.py:189: The selected engine mode is local.")


@contextlib.contextmanager
def made(what):
    """Note when something that takes long begins and ends."""
    note(ORDERS["builds"], f"begin {what} {os.getpid()}")
    while "build-gate" in ORDERS and not os.path.exists(ORDERS["build-gate"]):
        time.sleep(0.005)
    if ORDERS.get("build-fails") == what:
        note(ORDERS["builds"], f"fail {what} {os.getpid()}")
        sys.exit(1)
    yield
    note(ORDERS["builds"], f"end {what} {os.getpid()}")


def starts():
    """Count the starts so far, this one included."""
    with open(ORDERS["started"]) as file:
        return len(file.readlines())


def main():
    if "started" in ORDERS:
        note(ORDERS["started"], os.getpid())
    say("stand-in: starting")
    if "say" in ORDERS:
        say(ORDERS["say"])
    if "stubborn" in ORDERS:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    if "deaf-to-sigint" in ORDERS:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "clean" in ORDERS:

        def leave(*_):
            write(ORDERS["clean"], "closed in order")
            os._exit(0)

        signal.signal(signal.SIGINT, leave)
    if "signals" in ORDERS:
        record(ORDERS["signals"])
    if "daemon" in ORDERS:
        daemon()
    if "respawn" in ORDERS:
        respawn()
    if "flood" in ORDERS:
        for _ in range(int(ORDERS["flood"])):
            say("x" * 1000)
    if "mute" in ORDERS:
        os.close(1)
        os.close(2)
        os.open(os.devnull, os.O_WRONLY)
        os.open(os.devnull, os.O_WRONLY)
    if "log" in ORDERS:
        print_log(ORDERS["log"])
    if "builds" in ORDERS:
        build()
    if "starts" in ORDERS and starts() > int(ORDERS["starts"]):
        say("stand-in: enough starts")
        sys.exit(3)
    if "exit" in ORDERS:
        say("stand-in: leaving as ordered")
        sys.exit(int(ORDERS["exit"]))
    if "die" in ORDERS:
        os.kill(os.getpid(), int(ORDERS["die"]))
    if "engine-dies" in ORDERS:
        engine_dies()
        threading.Event().wait()
    if "hang" in ORDERS:
        threading.Event().wait()
    if "delay" in ORDERS:
        time.sleep(float(ORDERS["delay"]))
    host, port = argument("--host", "127.0.0.1"), int(argument("--port", "8000"))
    if ":" in host:
        import socket

        ThreadingHTTPServer.address_family = socket.AF_INET6
    while "wait" in ORDERS and not os.path.exists(ORDERS["wait"]):
        time.sleep(0.005)
    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError:  # as uvicorn
        say(
            "ERROR:    [Errno 98] error while attempting to bind on address "
            f"('{host}', {port}): address already in use"
        )
        sys.exit(3)
    server.daemon_threads = True
    say(f"INFO:     Uvicorn running on http://{host}:{server.server_port} (Press CTRL+C to quit)")
    if "ready-at" in ORDERS:
        write(ORDERS["ready-at"], repr(time.time()))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # No exception for it: one that is raised in a callback of the interpreter is swallowed.
        signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    server.serve_forever(0.02)


main()
