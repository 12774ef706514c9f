"""What ``/metrics`` says, as the real server says it and as others might."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_mlc_server import metrics

RECORDINGS = Path(__file__).parent / "contract" / "recordings"


def recorded(name: str) -> metrics.Metrics:
    exchange = json.loads((RECORDINGS / f"{name}.json").read_text(encoding="utf-8"))
    return metrics.parse(exchange["response"]["body"])


def test_before_the_first_request() -> None:
    found = recorded("mlc/001-metrics-before-any-request")
    assert len(found) == 16
    assert (found.prompt_tokens, found.completion_tokens) == (0, 0)
    assert (found.prefill_s, found.decode_s, found.last_ttft_s) == (0.0, 0.0, 0.0)
    assert (found.prefill_tokens_per_s, found.decode_tokens_per_s) == (None, None)


def test_after_decodes_whose_labels_have_no_quotes() -> None:
    found = recorded("mlc/053-metrics-after-requests")
    assert len(found) == 23
    assert {name: getattr(found, name) for name in dir(metrics.Metrics) if _is_property(name)} == {
        "prompt_tokens": 824,
        "completion_tokens": 655,
        "prefill_tokens": 245,
        "decode_tokens": 606,
        "prefill_s": 0.04408846499999999,
        "decode_s": 0.22826128200000012,
        "prefill_tokens_per_s": 5557.009072554466,
        "decode_tokens_per_s": 2654.852345918217,
        "last_prompt_tokens": 1,
        "last_completion_tokens": 1,
        "last_ttft_s": 0.0006076440000000001,
        "last_latency_s": 0.000659851,
    }
    assert found["decode_time_by_batch_size_count{batch_size=1}"] == 575
    assert found["decode_time_by_batch_size_mean{batch_size=2}"] == 0.0004806039999999999


def _is_property(name: str) -> bool:
    return isinstance(getattr(metrics.Metrics, name), property)


@pytest.mark.parametrize("name", ["mlc/109-metrics-end", "mlc/125-dbg-metrics-after-reset"])
def test_every_number_of_a_recording_is_found(name: str) -> None:
    text = json.loads((RECORDINGS / f"{name}.json").read_text("utf-8"))["response"]["body"]
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    expected = {name: float(value) for name, value in (line.split("\t") for line in lines)}
    assert dict(metrics.parse(text)) == expected


def test_the_mock_engine_counts_nothing() -> None:
    found = recorded("mock/053-metrics-after-requests")
    assert found["max_tokens"] == -1
    assert "logprobs" not in found  # a truth value
    assert (found.prompt_tokens, found.prefill_s, found.last_ttft_s) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# HELP a b\n# TYPE a counter\n\n", {}),
        ("a 1", {"a": 1.0}),
        ("a\t1\nb\t2\n", {"a": 1.0, "b": 2.0}),
        ("a 1\r\nb 2\r\n", {"a": 1.0, "b": 2.0}),
        ("a 1\na 2", {"a": 2.0}),
        ("  ns:a_1  -1.5e-3  ", {"ns:a_1": -0.0015}),
        ("a +Inf\nb -Inf\nc inf", {"a": math.inf, "b": -math.inf, "c": math.inf}),
        ('a{le="+Inf",path="/v1 {x}"} 3', {'a{le="+Inf",path="/v1 {x}"}': 3.0}),
        (r'a{b="c \" } d"} 3', {r'a{b="c \" } d"}': 3.0}),
        ("a{b=1,c=x y}\t3", {"a{b=1,c=x y}": 3.0}),
        ("a {b=1} 3", {"a{b=1}": 3.0}),
        ("a{} 3", {"a{}": 3.0}),
        ("a 3 1395066363000", {"a": 3.0}),
        ('a{b="c"} 3 # {trace="x"} 0.5 1.5', {'a{b="c"}': 3.0}),
        ("Internal Server Error", {}),
        ("request 5 failed", {}),
        ('{"metrics":{"prompt_tokens_sum":209}}', {}),
        ("<html>\n<p>a 1</p>\n</html>\nb 2", {"b": 2.0}),
        ('a{b="c 1\nd 2', {"d": 2.0}),
        ("a True\nb None\nc 1.2.3\nd 1_000\ne 0x10\nf 12%", {}),
        ("a\u00a01\nb ٣", {}),
    ],
)
def test_lines(text: str, expected: dict[str, float]) -> None:
    assert dict(metrics.parse(text)) == expected


@pytest.mark.parametrize("value", ["NaN", "nan", "+Inf", "-inf"])
def test_what_is_no_amount_is_no_property(value: str) -> None:
    found = metrics.parse(f"prompt_tokens_sum\t{value}\nengine_prefill_time_sum\t{value}\n")
    assert not math.isfinite(found["prompt_tokens_sum"])
    assert (found.prompt_tokens, found.prefill_s) == (None, None)


def test_a_count_written_as_a_fraction_is_a_count() -> None:
    count = metrics.parse("completion_tokens_sum 12.0").completion_tokens
    assert count == 12
    assert isinstance(count, int)


@given(st.text(alphabet='ab{}"\\=, \t\r\n.019eE+-#Nanif', max_size=200))
def test_no_text_is_an_error(text: str) -> None:
    assert all(isinstance(value, float) for value in metrics.parse(text).values())


def test_it_is_a_mapping_that_says_what_it_has() -> None:
    found = metrics.parse("a 1\nb 2")
    assert (sorted(found), found.get("c"), "a" in found, len(found)) == (["a", "b"], None, True, 2)
    assert repr(found) == "Metrics({'a': 1.0, 'b': 2.0})"
    with pytest.raises(KeyError):
        _ = found["c"]
