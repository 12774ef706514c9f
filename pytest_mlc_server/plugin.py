"""The pytest plugin: hooks and fixtures, each a few lines that call below.

pytest imports this module in every run of every project that has it installed, so it imports
pytest and the table of settings, and nothing else.
"""

from __future__ import annotations

import os

import pytest

from pytest_mlc_server import options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mlc_server.config import ServerConfig
    from pytest_mlc_server.pool import ServerFactory, ServerPool
    from pytest_mlc_server.server import PopenServer
    from pytest_mlc_server.session import Session

_SESSION = pytest.StashKey["Session"]()

MARKER = (
    "mlc_engine(*engines): run this test only on these engines (mlc, mock, sim, external); "
    "on others it is skipped"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the settings."""
    options.add_ini(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings; a wrong one ends the run here, as any wrong option of pytest."""
    config.addinivalue_line("markers", MARKER)
    if config.option.help or config.option.version:
        return
    given = _given(config)
    if given:
        _open_session(config, given)


def _given(config: pytest.Config) -> dict[str, options.Given]:
    cwd = str(config.invocation_params.dir)

    def from_cli(setting: options.Setting) -> tuple[object, str] | None:
        value = getattr(config.option, setting.key, None)
        return None if value is None else (value, _cli_source(config, setting))

    def from_ini(setting: options.Setting) -> tuple[object, str, str] | None:
        overridden = getattr(config.option, "override_ini", None) or ()
        if any(str(one).partition("=")[0].strip() == setting.key for one in overridden):
            source, base = f"-o {setting.key} on the command line", cwd
        else:
            inipath = config.inipath
            source, base = f"{setting.key} in {inipath}", str(inipath.parent if inipath else cwd)
        try:
            value: object = config.getini(setting.key)
        except (TypeError, ValueError, pytest.UsageError) as error:
            value = _typed(config, setting)
            if value is None:
                raise pytest.UsageError(f"{source}: {error}") from None
        return None if value is None or value == "" or value == [] else (value, source, base)

    return options.collect(from_cli, os.environ, from_ini, cwd)


def _typed(config: pytest.Config, setting: options.Setting) -> object:
    """Return a number or a text that pytest 9.0 and 9.1 refuse, for want of types in union."""
    raw = getattr(config, "_inicfg", None) or config.inicfg
    value = getattr(raw.get(setting.key), "value", None)
    number = setting.kind in ("port", "seconds", "count")
    fits = isinstance(value, (int, float)) if number else isinstance(value, str)
    return value if fits and not isinstance(value, bool) and setting.kind != "flag" else None


def _cli_source(config: pytest.Config, setting: options.Setting) -> str:
    workerinput = getattr(config, "workerinput", {})
    arguments = workerinput.get("mainargv") or config.invocation_params.args
    flags = (setting.flag, f"--mlc-no-{setting.name}")
    if any(str(argument).partition("=")[0] in flags for argument in arguments):
        return f"{setting.flag} on the command line"
    return f"{setting.flag} in addopts"


def _open_session(config: pytest.Config, given: dict[str, options.Given]) -> Session:
    from pytest_mlc_server import reporting
    from pytest_mlc_server.errors import ConfigError
    from pytest_mlc_server.session import Session

    worker = getattr(config, "workerinput", {}).get("workerid")
    try:
        session = Session(given, str(config.invocation_params.dir), worker)
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[_SESSION] = session
    if worker is None and given:
        reporting.warn_of_ignored_ini(config, given)
    config.pluginmanager.register(reporting.Summary(session), "mlc-server-summary")
    if session.require and worker is None:
        config.pluginmanager.register(reporting.Requirement(session), "mlc-server-requirement")
    return session


def _session(config: pytest.Config) -> Session:
    session = config.stash.get(_SESSION, None)
    return _open_session(config, {}) if session is None else session


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what is configured, if anything is."""
    session = config.stash.get(_SESSION, None)
    if session is None:
        return None
    from pytest_mlc_server import reporting

    return reporting.header(session)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the markers, and have the marked tests ask for their engine first."""
    for item in items:
        marker = item.get_closest_marker("mlc_engine")
        if marker is None:
            continue
        # An xdist worker that ends here is an internal error of xdist: there the test says it.
        if not hasattr(config, "workerinput"):
            _check_marker(item, marker)
        names = getattr(item, "fixturenames", None)
        if names is not None:
            # First of all: a test that is skipped must not have started a server before.
            names.insert(0, "_mlc_engine_gate")


def _check_marker(item: pytest.Item, marker: pytest.Mark) -> None:
    if not marker.args or marker.kwargs or not set(marker.args) <= set(options.ENGINES):
        raise pytest.UsageError(
            f"{item.nodeid}: mark mlc_engine{marker.args!r} names no engine, or an unknown "
            f"one; there are {', '.join(options.ENGINES)}"
        )


@pytest.fixture(scope="session")
def mlc_server_config(pytestconfig: pytest.Config) -> ServerConfig:
    """The configuration of the session's server; override it to change anything."""
    return _session(pytestconfig).config


@pytest.fixture(scope="session")
def mlc_server_factory(
    pytestconfig: pytest.Config, mlc_server_config: ServerConfig
) -> Iterator[ServerFactory]:
    """Call it with fields of `ServerConfig` that differ, and get a running server."""
    from pytest_mlc_server import pool

    session = _session(pytestconfig)
    servers = _open_pool(pytestconfig, session)

    def on_unavailable(error: BaseException) -> None:
        if session.unavailable == "skip":
            pytest.skip(str(error).partition("\n")[0])

    yield pool.ServerFactory(servers, mlc_server_config, on_unavailable)
    session.close_pool()


def _open_pool(config: pytest.Config, session: Session) -> ServerPool:
    from pytest_mlc_server import reporting

    capture = config.pluginmanager.getplugin("capturemanager")
    if session.config.log_live and capture is not None:
        with capture.global_and_fixture_disabled():
            output = os.dup(2)  # the terminal, not what capture puts in its place
    else:
        output = 2
    pool, health = session.open_pool(output)
    if not config.pluginmanager.has_plugin("mlc-server-tests"):
        watch = reporting.TestWatch(session, pool, health)
        config.pluginmanager.register(watch, "mlc-server-tests")
    return pool


@pytest.fixture(scope="session")
def mlc_server(mlc_server_factory: ServerFactory) -> PopenServer:
    """A running MLC LLM server, started once per session and stopped at its end."""
    __tracebackhide__ = True
    return mlc_server_factory()


@pytest.fixture
def mlc_environ(mlc_server: PopenServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Set, for one test, the variables with which an application finds the server."""
    environment = mlc_server.env()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture
def _mlc_engine_gate(request: pytest.FixtureRequest, mlc_server_config: ServerConfig) -> None:
    marker = request.node.get_closest_marker("mlc_engine")
    _check_marker(request.node, marker)
    engine = mlc_server_config.engine
    if engine not in marker.args:
        pytest.skip(f"for engine {' or '.join(marker.args)}; this run has {engine}")
