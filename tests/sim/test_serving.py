"""The simulator as stand-in for a real engine, over HTTP."""

from __future__ import annotations

import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.sim.simulator import DEADLINE_S, MODEL_DIRECTORY, Simulator, SimulatorPool

HELLO = [{"role": "user", "content": "Hello!"}]


def complete(simulator: Simulator, prompt: Any = "What is it?", **fields: Any) -> Any:
    response = simulator.post("/v1/completions", {"prompt": prompt, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def streamed(simulator: Simulator, path: str, **body: Any) -> list[Any]:
    response = simulator.post(path, {**body, "stream": True})
    response.encoding = "utf-8"
    *events, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def metrics(simulator: Simulator) -> dict[str, float]:
    lines = simulator.get("/metrics").text.splitlines()
    return {n: float(v) for n, _, v in (line.partition("\t") for line in lines) if v}


def test_listed_model_is_the_argument(sim: Simulator) -> None:
    assert [model["id"] for model in sim.get("/v1/models").json()["data"]] == ["sim-model"]


def test_tokens_are_counted_as_by_a_real_engine(sim: Simulator) -> None:
    reply = sim.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 3}).json()
    assert reply["choices"][0]["message"]["content"] == "<|im_start|>sy"
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 3


def test_no_limit_says_all(sim: Simulator) -> None:
    choice = complete(sim, "ü 漢 🎉")["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("ü 漢 🎉", "stop")


@pytest.mark.parametrize(("stop", "text"), [("is", "What"), (["xx", "t i", "i"], "W")])
def test_stop(sim: Simulator, stop: Any, text: str) -> None:
    choice = complete(sim, stop=stop)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text, "stop")


def test_choices_echo_and_suffix(sim: Simulator) -> None:
    reply = complete(sim, "ab", n=2, echo=True, suffix="!")
    assert [choice["text"] for choice in reply["choices"]] == ["abab!", "abab!"]


def test_stream_says_the_same(sim: Simulator) -> None:
    events = streamed(sim, "/v1/completions", prompt="ü🎉", stream_options={"include_usage": True})
    assert "".join(c["text"] for e in events for c in e["choices"]) == "ü🎉"
    assert [e["usage"] for e in events][:-1] == [None] * (len(events) - 1)
    # One for each byte, and the one with which a model ends.
    assert events[-1]["usage"]["completion_tokens"] == 7


def test_json(sim: Simulator) -> None:
    request = {"messages": HELLO, "response_format": {"type": "json_object"}}
    content = sim.post("/v1/chat/completions", request).json()["choices"][0]["message"]["content"]
    assert isinstance(json.loads(content), dict)
    cut = sim.post("/v1/chat/completions", {**request, "max_tokens": 2}).json()["choices"][0]
    assert cut["finish_reason"] == "length"
    assert content.startswith(cut["message"]["content"])


def test_context_window(simulators: SimulatorPool) -> None:
    small = simulators.get("--overrides", "context_window_size=32")
    response = small.post("/v1/completions", {"prompt": [70] * 33})
    message = "Request prompt has 33 tokens in total, larger than the model input length limit 32."
    assert response.status_code == 400
    assert json.loads(response.json()) == {"object": "error", "message": message, "code": 400}
    assert complete(small, [70] * 20)["usage"]["completion_tokens"] == 12


def test_metrics_add_up_and_are_reset(simulators: SimulatorPool) -> None:
    simulator = simulators.get("--enable-debug")
    reset = {"model": "any"}
    assert simulator.post("/debug/reset_engine", reset).json() is None
    used = [complete(simulator, text)["usage"] for text in ("one", "two more")]
    counted = metrics(simulator)
    assert counted["prompt_tokens_sum"] == sum(usage["prompt_tokens"] for usage in used)
    assert counted["completion_tokens_sum"] == sum(usage["completion_tokens"] for usage in used)
    assert used[-1]["extra"]["ttft_s"] > 0
    simulator.post("/debug/reset_engine", reset)
    assert metrics(simulator)["prompt_tokens_sum"] == 0


def test_own_model_directory() -> None:
    with Simulator(model=str(MODEL_DIRECTORY)) as simulator:
        assert complete(simulator, "the 漢")["choices"][0]["text"] == "the 漢"


def test_concurrent_streams_do_not_mix(sim: Simulator) -> None:
    prompts = [f"{number} " * 50 for number in range(8)]

    def ask(prompt: str) -> str:
        events = streamed(sim, "/v1/completions", prompt=prompt)
        return "".join(choice["text"] for event in events for choice in event["choices"])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, prompts)) == prompts


def test_noise_and_dropped_clients_do_no_harm(simulators: SimulatorPool) -> None:
    simulator = simulators.get("--model-lib", "mock://echo")
    body = json.dumps({"prompt": "hello " * 5000, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    stream = head.encode() + b"Content-Type: application/json\r\n\r\n" + body
    chance = random.Random(22)
    for sent in [stream, *(chance.randbytes(500) for _ in range(20)), stream]:
        with socket.create_connection(("127.0.0.1", simulator.port), DEADLINE_S) as client:
            client.sendall(sent)
            if sent is stream:
                assert client.recv(1) == b"H"
    assert complete(simulator, "still here")["choices"][0]["text"] == "still here"
    assert not [line for line in simulator.stderr if "Traceback" in line]


def test_openai_client(sim: Simulator) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{sim.base_url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model="sim-model", messages=HELLO, max_tokens=4, stream=True
        )
        text = "".join(chunk.choices[0].delta.content for chunk in stream)
    assert text == "<|im_start|>syst"
