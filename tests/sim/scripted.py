"""A simulator that can be told what to do, and a door of it for each test."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest
import requests
from requests import Response

from tests.sim.simulator import DEADLINE_S, Simulator

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

TOKEN = "a-token-for-tests"

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

Reply = dict[str, object]


def start(*flags: str, token: str = TOKEN, cwd: Path | None = None) -> Simulator:
    """Start a simulator that has a token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_MLC_SIM_TOKEN", token)
        return Simulator(*flags, cwd=cwd)


def start_script(tmp_path: Path, script: str, *flags: str, token: str = "") -> Simulator:
    """Start a simulator with a script file."""
    path = tmp_path / "replies.toml"
    path.write_text(script, encoding="utf-8")
    return start("--script", str(path), *flags, token=token)


def conversation(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def content(answer: requests.Response) -> str:
    """Return the text of the first choice."""
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    assert isinstance(text, str)
    return text


def events(body: str) -> list[Any]:
    """Return the events of a whole stream, without the last one."""
    *found, end, rest = body.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in found]


def streamed(answer: requests.Response) -> str:
    """Return the text of a stream of a chat."""
    assert answer.status_code == 200, answer.text
    said = [event["choices"][0]["delta"]["content"] for event in events(answer.text)]
    return "".join(said)


class TestDoor:
    """A door of a simulator, and the simulator's own port to control it by."""

    __test__ = False

    def __init__(self, sim: Simulator, port: int) -> None:
        self.sim = sim
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def control(
        self, method: str, path: str, body: object = None, *, token: str = TOKEN, **how: Any
    ) -> Response:
        headers = {"X-MLC-Sim-Token": token, "X-MLC-Sim-Door": str(self.port)}
        url = f"{self.sim.base_url}/sim{path}"
        return self.sim.http.request(
            method, url, json=body, headers=headers, timeout=DEADLINE_S, **how
        )

    def tell(self, method: str, path: str, body: object = None) -> Any:
        """Send a control request that has to succeed, return what it answers."""
        answer = self.control(method, path, body)
        assert answer.status_code in (200, 204), answer.text
        return answer.json() if answer.content else None

    def rule(self, reply: Reply | None = None, **more: Any) -> str:
        rule = {**({"reply": reply} if reply is not None else {}), **more}
        identity = self.tell("POST", "/rules", rule)["id"]
        assert isinstance(identity, str)
        return identity

    def fault(self, **fault: Any) -> None:
        self.tell("POST", "/faults", fault)

    @property
    def requests(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.tell("GET", "/requests")["requests"]
        return found

    def post(self, path: str, body: object, **how: Any) -> Response:
        # A connection of its own for each request: what happens to one must not reach the next.
        return requests.post(self.url + path, json=body, timeout=DEADLINE_S, **how)

    def chat(self, text: str = "Hello", **more: Any) -> Response:
        return self.post(CHAT, conversation(text, **more))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def send_chat(self, text: str = "Hello", **more: Any) -> socket.socket:
        """Send a request over a socket of its own."""
        channel = self.connect()
        body = json.dumps(conversation(text, **more)).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        head += "Content-Type: application/json\r\n"
        channel.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return channel


def open_door(sim: Simulator) -> TestDoor:
    """Open a door."""
    answer = sim.http.post(
        f"{sim.base_url}/sim/doors", headers={"X-MLC-Sim-Token": TOKEN}, timeout=DEADLINE_S
    )
    assert answer.status_code == 200, answer.text
    return TestDoor(sim, answer.json()["port"])


def read_all(channel: socket.socket) -> bytes:
    """Read to the end of a connection; raises ConnectionResetError where it is reset."""
    received = b""
    while chunk := channel.recv(65536):
        received += chunk
    return received
