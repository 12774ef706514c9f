"""What a test cost, from what the server counted before and after it."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

import pytest

from pytest_mlc_server.metrics import parse
from pytest_mlc_server.usage import RESET, Counters, Tally, Usage, total

#: The real server after its start: one token was generated to see that it works.
FIRST = """\
# NOTE: these metrics count token in the unit of serving model's tokenization

engine_prefill_time_sum	0.001052944
engine_decode_time_sum	0.0
engine_jump_forward_time_sum	0.0
prompt_tokens_sum	2
completion_tokens_sum	2
prefill_tokens_sum	2
decode_tokens_sum	0
jump_forward_tokens_sum	0
prefill_tokens_per_s	1899.4362473217948

# /last_finished_request
last_finished_request_prompt_tokens	1
last_finished_request_completion_tokens	1
last_finished_request_prefill_tokens	1
last_finished_request_ttft_s	0.000640866
"""

#: And after many requests: labels without quotes.
LATER = """\
engine_prefill_time_sum	0.04408846499999999
engine_decode_time_sum	0.22826128200000012
prompt_tokens_sum	824
completion_tokens_sum	655
decode_tokens_sum	606
decode_tokens_per_s	2654.852345918217

# /last_finished_request
last_finished_request_prompt_tokens	1
last_finished_request_completion_tokens	1
last_finished_request_ttft_s	0.0006076440000000001

# /decode_time_by_batch_size
decode_time_by_batch_size_mean{batch_size=1}	0.00038308247652173947
decode_time_by_batch_size_count{batch_size=1}	575
"""

#: The mock engine tells its settings instead.
MOCK = "n\t1\ntemperature\t1.0\nlogprobs\tFalse\nmax_tokens\t-1\nseed\t207719369\n"


def counters(text: str) -> Counters:
    found = Counters.of(parse(text))
    assert found is not None
    return found


def tally_of(*steps: Counters, reset: bool = False) -> Tally:
    """Return a tally with a look at each of these."""
    tally = Tally()
    for before, after in itertools.pairwise(steps):
        tally.add(before, after, reset=reset)
    return tally


def usage_of(tally: Tally, **how: Any) -> Usage:
    return tally.usage("http://a", how.get("shared", ""), how.get("why", ""))


def test_the_difference_of_what_the_real_server_said() -> None:
    usage = usage_of(tally_of(counters(FIRST), counters(LATER)))
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (822, 653, 1475)
    assert usage.prefill_s == pytest.approx(0.044088465 - 0.001052944)
    assert usage.decode_s == pytest.approx(0.228261282)
    assert usage.tokens_per_s == pytest.approx(606 / 0.228261282)
    # Of all these requests the server remembers the last alone.
    assert (usage.ttft_s, usage.ttft_at_least) == (0.0006076440000000001, True)
    assert usage.note == ""


def test_the_time_to_first_token_of_a_single_request_is_exact() -> None:
    before = Counters(prompt_tokens=10, completion_tokens=10, last_ttft_s=9.0)
    after = Counters(17, 15, 4, 0.1, 0.2, 7, 5, 0.25)
    usage = usage_of(tally_of(before, after))
    assert (usage.ttft_s, usage.ttft_at_least) == (0.25, False)


def test_requests_that_were_looked_at_one_by_one_are_all_known() -> None:
    steps = [
        Counters(),
        Counters(7, 5, 4, 0.1, 0.2, 7, 5, 0.25),
        Counters(9, 8, 6, 0.2, 0.3, 2, 3, 0.5),
        Counters(10, 9, 6, 0.3, 0.3, 1, 1, 0.125),
    ]
    usage = usage_of(tally_of(*steps))
    assert (usage.ttft_s, usage.ttft_at_least) == (0.5, False)
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 9)
    assert usage.tokens_per_s == pytest.approx(6 / 0.3)


def test_nothing_finished_is_no_time_to_first_token() -> None:
    before = Counters(5, 5, 4, 0.1, 0.1, 5, 5, 0.75)
    usage = usage_of(tally_of(before, dataclasses.replace(before, decode_s=0.4)))
    assert usage.ttft_s is None
    assert usage.unknown["ttft_s"] == "no request has finished"
    assert usage.prompt_tokens == 0
    assert usage.decode_s == pytest.approx(0.3)


@pytest.mark.parametrize("seen", [True, False])
def test_what_was_counted_since_a_reset_is_a_lower_bound(seen: bool) -> None:
    # Known from the log; or from a number that fell.
    before = Counters(50, 50, 40, 1.0, 1.0)
    after = Counters(60, 70, 60, 2.0, 2.0) if seen else Counters(3, 4, 3, 0.1, 0.1)
    usage = usage_of(tally_of(before, after, reset=seen))
    assert usage.note == RESET
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        after.prompt_tokens,
        after.completion_tokens,
    )


@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "prefill_s", "decode_s"])
def test_any_sum_that_fell_tells_of_a_reset(name: str) -> None:
    before = Counters(5, 5, 5, 5.0, 5.0)
    assert dataclasses.replace(before, **{name: 4}).fell_since(before)
    assert not before.fell_since(before)


@pytest.mark.parametrize("text", [MOCK, "", "<html>", "prompt_tokens_sum\t5\n"])
def test_an_engine_that_counts_no_tokens(text: str) -> None:
    assert Counters.of(parse(text)) is None


def test_unknown_tokens_have_a_reason_and_requests_are_counted() -> None:
    tally = Tally()
    tally.requests, tally.errors = 3, 1
    usage = usage_of(tally, why="its engine counts no tokens")
    assert (usage.requests, usage.errors, usage.total_tokens) == (3, 1, None)
    assert set(usage.unknown.values()) == {"its engine counts no tokens"}
    assert str(usage) == "3 requests, 1 error, tokens not known: its engine counts no tokens"


def test_a_line_for_people() -> None:
    usage = Usage("a", 1, 0, 7, 5, 0.1, 0.2, 0.25, 20.0, 1.5, "others do", "so many")
    assert str(usage) == (
        "1 request, 7 prompt + 5 completion tokens, first token after 250.0 ms, 20.0 tokens/s, "
        "shared: others do, so many"
    )
    assert "at least 1.50 s" in str(dataclasses.replace(usage, ttft_at_least=True, ttft_s=1.5))


# --- several servers ------------------------------------------------------------------------------


def test_nothing_used_costs_nothing() -> None:
    usage = total([], 2.0)
    assert (usage.requests, usage.errors, usage.total_tokens, usage.seconds) == (0, 0, 0, 2.0)
    assert (usage.ttft_s, usage.tokens_per_s) == (None, None)


def test_one_server_is_itself() -> None:
    one = usage_of(tally_of(Counters(), Counters(7, 5, 4, 0.1, 0.2, 7, 5, 0.25)))
    assert dataclasses.replace(total([one]), server="http://a") == one


def test_several_servers_together() -> None:
    one = Usage("http://a", 2, 0, 10, 5, 0.5, 1.0, 0.25, 4.0)
    other = Usage("http://b", 3, 1, 20, 7, 0.5, 3.0, 0.75, 8.0, None, "others do", "so many", True)
    both = total([one, other])
    assert (both.server, both.requests, both.errors, both.total_tokens) == ("", 5, 1, 42)
    assert (both.prefill_s, both.decode_s, both.ttft_s) == (1.0, 4.0, 0.75)
    assert both.tokens_per_s == pytest.approx((4.0 * 1.0 + 8.0 * 3.0) / 4.0)
    assert (both.shared, both.note, both.ttft_at_least) == (
        "others do",
        "http://b: so many",
        True,
    )


def test_the_sum_says_what_it_leaves_out() -> None:
    known = Usage("http://a", 2, 0, 10, 5, 0.5, 1.0, 0.25, 4.0)
    mock = Usage("http://b", 3, 1, unknown={"prompt_tokens": "no tokens"})
    both = total([known, mock])
    assert (both.requests, both.prompt_tokens) == (5, 10)
    assert "http://b: prompt_tokens not known: no tokens" in both.note
    neither = total([mock, dataclasses.replace(mock, server="http://c")])
    assert neither.prompt_tokens is None
    assert neither.unknown["prompt_tokens"] == "no tokens"


def test_looking_more_often_changes_no_sum() -> None:
    """However a test is cut into looks, its tokens and times are the same."""
    draw = random.Random(0)
    steps = [Counters()]
    for _ in range(50):
        one = steps[-1]
        prompt, completion = draw.randrange(1, 9), draw.randrange(1, 9)
        steps.append(
            Counters(
                one.prompt_tokens + prompt,
                one.completion_tokens + completion,
                one.decode_tokens + completion - 1,
                one.prefill_s + 0.25,
                one.decode_s + 0.5,
                prompt,
                completion,
                draw.random(),
            )
        )
    whole = usage_of(tally_of(steps[0], steps[-1]))
    for size in (2, 5, 17):
        looked = sorted({0, 50, *draw.sample(range(51), size)})
        cut = usage_of(tally_of(*(steps[number] for number in looked)))
        assert (cut.prompt_tokens, cut.completion_tokens, cut.prefill_s, cut.tokens_per_s) == (
            whole.prompt_tokens,
            whole.completion_tokens,
            whole.prefill_s,
            whole.tokens_per_s,
        )
    everything = usage_of(tally_of(*steps))
    assert everything.ttft_s == max(one.last_ttft_s or 0.0 for one in steps[1:])
    assert not everything.ttft_at_least
