"""The fixture `mlc_async_client` in event loops of every kind: no warning, nothing left open."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pytest_mlc_server import PopenServer
from tests.support_clients import imported as imported
from tests.support_clients import lacks
from tests.support_plugin import Suite

Run = Callable[..., pytest.RunResult]


pytestmark = pytest.mark.skipif(lacks("openai"), reason="openai is not installed")

with_asyncio_plugin = pytest.mark.skipif(
    lacks("pytest_asyncio"), reason="pytest-asyncio is not installed"
)
with_anyio = pytest.mark.skipif(lacks("anyio", "trio"), reason="anyio or trio is not installed")

ASYNCIO = ("-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function")

ANYIO = ("-p", "anyio.pytest_plugin")

#: trio warns of generators that are not read to their end, and openai and its HTTP
#: library leave their own so, even those of streams that were read.
TRIO = ("-W", "ignore:Async generator:ResourceWarning")

#: A test module's beginning. `use` does what an application may do with a client, the careless
#: things included: a stream that nobody reads, and one that nobody reads to its end.
USE = """
    import asyncio, gc, time, pytest

    ASK = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9}

    async def ask(client):
        answer = await client.chat.completions.create(**ASK)
        assert answer.usage.completion_tokens == 9

    async def use(client, leave=True):
        await ask(client)
        pieces = [one async for one in await client.chat.completions.create(**ASK, stream=True)]
        assert len(pieces) > 5
        async with await client.chat.completions.create(**ASK, stream=True) as stream:
            pass
        if leave:
            await client.chat.completions.create(**ASK, stream=True)
        await ask(client)


    @pytest.fixture(scope="module", autouse=True)
    def _nothing_left_open():
        yield
        gc.collect()  # a socket or a transport that was left open warns now
    """


@pytest.fixture(scope="module")
def sim() -> Iterator[PopenServer]:
    with PopenServer(None, engine="sim", port="auto") as server:
        yield server


@pytest.fixture
def run(suite: Suite, sim: PopenServer) -> Run:
    """Run the suite with one server for all tests of this module."""

    def run(*args: str) -> pytest.RunResult:
        ignored = ("-W", "ignore:Module already imported")  # by the run around it
        return suite.run_bare(f"--mlc-url={sim.base_url}", "-p", "no:randomly", *ignored, *args)

    return run


@with_asyncio_plugin
@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_under_pytest_asyncio(suite: Suite, run: Run, mode: str) -> None:
    marked = "" if mode == "auto" else "pytestmark = pytest.mark.asyncio"
    suite.tests(
        f"""{USE}
    import pytest_asyncio

    KEPT = []

    {marked}

    async def test_it(mlc_async_client):
        KEPT.append(mlc_async_client)
        await asyncio.gather(*(use(mlc_async_client) for _ in range(3)))

    async def test_the_last_one_is_closed(mlc_async_client):
        assert KEPT[0].is_closed()
        with pytest.raises(Exception, match="Connection error|closed"):
            await KEPT[0].models.list()
        await mlc_async_client.close()

    async def test_that_fails(mlc_async_client):
        stream = await mlc_async_client.chat.completions.create(**ASK, stream=True)
        async for _ in stream:
            raise AssertionError("on purpose")

    class TestOfAClass:
        async def test_method(self, mlc_async_client):
            await use(mlc_async_client)

    async def test_asked_for_in_the_middle(request):
        await use(request.getfixturevalue("mlc_async_client"), leave=False)

    @pytest_asyncio.fixture
    async def app(mlc_async_client):
        await use(mlc_async_client, leave=False)
        stream = await mlc_async_client.chat.completions.create(**ASK, stream=True)
        await anext(stream)
        yield mlc_async_client
        assert len([one async for one in stream]) > 5  # not closed with the test
        await use(mlc_async_client, leave=False)

    async def test_with_a_fixture_that_has_it(app, mlc_async_client):
        assert app is mlc_async_client
        await use(app)

    @pytest.mark.asyncio(loop_scope="module")
    async def test_loop_of_a_module_1(mlc_async_client):
        await use(mlc_async_client)

    @pytest.mark.asyncio(loop_scope="module")
    async def test_loop_of_a_module_2(mlc_async_client):
        await use(mlc_async_client)

    @pytest.mark.parametrize("number", [1, 2])
    async def test_with_parameters(mlc_async_client, number):
        await use(mlc_async_client)
    """
    )
    result = run(*ASYNCIO, f"--asyncio-mode={mode}")
    result.assert_outcomes(passed=9, failed=1)
    assert "on purpose" in result.stdout.str()


@with_anyio
def test_under_anyio(suite: Suite, run: Run) -> None:
    suite.tests(
        f"""{USE}
    import anyio

    pytestmark = pytest.mark.anyio

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(request):
        return request.param

    async def test_it(mlc_async_client):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(use, mlc_async_client)

    async def test_that_is_cancelled(mlc_async_client):
        with anyio.move_on_after(0):
            await use(mlc_async_client)
        stream = await mlc_async_client.chat.completions.create(**ASK, stream=True)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.close()

    @pytest.fixture
    async def app(mlc_async_client):
        await use(mlc_async_client, leave=False)
        yield mlc_async_client
        await use(mlc_async_client, leave=False)

    async def test_with_a_fixture_that_has_it(app):
        await use(app)
    """
    )
    run(*ANYIO, *TRIO).assert_outcomes(passed=6)


def test_in_loops_of_ones_own(suite: Suite, run: Run) -> None:
    suite.tests(
        f"""{USE}
    from pytest_mlc_server import exchanges

    def test_one_after_the_other(mlc_async_client, mlc_server):
        start = time.time()
        for _ in range(3):
            asyncio.run(use(mlc_async_client, leave=False))
        assert len(exchanges.since(mlc_server.base_url, start)) == 12

    def test_without_any(mlc_async_client):
        assert not mlc_async_client.is_closed()

    def test_closed_by_the_test(mlc_async_client):
        async def close():
            await ask(mlc_async_client)
            await mlc_async_client.close()
        asyncio.run(close())
    """
    )
    run().assert_outcomes(passed=3)


@pytest.mark.skipif(lacks("trio"), reason="trio is not installed")
def test_in_a_trio_of_ones_own(suite: Suite, run: Run) -> None:
    suite.tests(
        f"""{USE}
    import trio

    def test_it(mlc_async_client):
        trio.run(use, mlc_async_client, False)
    """
    )
    run(*TRIO).assert_outcomes(passed=1)


@with_asyncio_plugin
@with_anyio
def test_both_plugins_in_one_run(suite: Suite, run: Run) -> None:
    suite.tests(
        f"""{USE}
    @pytest.mark.anyio
    @pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
    async def test_anyio(mlc_async_client):
        await use(mlc_async_client)

    @pytest.mark.asyncio
    async def test_asyncio(mlc_async_client):
        await use(mlc_async_client)
    """
    )
    run(*ASYNCIO, *ANYIO, *TRIO).assert_outcomes(passed=3)
