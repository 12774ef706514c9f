"""The engine without a server around it: what it says, to how many, and what it counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from pytest_mlc_server.sim.engine import Delta, Step, Usage
from pytest_mlc_server.sim.generation import generation_config
from pytest_mlc_server.sim.model import load_model
from pytest_mlc_server.sim.protocol import CompletionRequest
from pytest_mlc_server.sim.sources import ECHO, Chunks, Random, Source, Text
from pytest_mlc_server.sim.standin import StandInEngine

MODEL = load_model("a name of no directory")
PROMPT = "What is it?"


class Pace:
    """A latency that is written down: the engine's own waits are asked for and last no time."""

    def __init__(self, wait: float = 0.0) -> None:
        self.asked: list[Any] = []
        self._wait = wait

    def first_token(self, prompt_tokens: int, running: int) -> float:
        self.asked.append((prompt_tokens, running))
        return self._wait

    def next_token(self, running: int) -> float:
        self.asked.append(running)
        return self._wait


def steps(
    source: Source = ECHO,
    engine: StandInEngine | None = None,
    request_id: str | None = None,
    latency: Pace | None = None,
    **fields: Any,
) -> AsyncGenerator[Step, None]:
    request = CompletionRequest(**{"prompt": PROMPT, **fields})
    prompt = request.prompt
    token_ids = MODEL.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    engine = engine or StandInEngine(MODEL)
    config = generation_config(request, MODEL)
    return engine.generate(token_ids, config, source, latency, request_id)


def run(source: Source = ECHO, **fields: Any) -> tuple[list[list[Delta]], Usage]:
    async def collect() -> list[Step]:
        return [step async for step in steps(source, **fields)]

    *said, usage = asyncio.run(collect())
    assert isinstance(usage, Usage)
    return [step for step in said if isinstance(step, list)], usage


def say(source: Source = ECHO, choice: int = 0, **fields: Any) -> tuple[str, str | None, int]:
    """Return the text of a choice, why it ended, and how many tokens were generated."""
    said, usage = run(source, **fields)
    reasons = [step[choice].finish_reason for step in said if step[choice].finish_reason]
    text = "".join(step[choice].text for step in said)
    (reason,) = reasons
    return text, reason, usage.completion_tokens


@pytest.mark.parametrize(
    ("source", "fields", "expected"),
    [
        (ECHO, {}, (PROMPT, "stop", 7)),
        (ECHO, {"max_tokens": 2}, ("What", "length", 2)),
        (ECHO, {"max_tokens": 0}, ("W", "length", 1)),
        (ECHO, {"max_tokens": 2**40}, ("W", "length", 1)),
        (ECHO, {"max_tokens": 2**32 + 2}, ("What", "length", 2)),
        (ECHO, {"max_tokens": -5}, (PROMPT, "stop", 7)),
        (ECHO, {"max_tokens": 6}, (PROMPT, "length", 6)),
        (ECHO, {"n": 3, "max_tokens": 2}, ("What", "length", 6)),
        (ECHO, {"n": 9}, (PROMPT, "stop", 63)),
        # A token in which a stop string begins is lost: the text ends before " is".
        (ECHO, {"stop": "s"}, ("What", "stop", 3)),
        (ECHO, {"stop": ["t?", "?", "W "]}, ("What is ", "stop", 6)),
        (ECHO, {"stop": ["not there", "hat is it"]}, ("W", "stop", 5)),
        (ECHO, {"stop": "it??"}, (PROMPT, "stop", 7)),
        (ECHO, {"stop": "it??", "max_tokens": 6}, (PROMPT, "length", 6)),
        (ECHO, {"prompt": "ü 漢 🎉"}, ("ü 漢 🎉", "stop", 12)),
        (ECHO, {"prompt": [200, 200, 5], "max_tokens": 3}, None),
        (Text("Sunny."), {}, ("Sunny.", "stop", 6)),
        (Text("a<|im_end|>b"), {}, ("a", "stop", 2)),
        (Text(""), {}, ("", "stop", 1)),
        (Chunks(("Sun", "", "ny ü")), {}, ("Sunny ü", "stop", 8)),
        (Chunks(("Sun", "ny")), {"max_tokens": 3}, ("Sunn", "length", 3)),
        (Chunks(("Sun", "ny")), {"stop": "nn"}, ("S", "stop", 3)),
    ],
)
def test_what_is_said(source: Source, fields: dict[str, Any], expected: Any) -> None:
    said = say(source, **fields)
    assert said == expected if expected else said[1:] == ("length", 3)


def test_a_chunk_is_a_step() -> None:
    said, _ = run(Chunks(("Sun", "ny")))
    assert [step[0].text for step in said] == ["Sun", "ny", ""]


def test_text_is_held_back_until_it_is_no_stop_string() -> None:
    said, _ = run(prompt="a it b", stop="it?")
    assert [step[0].text for step in said] == ["a", " ", "", "it b", ""]


def test_ignoring_the_end_goes_on_to_the_limit() -> None:
    debug = {"ignore_eos": True}
    assert say(max_tokens=20, debug_config=debug)[1:] == ("length", 20)
    text, reason, tokens = say(Chunks(("ab", "c")), max_tokens=7, stop="b", debug_config=debug)
    assert (text, reason, tokens) == ("abcabcabcab", "length", 7)


@pytest.mark.parametrize("limit", [1, 7, 300])
def test_random_text_has_the_length_asked_for(limit: int) -> None:
    text, reason, tokens = say(Random(3), max_tokens=limit)
    assert (reason, tokens) == ("length", limit)
    assert text.replace(" ", "a").isalpha()
    assert (text, reason, tokens) == say(Random(3), max_tokens=limit)


def test_random_text_follows_from_seed_prompt_and_choice() -> None:
    texts = {
        say(Random(1), max_tokens=20)[0],
        say(Random(2), max_tokens=20)[0],
        say(Random(1), max_tokens=20, seed=5)[0],
        say(Random(1), max_tokens=20, prompt="Another")[0],
        say(Random(1), max_tokens=20, n=2, choice=1)[0],
    }
    assert len(texts) == 5
    assert say(Random(1, tokens=5))[1:] == ("stop", 6)


def test_the_window_ends_a_reply() -> None:
    prompt = [70] * 2000
    assert say(Text("word " * 100), prompt=prompt)[1:] == ("length", 48)
    said, usage = run(prompt=[70] * 2048)
    assert (said, usage) == ([[Delta("", "length", tokens=0)]], Usage(0, 0, None))


def test_json_fits_the_schema_and_is_cut() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "minLength": 3}, "size": {"type": "integer"}},
        "required": ["name", "size"],
    }
    form = {"type": "json_object", "schema": json.dumps(schema)}
    for source in (ECHO, Random(1), Random(2)):
        text, reason, tokens = say(source, response_format=form)
        assert reason == "stop"
        jsonschema.validate(json.loads(text), schema)
        cut, reason, cut_tokens = say(source, response_format=form, max_tokens=tokens - 2)
        assert (reason, cut_tokens) == ("length", tokens - 2)
        assert text.startswith(cut)
        assert text != cut


def test_each_token_with_a_text_has_its_probability() -> None:
    said, _ = run(logprobs=2, max_tokens=2, temperature=0)
    (first, second) = [step[0].logprobs for step in said]
    assert first is not None
    (entry,) = first
    assert entry["token"] == "W"
    assert entry["logprob"] == 0.0
    assert entry["bytes"] == [87]
    assert [top["token"] for top in entry["top_logprobs"]] == ["W", "<unk>"]
    assert entry["top_logprobs"][1]["logprob"] == -23.0259
    assert second is not None
    likely, _ = run(logprobs=3, max_tokens=2, temperature=0.7)
    top = [token["logprob"] for token in (likely[0][0].logprobs or [])[0]["top_logprobs"]]
    assert top == sorted(top, reverse=True)
    assert 0 > top[0] > -1


def test_one_metric_for_each_request() -> None:
    engine = StandInEngine(MODEL)

    async def ask() -> None:
        for _ in range(3):
            assert [step async for step in steps(engine=engine, max_tokens=4)]

    asyncio.run(ask())
    counted = engine.metrics()
    assert (counted["prompt_tokens_sum"], counted["completion_tokens_sum"]) == (18, 12)
    assert counted["decode_tokens_sum"] == 9


def test_latency_is_asked_for_each_step() -> None:
    pace = Pace()
    run(latency=pace, max_tokens=3)
    assert pace.asked == [(6, 1), 1, 1]


def test_no_more_at_a_time_than_there_are_places() -> None:
    model = replace(MODEL, limits=replace(MODEL.limits, max_num_sequence=2))
    engine = StandInEngine(model)

    async def ask() -> tuple[list[int], list[int]]:
        requests = [steps(engine=engine, max_tokens=2) for _ in range(5)]
        waiting = [asyncio.ensure_future(anext(request)) for request in requests]
        await asyncio.gather(*waiting[:2])
        running = [engine.scheduler.running, engine.scheduler.waiting]
        # One that waits goes away, and then one that runs: the next in the queue begins.
        waiting[2].cancel()
        await requests[0].aclose()
        await waiting[3]
        assert not waiting[4].done()
        await requests[1].aclose()
        await waiting[4]
        for request in requests[3:]:
            await request.aclose()
        return running, [engine.scheduler.running, engine.scheduler.waiting]

    assert asyncio.run(asyncio.wait_for(ask(), 60)) == ([2, 3], [0, 0])


@pytest.mark.parametrize("imitate", [frozenset[str](), frozenset({"wedge"})])
def test_two_requests_with_one_id(
    imitate: frozenset[str], capsys: pytest.CaptureFixture[str]
) -> None:
    engine = StandInEngine(MODEL, imitate)

    async def ask() -> list[Step] | None:
        first = steps(engine=engine, request_id="twin")
        await anext(first)
        with pytest.raises(RuntimeError, match=r'The request id "twin already exists\.'):
            await anext(steps(engine=engine, request_id="twin"))
        rest = asyncio.ensure_future(_all(first))
        for _ in range(100):
            await asyncio.sleep(0)
        if not rest.done():
            rest.cancel()
            await asyncio.gather(rest, return_exceptions=True)
            return None
        return rest.result()

    answered = asyncio.run(asyncio.wait_for(ask(), 60))
    assert (answered is None) == bool(imitate)
    log = capsys.readouterr().err
    assert "ERROR engine.py:1382: Exception in _generate for request twin: The request" in log
    assert "INFO engine.py:1371: request twin cancelled\n" in log


async def _all(iterator: AsyncIterator[Step]) -> list[Step]:
    return [step async for step in iterator]


def test_a_dead_engine_says_nothing_more() -> None:
    engine = StandInEngine(MODEL)

    async def ask() -> bool:
        running = steps(engine=engine)
        await anext(running)
        engine.wedge()
        waiting = [asyncio.ensure_future(anext(one)) for one in (running, steps(engine=engine))]
        for _ in range(100):
            await asyncio.sleep(0)
        answered = any(future.done() for future in waiting)
        for future in waiting:
            future.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return answered

    assert not asyncio.run(ask())
