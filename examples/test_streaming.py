"""A streaming test: the answer comes in pieces, as server-sent events."""

import json

import requests

from pytest_mlc_server import PopenServer


def test_streaming(mlc_server: PopenServer) -> None:
    body = {
        "model": mlc_server.model,
        "messages": [{"role": "user", "content": "Count to three."}],
        "max_tokens": 64,
        "stream": True,
    }
    url = f"{mlc_server.openai_v1_base_url}/chat/completions"
    with requests.post(url, json=body, stream=True, timeout=60) as response:
        response.raise_for_status()
        events = [line.removeprefix(b"data: ") for line in response.iter_lines() if line]
    assert events[-1] == b"[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
