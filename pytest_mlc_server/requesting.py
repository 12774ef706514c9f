"""Sending a handle's server a request, and telling a person what went wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from pytest_mlc_server import answers, process
from pytest_mlc_server.errors import RequestError
from pytest_mlc_server.handle import Handle

if TYPE_CHECKING:
    import requests

    from pytest_mlc_server.http_session import ServerSession
    from pytest_mlc_server.server import PopenServer

#: Time limit of an answer, in seconds.
TIMEOUT = 60.0

#: How long the end of a server may take to be known after it broke a connection, in seconds.
HEARD_WITHIN = 0.3


class Requesting(Handle):
    """A handle that sends requests."""

    if TYPE_CHECKING:  # what `PopenServer` has
        poll: Callable[[], str]
        settle: Callable[[], str]

    @contextmanager
    def _asked(
        self, method: str, path: str, timeout: float | None, body: object = None
    ) -> Iterator[requests.Response]:
        """Send a request; whatever goes wrong until the end of the block is told to a person."""
        import requests

        __tracebackhide__ = True
        what = f"{method} {path}"
        with self._http(what, path) as http:
            try:
                response = http.request(method, path, json=body, timeout=timeout, stream=True)
                with response:
                    if response.status_code != 200:
                        raise self._refused(what, response)
                    yield response
            except requests.Timeout:
                raise self._failed(f"{what} was not answered within {timeout:g} s") from None
            except requests.RequestException as error:
                raise self._broken(what, error, timeout) from None

    def _http(self, what: str, path: str) -> ServerSession:
        from pytest_mlc_server.http_session import ServerSession

        __tracebackhide__ = True
        self.settle()
        state = self.poll()
        if state == "stopped":
            raise RequestError(f"{what}: the server is not started: {self!r}")
        if state != "ready":
            raise self._failed(what)
        record = path.startswith("/v1/")  # what an application would ask as well
        return ServerSession(self.base_url, self.config.api_key, timeout=TIMEOUT, record=record)

    def _refused(self, what: str, response: requests.Response) -> RequestError:
        text = response.text
        words = f"{what} answers {response.status_code}: {answers.message(text)}"
        return RequestError(self.hide_secrets(words), status=response.status_code, body=text)

    def _broken(
        self, what: str, error: requests.RequestException, timeout: float | None
    ) -> RequestError:
        """Tell of a connection that broke; a server that died is told of first."""
        from pytest_mlc_server.simulator.deaths import is_gone

        if answers.timed_out(error):
            return self._failed(f"{what}: no more of the answer came within {timeout:g} s")
        if self._lease is not None and self._lease.mine:
            server = cast("PopenServer", self)
            # On a busy host its guardian may be late to tell what the kernel knows already.
            if not is_gone(server, HEARD_WITHIN) and server.pid and process.has_ended(server.pid):
                is_gone(server)
        return self._failed(f"{what}: {answers.cause(error)}")

    def _failed(self, what: str) -> RequestError:
        self.poll()
        text = f"{what}: {self.trouble}" if self.trouble else what
        if self.log_path and not self.trouble:
            text += f"\nAs far as is known the server works; its log: {self.log_path}"
        return RequestError(self.hide_secrets(text))
