"""A server that is there already: asked whether it answers, and for no token."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pytest_mlc_server import ServerConfig
from pytest_mlc_server.doctor import remote
from pytest_mlc_server.doctor.case import Case
from pytest_mlc_server.doctor.programs import Check
from tests.support_doctor import Doctor, facts, only


class There(ThreadingHTTPServer):
    """Answers as it is told, and notes what it was asked."""

    status, body = 200, json.dumps({"data": [{"id": "the-model"}]})

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"--mlc-url=http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: There

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path} {self.headers['Authorization']}")
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def there() -> Iterator[There]:
    """A server."""
    with There() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_it_lists_its_model(doctor: Doctor, there: There) -> None:
    diagnosis = doctor(there.url, "--mlc-api-key=hunter2hunter2")
    text = only(diagnosis, "url.answers").text
    assert text.endswith("lists the model 'the-model'; the key is accepted")
    assert diagnosis.healthy
    assert there.asked == ["GET /v1/models Bearer hunter2hunter2"]
    assert facts(diagnosis, "url")["model"] == "the-model"
    assert [section.name for section in diagnosis.servers[0].sections] == ["url"]


@pytest.mark.parametrize(
    ("status", "body", "said", "remedy"),
    [
        (401, "", "answers 401", "set its key with --mlc-api-key"),
        (500, "oops", "answers 500: oops", "start it, or look at the URL"),
        (200, "<html>", "answers no JSON", "start it, or look at the URL"),
        (200, '{"data": []}', "lists no models", "start it, or look at the URL"),
        (200, '{"data": [{"id": "x"}]}', "has x", "leave the model out"),
    ],
)
def test_it_does_not_answer_as_it_should(
    doctor: Doctor, there: There, status: int, body: str, said: str, remedy: str
) -> None:
    there.status, there.body = status, body
    finding = only(doctor(there.url, "--mlc-model=wanted"), "url.fails")
    assert said in finding.text
    assert finding.remedy.startswith(remedy)


def test_nobody_listens(doctor: Doctor, there: There) -> None:
    port = there.server_port
    there.shutdown()  # the kernel keeps it open while a thread still waits for somebody
    there.server_close()
    finding = only(doctor(f"--mlc-url=http://me:passw0rd@127.0.0.1:{port}"), "url.fails")
    assert finding.text.endswith("GET /v1/models: Connection refused")
    assert "passw0rd" not in f"{finding}"


def test_one_that_never_answers_is_not_waited_for() -> None:
    never = threading.Event()
    config = ServerConfig(url="http://127.0.0.1:9")
    section = remote.section(Case(config), Check(lambda: str(never.wait()), 0.01))
    assert section.findings[0].code == "url.fails"
    assert "within the time limit" in section.findings[0].text
    never.set()
