"""How many processes of a run want servers on this host, and which port each may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mlc_server.errors import ConfigError

if TYPE_CHECKING:
    from pytest_mlc_server.config import ServerConfig


def local(options: object) -> int:
    """Return the number of pytest-xdist workers on this host; 1 without xdist.

    Parameters
    ----------
    options
        pytest's options, after its command line was read: xdist has turned ``-n`` and
        ``--maxprocesses`` into ``--tx`` by then.
    """
    specs = getattr(options, "tx", None) or []
    if getattr(options, "dist", "no") == "no" or not specs:
        return 1
    if getattr(options, "collectonly", False):
        return 1
    number = 0
    for written in specs:
        times, star, spec = str(written).partition("*")
        counted = bool(star) and times.strip().isdecimal()
        where = (spec if counted else str(written)).split("//")
        # Workers on other hosts (ssh=, socket=, via=) have GPUs of their own.
        if where[0] == "popen" and not any(part.startswith("via=") for part in where):
            number += int(times) if counted else 1
    return number


def with_port(config: ServerConfig, offset: int) -> ServerConfig:
    """Return a configuration with the port of one xdist worker.

    Raises
    ------
    ConfigError
        If there is no such port.
    """
    if config.port == "auto" or not offset:
        return config
    port = int(config.port) + offset
    if port > 65535:
        raise ConfigError(
            f"{config.describe('port')}: this pytest-xdist worker would get port {port} "
            f"(+ {offset}), which is above 65535; use a lower one, or auto"
        )
    origins = {**config.origins, "port": f"{config.origins.get('port', 'port')} + worker"}
    return config.replace(port=port).replace(origins=origins)
