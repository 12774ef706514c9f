"""A `requests.Session` that is bound to a server and keeps a record of what it asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from pytest_mlc_server import exchanges, external

_ABSOLUTE = re.compile("[a-z][a-z0-9+.-]*://", re.IGNORECASE)

#: Where `requests.Session.request` has its time-out among the arguments after the URL.
_TIMEOUT_POSITION = 6


class ServerSession(requests.Session):
    """A session whose relative URLs are the server's.

    Parameters
    ----------
    base_url
        Where the server is.
    api_key
        The server's key; None where it has none. It is sent to no other server.
    timeout
        Time limit of a request that has none of its own, in seconds.
    record
        Whether to keep a record of the requests.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, *, timeout: float, record: bool = True
    ) -> None:
        super().__init__()
        self.base_url = base_url
        self.timeout = timeout
        # As the readiness check does it: a server elsewhere may be behind the network's proxy.
        self.trust_env = not external.is_local(base_url)
        if api_key:
            self.headers["Authorization"] = f"Bearer {api_key}"
            self.auth = external.as_it_is
        adapter = RecordingAdapter(base_url) if record else HTTPAdapter()
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def request(self, method: Any, url: Any, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request; ``/v1/models`` is a path of the server.

        Parameters
        ----------
        method, url, *args, **kwargs
            As of `requests.Session.request`. A time-out of None is none at all.
        """
        if len(args) <= _TIMEOUT_POSITION:
            kwargs.setdefault("timeout", self.timeout)
        return super().request(method, url, *args, **kwargs)

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """Join a relative URL to the server's, and keep the key from other servers."""
        url = str(request.url)
        if not _ABSOLUTE.match(url):
            request.url = f"{self.base_url}/{url.lstrip('/')}"
        prepared = super().prepare_request(request)
        own = {name.lower() for name in request.headers or ()}
        if "authorization" not in own and origin(prepared.url or "") != origin(self.base_url):
            prepared.headers.pop("Authorization", None)
        return prepared


class RecordingAdapter(HTTPAdapter):
    """Sends requests as `requests` does, once each, and notes them in `exchanges`.

    Parameters
    ----------
    base_url
        Where the server is.
    """

    def __init__(self, base_url: str) -> None:
        super().__init__(max_retries=0)
        self._base_url = base_url

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        """Send a request, and follow its answer."""
        server, path = exchanges.target(self._base_url, request.url or "")
        observation = exchanges.begin(server, request.method or "", path)
        try:
            response = super().send(request, *args, **kwargs)
        except BaseException as error:
            observation.end(error)
            raise
        observation.answered(response.status_code, response.headers.get("Content-Type", ""))
        response.__class__ = _Observed
        response.__dict__["observation"] = observation
        return response


class _Observed(requests.Response):
    """A response whose body is noted as its reader gets it; nobody else reads it."""

    def iter_content(self, chunk_size: Any = 1, decode_unicode: bool = False) -> Iterator[Any]:
        chunks = super().iter_content(chunk_size, decode_unicode)
        # Gone after a response was pickled: its body was read by then.
        observation = self.__dict__.get("observation")
        if observation is None or observation.ended:
            return chunks
        return _observed(chunks, observation)

    def close(self) -> None:
        observation = self.__dict__.get("observation")
        if observation is not None:
            observation.end()
        super().close()


def _observed(chunks: Iterator[Any], observation: exchanges.Observation) -> Iterator[Any]:
    try:
        for chunk in chunks:
            observation.feed(chunk if isinstance(chunk, bytes) else chunk.encode())
            yield chunk
    except GeneratorExit:
        raise  # whoever reads has enough: no error
    except BaseException as error:
        observation.end(error)
        raise
    finally:
        observation.end()


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Return what a key may go to: scheme, host and port of a URL."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default
