"""Environment variables: those given to a server, and those with which an application finds it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_mlc_server import masking

if TYPE_CHECKING:
    from pytest_mlc_server.server import PopenServer


class Environment(dict[str, str]):
    """Environment variables; pytest shows a test's arguments, and must not show secrets."""

    def __repr__(self) -> str:
        return repr(masking.masked_env(self))


class ServerEnv(Environment):
    """The environment variables given to a server; called, those that an application needs."""

    def __init__(self, server: PopenServer) -> None:
        super().__init__(server.config.env)
        self._server = server

    def __call__(self) -> dict[str, str]:
        """Return what an application under test wants in its environment."""
        server = self._server
        if not server.base_url:
            raise RuntimeError(f"the server was not started: {server!r}")
        environment = Environment(
            OPENAI_BASE_URL=server.openai_v1_base_url,
            # The official client refuses to be made without a key, whatever the server wants.
            OPENAI_API_KEY=server.config.api_key or "none",
            OPENAI_MODEL=server.model,
        )
        if server.config.url is None and _has_proxy():
            known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
            host = urlsplit(server.base_url).hostname or ""
            value = ",".join(filter(None, (known, host)))
            environment.update(NO_PROXY=value, no_proxy=value)
        return environment


def _has_proxy() -> bool:
    return any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ)
