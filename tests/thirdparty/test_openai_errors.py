"""What goes wrong, as the official client of OpenAI sees it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlc_server import MLCSim, Reply
from tests.thirdparty.asked import SOON, http_library, refused, user
from tests.thirdparty.test_openai import client, sdk

if TYPE_CHECKING:
    from collections.abc import Callable

    import openai

    from pytest_mlc_server.factory import ServerFactory

__all__ = ["client", "sdk"]  # fixtures

pytestmark = [pytest.mark.thirdparty]

LONG = "It rains in the north, and in the south it will rain."
NOW = {"retry-after-ms": "1"}


def ask(client: openai.OpenAI, model: str, **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=user("Oslo"), **options)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (409, "ConflictError"),
        (422, "UnprocessableEntityError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
        (503, "InternalServerError"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_status(
    status: int,
    error: str,
    stream: bool,
    sdk: Any,
    client: openai.OpenAI,
    model: str,
    mlc_sim: MLCSim,
) -> None:
    mlc_sim.fail(status)
    with pytest.raises(getattr(sdk, error)) as caught:
        ask(client, model, stream=stream)
    assert caught.value.status_code == status
    assert [request.status for request in mlc_sim.requests] == [status]


def test_status_async(sdk: Any, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.fail(429)

    async def asks() -> None:
        async with sdk.AsyncOpenAI(max_retries=0) as client:
            await client.chat.completions.create(model=model, messages=user("Oslo"))

    with pytest.raises(sdk.RateLimitError):
        asyncio.run(asks())


def test_the_servers_own_errors(sdk: Any, client: openai.OpenAI, model: str) -> None:
    twice: Any = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    with pytest.raises(sdk.BadRequestError) as refusal:
        client.chat.completions.create(model=model, messages=twice)
    # JSON in a JSON string: the client finds no message and no code in it.
    assert json.loads(refusal.value.response.json())["code"] == 400
    assert "System prompt at position 1" in refusal.value.response.text
    assert refusal.value.code is None
    with refused(sdk.UnprocessableEntityError, "max_tokens"):
        ask(client, model, max_tokens="many")
    with pytest.raises(sdk.InternalServerError) as crashed:
        ask(client, model, temperature=-1)
    assert crashed.value.response.text == "Internal Server Error"


def test_api_key(sdk: Any, mlc_server_factory: ServerFactory) -> None:
    server = mlc_server_factory(api_key="sesame")
    url = server.openai_v1_base_url
    with sdk.OpenAI(base_url=url, api_key="wrong", max_retries=0) as client:
        with refused(sdk.AuthenticationError, "Invalid API Key"):
            client.models.list()
        with pytest.raises(sdk.AuthenticationError):
            ask(client, "sim-model", stream=True)
    with sdk.OpenAI(base_url=url, api_key="sesame", max_retries=0) as client:
        assert ask(client, "sim-model").choices


# --- it is tried again ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "statuses"),
    [
        ((Reply.fail(503, headers=NOW), Reply.fail(429, headers=NOW), None), [503, 429, 200]),
        ((Reply.fail(500, headers=NOW), Reply.reset(), None), [500, None, 200]),
    ],
    ids=["statuses", "reset"],
)
def test_retries(
    faults: tuple[Reply | None, ...], statuses: list[int], sdk: Any, model: str, mlc_sim: MLCSim
) -> None:
    mlc_sim.faults.sequence(*faults)
    mlc_sim.when("Oslo").reply("It rains.")
    with sdk.OpenAI(max_retries=2) as client:
        assert ask(client, model).choices[0].message.content == "It rains."
    assert [request.status for request in mlc_sim.requests] == statuses


def test_retries_end(sdk: Any, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.fail(503, headers=NOW)
    with sdk.OpenAI(max_retries=2) as client, pytest.raises(sdk.InternalServerError):
        ask(client, model)
    assert [request.status for request in mlc_sim.requests] == [503] * 3
    assert mlc_sim.last_request.headers["X-Stainless-Retry-Count"] == "2"


def test_no_retry_of_a_bad_request(sdk: Any, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.fail(400)
    with sdk.OpenAI(max_retries=2) as client, pytest.raises(sdk.BadRequestError):
        ask(client, model)
    mlc_sim.assert_called(times=1)


# --- connections ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda sim: sim.faults.refuse(),
        lambda sim: sim.faults.reset_connections(),
        lambda sim: sim.when("Oslo").reset(),
        lambda sim: sim.when("Oslo").disconnect(),
    ],
    ids=["refuse", "reset at once", "reset", "disconnect"],
)
def test_connection_error(
    damage: Callable[[MLCSim], object],
    sdk: Any,
    client: openai.OpenAI,
    model: str,
    mlc_sim: MLCSim,
) -> None:
    damage(mlc_sim)
    with pytest.raises(sdk.APIConnectionError):
        ask(client, model)


@pytest.mark.parametrize(
    "slow",
    [
        lambda sim: sim.latency(ttft=3600),
        lambda sim: sim.when("Oslo").latency(ttft=1e-3, itl=3600).reply(LONG),
        lambda sim: sim.when("Oslo").stall(),
    ],
    ids=["first token", "next token", "stall"],
)
def test_timeout(slow: Callable[[MLCSim], object], sdk: Any, model: str, mlc_sim: MLCSim) -> None:
    slow(mlc_sim)
    with sdk.OpenAI(max_retries=0, timeout=SOON) as client, pytest.raises(sdk.APITimeoutError):
        ask(client, model)


def test_slow_is_not_too_slow(client: openai.OpenAI, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.latency(ttft=0.05, itl=0.001, jitter=0.5)
    mlc_sim.when("Oslo").reply("It rains.")
    assert ask(client, model).choices[0].message.content == "It rains."


def broken_stream(damage: str, sdk: Any, model: str, mlc_sim: MLCSim) -> tuple[str, Exception]:
    """Return what came of a stream that breaks after four events, and what it ended with."""
    getattr(mlc_sim.when("Oslo"), damage)(after=4, reply=LONG)
    text = ""
    with sdk.OpenAI(max_retries=0, timeout=SOON if damage == "stall" else 60) as client:
        try:
            for chunk in ask(client, model, stream=True):
                text += chunk.choices[0].delta.content or ""
        except Exception as error:
            return text, error
    pytest.fail(f"the stream ended well: {text!r}")


@pytest.mark.parametrize("damage", ["disconnect", "reset", "stall"])
def test_a_stream_breaks(damage: str, sdk: Any, model: str, mlc_sim: MLCSim) -> None:
    text, error = broken_stream(damage, sdk, model, mlc_sim)
    if damage == "disconnect":  # a reset takes back what was on its way
        assert text.startswith("It")
    assert LONG.startswith(text)
    assert text != LONG
    # Once a stream has begun, the client lets the errors of its HTTP library through.
    assert isinstance(error, (sdk.APIConnectionError, http_library().TransportError))


def test_a_stream_is_malformed(sdk: Any, model: str, mlc_sim: MLCSim) -> None:
    text, error = broken_stream("malformed", sdk, model, mlc_sim)
    assert text.startswith("It")
    assert isinstance(error, (sdk.APIError, ValueError))


@pytest.mark.parametrize("death", ["crash", "wedge"])
def test_the_server_dies(
    death: str, sdk: Any, client: openai.OpenAI, model: str, mlc_sim: MLCSim
) -> None:
    getattr(mlc_sim.when("Oslo"), death)()
    with pytest.raises(sdk.APIConnectionError):
        ask(client, model)


def test_and_is_there_again(client: openai.OpenAI, model: str, mlc_sim: MLCSim) -> None:
    mlc_sim.when("Oslo").reply("It rains.")
    assert ask(client, model).choices[0].message.content == "It rains."
