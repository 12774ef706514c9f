"""The line of the run's header, and a warning about settings that pytest did not read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_mlc_server import advertise
from pytest_mlc_server.engines import model_name
from pytest_mlc_server.errors import MLCServerError
from pytest_mlc_server.masking import mask_url

if TYPE_CHECKING:
    from pytest_mlc_server.options import Given
    from pytest_mlc_server.session import Session


def warn_of_ignored_ini(config: pytest.Config, given: Mapping[str, Given]) -> None:
    """Warn when pytest took a path of ours for a test path, and read no ini file because of it.

    It looks for its ini file before it knows the plugins' flags, and takes the word after an
    unknown flag for a path with tests.
    """
    here = config.invocation_params.dir
    if config.inipath is not None and config.inipath.parent in (here, *here.parents):
        return
    words = {str(word) for word in config.invocation_params.args}
    for one in given.values():
        values = one.raw if isinstance(one.raw, list) else [one.raw]
        taken = [str(value) for value in values if str(value) in words]
        if one.setting.kind == "path" and any(os.path.isabs(value) for value in taken):
            config.issue_config_time_warning(
                pytest.PytestWarning(
                    f"pytest took {taken[0]} for a path with tests, because it stands after a "
                    f"space, and did not look for its ini file in {here}: write "
                    f"{one.setting.flag}={taken[0]}"
                ),
                stacklevel=2,
            )


def header(session: Session, tx: Iterable[object] = ()) -> str:
    """Return the line of the run's header.

    Parameters
    ----------
    session
        The plugin's session.
    tx
        Where pytest-xdist's workers run: its ``--tx``.
    """
    config = session.config
    model = model_name(config) or ("what it serves" if config.url else "not configured")
    if len(session.configs) > 1:
        names = ", ".join(str(one.model) for one in session.configs)
        model = f"{names} (each test with each of {len(session.configs)})"
    if config.engine == "external":
        url = mask_url(config.url or "")
        return f"mlc-server: engine external, {url}, model {model}, scope worker"
    return (
        f"mlc-server: engine {config.engine}, model {model}, device {config.device}, "
        f"port {config.port}, scope {session.scope}{session.devices.describe(config)}"
        f"{advertise.note(session.advertise, tx)}{_waiting(session)}{_warm(session)}"
    )


def _waiting(session: Session) -> str:
    """Return what the header says of a server that waits for its next user."""
    if not session.reuse:
        return ""
    from pytest_mlc_server import fingerprint, shared_servers

    try:
        config = session.own_config()
        share = session.share(config)
        key = "" if share is None else share.key
        if session.distributed and session.scope == "run":
            key = fingerprint.fingerprint(config)  # of the workers: they have a run
        waiting = [] if share is None else shared_servers.found(share.directory, key)
    except MLCServerError:
        waiting = []  # the first test says what is wrong, with all that there is to say
    for server in waiting:
        idle = server.status.get("idle")
        if server.status.get("state") == "ready" and idle is not None:
            return f", reusing server of {reused(server.status['started_at'], idle)}"
    return f", reuse {session.reuse:g} s"


def _warm(session: Session) -> str:
    """Return what the header says of a warm parent that waits for this run's servers."""
    if not session.warm or session.config.launch != "warm":
        return ""
    from pytest_mlc_server import engines, warm

    try:
        found = warm.found(engines.plan(session.own_config(), mark=""))
    except MLCServerError:
        found = None  # the first test says what is wrong, with all that there is to say
    if found is not None and found.status.get("state") == "ready":
        return f", warm parent of {_clock(found.status['started_at'])}"
    return f", warm {session.warm:g} s"


def _clock(moment: float) -> str:
    return time.strftime("%H:%M", time.localtime(moment))


def reused(started_at: float, idle: float) -> str:
    """Return since when a server runs, and how long it waited."""
    waited = f"{idle / 60:.0f} min" if idle >= 60 else f"{idle:.0f} s"
    return f"{_clock(started_at)}, idle {waited}"
