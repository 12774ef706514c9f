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

    import openai
    import requests

    from pytest_mlc_server.accounts import MLCUsage
    from pytest_mlc_server.config import ServerConfig
    from pytest_mlc_server.factory import ServerFactory
    from pytest_mlc_server.server import PopenServer
    from pytest_mlc_server.session import Session
    from pytest_mlc_server.simulator import MLCSim

_SESSION = pytest.StashKey["Session"]()

MARKER = (
    "mlc_engine(*engines): run this test only on these engines (mlc, mock, sim, external); "
    "on others it is skipped"
)

BUDGET_MARKER = (
    "mlc_budget(tokens=None, seconds=None, ttft=None): fail this test if it costs more tokens at "
    "its servers, takes longer, or waits longer for a first token"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the settings."""
    options.add_ini(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings; a wrong one ends the run here, as any wrong option of pytest."""
    config.addinivalue_line("markers", MARKER)
    config.addinivalue_line("markers", BUDGET_MARKER)
    if config.option.help or config.option.version:
        return
    given = _given(config)
    if given:
        from pytest_mlc_server import wiring

        config.stash[_SESSION] = wiring.open_session(config, given)


def _given(config: pytest.Config) -> dict[str, options.Given]:
    cwd = str(config.invocation_params.dir)

    def from_cli(setting: options.Setting) -> tuple[object, str] | None:
        value = getattr(config.option, setting.key, None)
        if value is None:
            return None
        from pytest_mlc_server import wiring

        return value, wiring.cli_source(config, setting)

    def from_ini(setting: options.Setting) -> tuple[object, str, str] | None:
        try:
            value: object = config.getini(setting.key)
            problem = None
        except (TypeError, ValueError, pytest.UsageError) as error:
            value, problem = None, error
        if problem is None and (value is None or value == "" or value == []):
            return None
        from pytest_mlc_server import wiring

        return wiring.from_ini(config, setting, value, problem)

    return options.collect(from_cli, os.environ, from_ini, cwd)


def _session(config: pytest.Config) -> Session:
    session = config.stash.get(_SESSION, None)
    if session is None:
        from pytest_mlc_server import wiring

        session = config.stash[_SESSION] = wiring.open_session(config, {})
    return session


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what is configured, if anything is."""
    session = config.stash.get(_SESSION, None)
    if session is None:
        return None
    from pytest_mlc_server.reporting import header

    return header.header(session, getattr(config.option, "tx", None) or ())


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have the tests that use the server run once with each model, where there are several."""
    session = metafunc.config.stash.get(_SESSION, None)
    if session is not None and len(session.configs) > 1 and "mlc_server" in metafunc.fixturenames:
        from pytest_mlc_server import matrix

        matrix.parametrize(metafunc, session)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a test after the model that its server is to have."""
    if argname != "mlc_server":
        return None
    from pytest_mlc_server import matrix

    return matrix.test_id(val)


@pytest.hookimpl(tryfirst=True)  # before pytest groups tests by their parameters
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the markers, and have the tests that need an engine ask for it first."""
    chosen = [item for item in items if "mlc_server" in _params(item)]
    if chosen:
        from pytest_mlc_server import matrix

        matrix.group(chosen, _session(config), stay=getattr(config.option, "loadgroup", False))
    limited = [item for item in items if item.get_closest_marker("mlc_budget") is not None]
    if limited:
        from pytest_mlc_server.reporting import budgets

        budgets.watch(config, _session(config), limited)
    for item in items:
        names = getattr(item, "fixturenames", None)
        if names is not None and "mlc_sim" in names:
            names.insert(0, "_mlc_sim_gate")
        marker = item.get_closest_marker("mlc_engine")
        if marker is None:
            continue
        # An xdist worker that ends here is an internal error of xdist: there the test says it.
        if not hasattr(config, "workerinput"):
            from pytest_mlc_server import wiring

            wiring.check_marker(item, marker)
        if names is not None:
            # First of all: a test that is skipped must not have started a server before.
            names.insert(0, "_mlc_engine_gate")


def _params(item: pytest.Item) -> dict[str, object]:
    callspec = getattr(item, "callspec", None)
    return {} if callspec is None else callspec.params


def pytest_sessionstart(session: pytest.Session) -> None:
    """Have the server start before collection, where that was asked for."""
    _begin_early(session.config, None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have the server start as soon as it is known that a test needs it."""
    _begin_early(session.config, session)


def _begin_early(config: pytest.Config, tests: pytest.Session | None) -> None:
    session = config.stash.get(_SESSION, None)
    if session is not None and session.start != "lazy":
        from pytest_mlc_server import wiring

        wiring.begin_early(config, session, tests)


@pytest.fixture(scope="session")
def mlc_server_config(pytestconfig: pytest.Config) -> ServerConfig:
    """The configuration of the session's server; override it to change anything."""
    return _session(pytestconfig).config


@pytest.fixture(scope="session")
def mlc_server_factory(
    pytestconfig: pytest.Config, mlc_server_config: ServerConfig
) -> Iterator[ServerFactory]:
    """Call it with fields of `ServerConfig` that differ, and get a running server."""
    from pytest_mlc_server import wiring

    session = _session(pytestconfig)
    yield wiring.factory(pytestconfig, session, mlc_server_config)
    session.close_pool()


@pytest.fixture(scope="session")
def mlc_server(
    request: pytest.FixtureRequest, mlc_server_factory: ServerFactory
) -> Iterator[PopenServer]:
    """A running MLC LLM server: the session's, or that of the model which the test runs with."""
    __tracebackhide__ = True
    from pytest_mlc_server import matrix

    yield from matrix.lent(request, mlc_server_factory, _session(request.config))


@pytest.fixture
def mlc_environ(mlc_server: PopenServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Set, for one test, the variables with which an application finds the server."""
    environment = mlc_server.env()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture(scope="session")
def _mlc_openai() -> None:
    __tracebackhide__ = True
    from pytest_mlc_server import clients

    clients.require_openai()


@pytest.fixture
def mlc_client(_mlc_openai: None, mlc_server: PopenServer) -> Iterator[openai.OpenAI]:
    """A client of the server from OpenAI's package: its URL and key, no retries, no proxy."""
    from pytest_mlc_server import clients

    yield from clients.client(mlc_server)


@pytest.fixture
def mlc_async_client(
    _mlc_openai: None, mlc_server: PopenServer, request: pytest.FixtureRequest
) -> Iterator[openai.AsyncOpenAI]:
    """As `mlc_client`, asynchronous: for pytest-asyncio, anyio, or an event loop of one's own."""
    from pytest_mlc_server import clients

    yield from clients.async_client(mlc_server, request.node)


@pytest.fixture
def mlc_session(mlc_server: PopenServer) -> Iterator[requests.Session]:
    """A session of `requests` whose relative URLs are the server's; with its key, without proxy."""
    from pytest_mlc_server import clients

    yield from clients.session(mlc_server)


@pytest.fixture
def mlc_sim(_mlc_sim_gate: None, mlc_server: PopenServer) -> Iterator[MLCSim]:
    """Script the simulator and see what it was asked, afresh for each test; skips elsewhere."""
    __tracebackhide__ = True
    from pytest_mlc_server import wiring

    yield from wiring.scripted(mlc_server)


@pytest.fixture
def mlc_usage(mlc_server: PopenServer, request: pytest.FixtureRequest) -> MLCUsage:  # noqa: ARG001
    """What the test has cost so far at its servers: requests, tokens, times, errors."""
    from pytest_mlc_server.reporting import costs

    return costs.live(_session(request.config))


@pytest.fixture
def _mlc_sim_gate(request: pytest.FixtureRequest, mlc_server_config: ServerConfig) -> None:
    from pytest_mlc_server import matrix, wiring

    wiring.skip_without_simulator(matrix.config_of(request.node, mlc_server_config))


@pytest.fixture
def _mlc_engine_gate(request: pytest.FixtureRequest, mlc_server_config: ServerConfig) -> None:
    from pytest_mlc_server import matrix, wiring

    config = matrix.config_of(request.node, mlc_server_config)
    wiring.skip_for_other_engines(request.node, config)
