"""HTTP transports for OpenAI's clients that keep a record of what was asked.

OpenAI's package stands on httpx, since its version 3 on httpx2, which is the same with another
name. What is made here is made of whichever it stands on.
"""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from pytest_mlc_server import exchanges, external


def http_library() -> Any:
    """Return the module that the installed openai stands on: httpx or httpx2."""
    import openai

    for base in openai.DefaultHttpxClient.__mro__:
        root = base.__module__.partition(".")[0]
        if root.startswith("httpx"):
            return sys.modules[root]
    raise RuntimeError(f"openai {openai.__version__} stands on no HTTP library that is known here")


def sync_client(base_url: str, timeout: float) -> Any:
    """Make the HTTP client of an `openai.OpenAI`.

    Parameters
    ----------
    base_url
        Where the server is.
    timeout
        Time limit of each step of a request, in seconds.
    """
    http = http_library()
    inner = http.HTTPTransport(**_reaching(http, base_url))
    transport = _transports(http)[0](inner, base_url)
    return http.Client(transport=transport, timeout=timeout, trust_env=False, follow_redirects=True)


def async_client(base_url: str, timeout: float) -> tuple[Any, Following]:
    """Make the HTTP client of an `openai.AsyncOpenAI`, and the transport that is in it.

    It keeps no connection after an answer: one would belong to the event loop that opened it, and
    neither another loop nor nobody's could use or close it.

    Parameters
    ----------
    base_url
        Where the server is.
    timeout
        Time limit of each step of a request, in seconds.
    """
    http = http_library()
    limits = http.Limits(max_connections=1000, max_keepalive_connections=0)
    inner = http.AsyncHTTPTransport(limits=limits, **_reaching(http, base_url))
    transport = _transports(http)[1](inner, base_url)
    options = {"timeout": timeout, "trust_env": False, "follow_redirects": True}
    return http.AsyncClient(transport=transport, **options), transport


def _reaching(http: Any, base_url: str) -> dict[str, Any]:
    """Return how a server is reached: as the readiness check does it, and no dearer than need be.

    To load the certificates that a system trusts takes longer than most requests.
    """
    options = {"verify": _no_certificates() if base_url.startswith("http:") else True}
    if not external.is_local(base_url):
        parts = urlsplit(base_url)
        proxy = urllib.request.getproxies().get(parts.scheme)
        if proxy and not urllib.request.proxy_bypass(parts.netloc):
            options["proxy"] = http.Proxy(proxy)
    return options


@lru_cache
def _no_certificates() -> Any:
    import ssl

    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Following:
    """The transports' common part.

    Parameters
    ----------
    inner
        The transport that sends.
    base_url
        Where the server is.
    """

    def __init__(self, inner: Any, base_url: str) -> None:
        self.inner = inner
        self.base_url = base_url
        self.open: set[Any] = set()
        """Bodies that are not closed yet."""

    def begin(self, request: Any) -> exchanges.Observation:
        """Note a request."""
        server, path = exchanges.target(self.base_url, str(request.url))
        return exchanges.begin(server, request.method, path)

    def follow(self, response: Any, body: Any) -> Any:
        """Give a response a body that is noted as its reader gets it."""
        head = response.headers
        body.observation.answered(
            response.status_code,
            head.get("content-type", ""),
            head.get("content-encoding", ""),
        )
        response.stream = body
        self.open.add(body)
        return response

    def forget(self) -> None:
        """Note the end of what nobody will read any more."""
        for body in list(self.open):
            body.ended()


class Body:
    """The bodies' common part.

    Parameters
    ----------
    inner
        The body that the server sends.
    observation
        The record of the request.
    transport
        Whose body this is.
    """

    def __init__(self, inner: Any, observation: exchanges.Observation, transport: Following):
        self.inner = inner
        self.observation = observation
        self.transport = transport

    def ended(self) -> None:
        """Note the end."""
        self.observation.end()
        self.transport.open.discard(self)


@lru_cache
def _transports(http: Any) -> tuple[type[Any], type[Any]]:
    return _sync(http), _async(http)


def _sync(http: Any) -> type[Any]:
    class SyncBody(Body, http.SyncByteStream):  # type: ignore[misc]  # a class found at run time
        def __iter__(self) -> Iterator[bytes]:
            try:
                for part in self.inner:
                    self.observation.feed(part)
                    yield part
            except GeneratorExit:
                raise  # whoever reads has enough: no error
            except BaseException as error:
                self.observation.end(error)
                raise

        def close(self) -> None:
            self.ended()
            self.inner.close()

    class Transport(Following, http.BaseTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            observation = self.begin(request)
            try:
                response = self.inner.handle_request(request)
            except BaseException as error:
                observation.end(error)
                raise
            return self.follow(response, SyncBody(response.stream, observation, self))

        def close(self) -> None:
            self.forget()
            self.inner.close()

    return Transport


def _async(http: Any) -> type[Any]:
    class AsyncBody(Body, http.AsyncByteStream):  # type: ignore[misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                async for part in self.inner:
                    self.observation.feed(part)
                    yield part
            except GeneratorExit:
                raise
            except BaseException as error:
                self.observation.end(error)
                raise

        async def aclose(self) -> None:
            self.ended()
            await self.inner.aclose()

    class AsyncTransport(Following, http.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            observation = self.begin(request)
            try:
                response = await self.inner.handle_async_request(request)
            except BaseException as error:
                observation.end(error)
                raise
            return self.follow(response, AsyncBody(response.stream, observation, self))

        async def aclose(self) -> None:
            if self.open:  # else there is nothing to close, and perhaps no event loop to close it
                self.forget()
                await self.inner.aclose()

    return AsyncTransport
