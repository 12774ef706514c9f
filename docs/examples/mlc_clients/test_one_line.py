from pathlib import Path

import pytest

from pytest_mlc_server import PopenServer, RequestError


def test_chat(mlc_server: PopenServer) -> None:
    answer = mlc_server.chat("How is the weather in Oslo?", max_tokens=8)
    assert "Oslo" in mlc_server.complete("Oslo")  # an answer is a text ...
    assert answer.finish_reason == "length"  # ... that knows more
    assert answer.usage["completion_tokens"] == 8
    assert answer.body["object"] == "chat.completion"


def test_stream(mlc_server: PopenServer) -> None:
    for piece in mlc_server.stream_chat("Tell me a story."):
        assert piece
        break  # closes the connection: the server stops generating


def test_prefix_cache(mlc_server: PopenServer) -> None:
    mlc_server.reset()  # the state of the engine, its counters included
    mlc_server.chat("How is the weather in Oslo?", max_tokens=1)
    counted = mlc_server.metrics()
    assert counted.prefill_tokens == counted.prompt_tokens
    assert counted["completion_tokens_sum"] == 1


def test_trace(mlc_server: PopenServer, tmp_path: Path) -> None:
    mlc_server.chat("Hello", max_tokens=3)
    mlc_server.dump_trace(tmp_path / "trace.json")  # open it at https://ui.perfetto.dev


def test_error(mlc_server: PopenServer) -> None:
    with pytest.raises(RequestError, match="valid integer") as failed:
        mlc_server.chat("Hello", max_tokens="many")
    assert failed.value.status == 422
