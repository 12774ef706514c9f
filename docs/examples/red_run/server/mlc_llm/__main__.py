"""Stands in for ``mlc_llm serve``: it echoes, and its engine dies of what the real one dies of.

A schema that is not JSON ends the thread in which the real server's engine runs. The process lives
on, `GET /v1/models` still answers, and no request is ever completed again.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: What the real server's log says at that moment.
DEATH = """\
Exception in thread Thread-1:
Traceback (most recent call last):
  File "python/tvm_ffi/cython/function.pxi", line 988, in tvm_ffi.core.Function.__call__
tvm.error.InternalError: Check failed: (err.empty()) is false: Failed to parse JSON: \
syntax error at line 1. The JSON string is:{}
"""

MODEL = sys.argv[2]
PORT = int(sys.argv[sys.argv.index("--port") + 1])
WORK: queue.SimpleQueue[tuple[dict[str, Any], queue.SimpleQueue[str]]] = queue.SimpleQueue()


def engine() -> None:
    while True:
        body, answer = WORK.get()
        schema = body.get("response_format", {}).get("schema")
        try:
            json.loads(schema or "{}")
        except ValueError:
            print(DEATH.format(schema), file=sys.stderr, flush=True)
            return
        messages = body.get("messages")
        answer.put(messages[-1]["content"] if messages else body["prompt"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.reply({"data": [{"id": MODEL}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer: queue.SimpleQueue[str] = queue.SimpleQueue()
        WORK.put((body, answer))
        text = answer.get()
        choice = {"text": text, "message": {"role": "assistant", "content": text}}
        self.reply({"choices": [choice]})

    def reply(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        print(f'INFO:     {self.client_address[0]} - "{self.requestline}" 200 OK', flush=True)


threading.Thread(target=engine, name="Thread-1", daemon=True).start()
server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
server.daemon_threads = True
print(f"INFO:     Uvicorn running on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
