"""Joins pytest and the rest of the package: what the plugin does once anything is configured."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_mlc_server import options, pool, reporting
from pytest_mlc_server.errors import ConfigError
from pytest_mlc_server.session import Session

if TYPE_CHECKING:
    from pytest_mlc_server.config import ServerConfig


def from_ini(
    config: pytest.Config,
    setting: options.Setting,
    value: object,
    problem: Exception | None,
) -> tuple[object, str, str]:
    """Return a setting of the ini file, its source and the directory that its paths start from.

    Parameters
    ----------
    config
        pytest's configuration.
    setting
        The row of the table.
    value
        What pytest read.
    problem
        Why pytest could not read it.

    Raises
    ------
    pytest.UsageError
        If it cannot be read.
    """
    here = str(config.invocation_params.dir)
    overridden = getattr(config.option, "override_ini", None) or ()
    if any(str(one).partition("=")[0].strip() == setting.key for one in overridden):
        source, base = f"-o {setting.key} on the command line", here
    else:
        inipath = config.inipath
        source, base = f"{setting.key} in {inipath}", str(inipath.parent if inipath else here)
    if problem is not None:
        value = _typed(config, setting)
        if value is None:
            raise pytest.UsageError(f"{source}: {problem}")
    return value, source, base


def _typed(config: pytest.Config, setting: options.Setting) -> object:
    """Return a number or a text that pytest 9.0 and 9.1 refuse, for want of types in union."""
    raw = getattr(config, "_inicfg", None) or config.inicfg
    value = getattr(raw.get(setting.key), "value", None)
    number = setting.kind in ("port", "seconds", "count")
    fits = isinstance(value, (int, float)) if number else isinstance(value, str)
    return value if fits and not isinstance(value, bool) and setting.kind != "flag" else None


def cli_source(config: pytest.Config, setting: options.Setting) -> str:
    """Return where a flag stands: on the command line itself, or in ``addopts``."""
    workerinput = getattr(config, "workerinput", {})
    arguments = workerinput.get("mainargv") or config.invocation_params.args
    flags = (setting.flag, f"--mlc-no-{setting.name}")
    if any(str(argument).partition("=")[0] in flags for argument in arguments):
        return f"{setting.flag} on the command line"
    return f"{setting.flag} in addopts"


def open_session(config: pytest.Config, given: dict[str, options.Given]) -> Session:
    """Make what the plugin knows of a session, and register what reports on it.

    Raises
    ------
    pytest.UsageError
        If a setting cannot be read.
    """
    worker = getattr(config, "workerinput", {}).get("workerid")
    try:
        session = Session(given, str(config.invocation_params.dir), worker)
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None
    if worker is None and given:
        reporting.warn_of_ignored_ini(config, given)
    config.pluginmanager.register(reporting.Summary(session), "mlc-server-summary")
    if session.require and worker is None:
        config.pluginmanager.register(reporting.Requirement(session), "mlc-server-requirement")
    return session


def check_marker(item: pytest.Item, marker: pytest.Mark) -> None:
    """Check the engines that a mark names.

    Raises
    ------
    pytest.UsageError
        If it names none, or an unknown one.
    """
    if not marker.args or marker.kwargs or not set(marker.args) <= set(options.ENGINES):
        raise pytest.UsageError(
            f"{item.nodeid}: mark mlc_engine{marker.args!r} names no engine, or an unknown "
            f"one; there are {', '.join(options.ENGINES)}"
        )


def skip_for_other_engines(item: pytest.Item, config: ServerConfig) -> None:
    """Skip a test that is marked for other engines than the configured one."""
    marker = item.get_closest_marker("mlc_engine")
    if marker is None:
        return
    check_marker(item, marker)
    if config.engine not in marker.args:
        pytest.skip(f"for engine {' or '.join(marker.args)}; this run has {config.engine}")


def factory(
    config: pytest.Config, session: Session, server_config: ServerConfig
) -> pool.ServerFactory:
    """Make the factory of servers, and register what watches the tests that use them."""
    servers = _open_pool(config, session)

    def on_unavailable(error: BaseException) -> None:
        if session.unavailable == "skip":
            pytest.skip(str(error).partition("\n")[0])

    return pool.ServerFactory(servers, server_config, on_unavailable)


def _open_pool(config: pytest.Config, session: Session) -> pool.ServerPool:
    capture = config.pluginmanager.getplugin("capturemanager")
    if session.config.log_live and capture is not None:
        with capture.global_and_fixture_disabled():
            output = os.dup(2)  # the terminal, not what capture puts in its place
    else:
        output = 2
    servers, health = session.open_pool(output)
    if not config.pluginmanager.has_plugin("mlc-server-tests"):
        watch = reporting.TestWatch(session, servers, health)
        config.pluginmanager.register(watch, "mlc-server-tests")
    return servers
