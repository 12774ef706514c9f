"""Clients that are bound to a server: the fixtures `mlc_client` and its like."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.errors import MLCServerError

if TYPE_CHECKING:
    import openai

    from pytest_mlc_server import transports
    from pytest_mlc_server.http_session import ServerSession
    from pytest_mlc_server.server import PopenServer

#: Time limit of a client's requests that have none of their own, in seconds.
TIMEOUT = 60.0


def require_openai() -> None:
    """Make sure that OpenAI's package is there.

    Raises
    ------
    MLCServerError
        If it is not.
    """
    __tracebackhide__ = True
    if importlib.util.find_spec("openai") is None:
        raise MLCServerError(
            "mlc_client and mlc_async_client need OpenAI's package, which is not installed: "
            "pip install 'pytest-mlc-server[openai]'\n"
            "mlc_session, server.chat() and server.complete() do without it."
        )


def client(server: PopenServer) -> Iterator[openai.OpenAI]:
    """Give a test a client of the server, and close it at the test's end."""
    import openai

    from pytest_mlc_server import transports

    http = transports.sync_client(server.base_url, TIMEOUT)
    with openai.OpenAI(**_options(server, http)) as made:
        made.organization = made.project = None  # of the environment: no business of this server
        yield made


def async_client(server: PopenServer, test: Any) -> Iterator[openai.AsyncOpenAI]:
    """Give a test an asynchronous client of the server.

    What the test's function leaves open is closed in its own event loop when it ends; the client
    itself at the end of the test, when fixtures that use it are done as well.

    Parameters
    ----------
    server
        The server.
    test
        pytest's item.
    """
    import openai

    from pytest_mlc_server import transports

    http, transport = transports.async_client(server.base_url, TIMEOUT)
    made = openai.AsyncOpenAI(**_options(server, http))
    made.organization = made.project = None
    function = test.obj
    if inspect.iscoroutinefunction(function):
        test.obj = _closing(function, transport)
    yield made
    test.obj = function
    transport.forget()
    _complete(made.close())


def session(server: PopenServer) -> Iterator[ServerSession]:
    """Give a test a session of `requests`, and close it at the test's end."""
    from pytest_mlc_server.http_session import ServerSession

    with ServerSession(server.base_url, server.config.api_key, timeout=TIMEOUT) as made:
        yield made


def _options(server: PopenServer, http: Any) -> dict[str, Any]:
    return {
        "base_url": server.openai_v1_base_url,
        # The client refuses to be made without a key, whatever the server wants.
        "api_key": server.config.api_key or "none",
        "max_retries": 0,
        "timeout": TIMEOUT,
        "http_client": http,
    }


def _closing(function: Callable[..., Any], transport: transports.Following) -> Callable[..., Any]:
    """Return a test's function that closes at its end what it has opened."""

    @functools.wraps(function)
    async def closing(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        before = set(transport.open)  # a fixture's, which may still use it
        try:
            return await function(*args, **kwargs)
        finally:
            for body in transport.open - before:
                await body.aclose()

    return closing


def _complete(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that waits for nothing, without an event loop."""
    with contextlib.suppress(StopIteration):
        coroutine.send(None)
    coroutine.close()
