"""The server of the controller's host, for the pytest-xdist workers on other hosts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_mlc_server.errors import MLCServerError
from pytest_mlc_server.options import Given
from pytest_mlc_server.reading import written

if TYPE_CHECKING:
    from pytest_mlc_server.config import ServerConfig
    from pytest_mlc_server.health import Health
    from pytest_mlc_server.pool import ServerPool


def problems(given: Mapping[str, Given], config: ServerConfig, scope: str) -> list[str]:
    """Return why a server cannot be advertised; nothing where none is to be.

    Parameters
    ----------
    given
        What was set.
    config
        What is served, and how.
    scope
        Who shares a server.
    """
    if "advertise" not in given:
        return []
    ours = written(given["advertise"])
    if config.engine == "external":
        attach = f"the workers of all hosts attach to {config.describe('url')}"
        return [f"{ours}: {attach}; leave the address out"]
    found = []
    if scope != "run":
        now = written(given["scope"]) if "scope" in given else "scope = 'worker' (the default)"
        found.append(
            f"{ours} has one server serve the workers of other hosts, and with {now} each worker "
            "has a server of its own; add --mlc-scope run"
        )
    if _is_loopback(config.host):
        found.append(
            f"{ours}: no other host reaches a server that is bound to "
            f"{_with_default(config, 'host')}; add --mlc-host 0.0.0.0, or the address itself"
        )
    if config.api_key is None:
        found.append(
            f"{ours}: whoever reaches this host could use a server without a key; add "
            "--mlc-api-key auto"
        )
    models = given["model"].raw if "model" in given else ()
    if isinstance(models, (list, tuple)) and len(models) > 1:
        found.append(
            f"{ours} is for one server, and {written(given['model'])} are several; run one after "
            "the other"
        )
    return found


def _with_default(config: ServerConfig, name: str) -> str:
    return config.describe(name) + ("" if name in config.origins else " (the default)")


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_remote(spec: Any) -> bool:
    """Tell whether a pytest-xdist worker may be on another host.

    Parameters
    ----------
    spec
        An ``execnet.XSpec``.
    """
    return not getattr(spec, "popen", None) or bool(getattr(spec, "via", None))


def note(address: str | None, specs: Iterable[object]) -> str:
    """Return what the header says of the address.

    Parameters
    ----------
    address
        The address; None for none.
    specs
        pytest-xdist's ``--tx``, as text.
    """
    if address is None:
        return ""
    kinds = [str(spec).rpartition("*")[2].split("//") for spec in specs]
    if any(kind[0] != "popen" or any(part.startswith("via=") for part in kind) for kind in kinds):
        return f", advertised as {address}"
    return f", advertised as {address} to nobody (no --tx ssh=... or socket=... worker)"


class Advertised:
    """The server, held by the controller.

    Parameters
    ----------
    address
        Where other hosts reach this one.
    config
        What is served.
    pool
        The controller's servers.
    health
        What happens to them.
    """

    def __init__(
        self, address: str, config: ServerConfig, pool: ServerPool, health: Health
    ) -> None:
        self._address = f"[{address}]" if ":" in address else address
        self._config = config
        self._pool = pool
        self._health = health
        self._told: dict[str, Any] | None = None
        pool.begin(config)

    def told(self) -> dict[str, Any]:
        """Wait for the server, and return what a worker must know to attach to it.

        A start that failed is told as well: each worker reports it.
        """
        if self._told is None:
            served = {"engine": self._config.engine, "model": self._config.model}
            try:
                served.update(self._served())
            except MLCServerError as error:
                served.update(error=type(error).__name__, text=error.text)
            self._told = served
        return self._told

    def _served(self) -> dict[str, Any]:
        from pytest_mlc_server import engines

        server = self._pool.get(self._config)
        return {
            # Not a door of this handle's own: with a given port, that is the one to be reached.
            "url": f"http://{self._address}:{server._server_port}",
            "serves": server.model,
            "key": server.config.api_key,
            "sim_token": server.sim_token,
            "generate": engines.plan(server.config, mark="").generate,
        }

    @property
    def url(self) -> str:
        """The URL for other hosts; empty if the start failed, or has not ended."""
        return str((self._told or {}).get("url", ""))

    def after_test(self, test: str, *, failed: bool) -> None:
        """Look after the server when a worker on another host has reported: it cannot.

        Parameters
        ----------
        test
            The test's node id.
        failed
            Whether it failed.
        """
        self._pool.keep_logs = self._pool.keep_logs or failed
        # The news of a death may be here before the report of the test that caused it.
        name = test if failed else f"{test}, or one after it"
        if not self._health.after(name, failed=failed):
            return
        # A failure is in the incident's line, and the workers find that nobody is there.
        with contextlib.suppress(MLCServerError):
            self._health.before(test, test.partition("::")[0])
