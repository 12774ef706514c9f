"""What ``--mlc-trace`` asks of servers and of the file system, found out before the run."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_mlc_server.reading import written

if TYPE_CHECKING:
    from pytest_mlc_server.config import ServerConfig
    from pytest_mlc_server.options import Given


def traced(config: ServerConfig) -> ServerConfig:
    """Return a configuration whose server traces, where that can be had."""
    if config.enable_tracing or config.engine == "external":
        return config
    origins = {**config.origins, "enable_tracing": "--mlc-trace"}
    return config.replace(enable_tracing=True, origins=origins)


def problems(given: Mapping[str, Given], config: ServerConfig, output: str | None) -> list[str]:
    """Return what contradicts a trace of the tests, each naming its places.

    Parameters
    ----------
    given
        What was set, `trace` among it.
    config
        The configuration.
    output
        Where the files go; None where another process of the run looks after that.
    """
    asked = written(given["trace"])
    found = [
        f"{asked} needs the server's {what}, and {written(given[name])} switches that off: give "
        "one of them"
        for name, what in (("debug", "debug endpoints"), ("tracing", "event trace"))
        if name in given and not getattr(config, f"enable_{name}")
    ]
    problem = "" if output is None else output_problem(output)
    if problem:
        where = written(given["output"]) if "output" in given else "output (the default)"
        found.append(f"{where} cannot take the files of {asked}: {problem}")
    return found


def output_problem(directory: str) -> str:
    """Return why no file can be written to a directory, which need not be there yet.

    Parameters
    ----------
    directory
        The directory; if it was not there, it is not there afterwards.
    """
    missing = []
    place = directory
    while not os.path.lexists(place) and place != os.path.dirname(place):
        missing.append(place)
        place = os.path.dirname(place)
    try:
        os.makedirs(directory, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return ""
    except OSError as error:
        return f"{error.strerror}: {error.filename or directory}"
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                os.rmdir(path)
