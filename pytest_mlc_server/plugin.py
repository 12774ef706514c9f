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


def _given(config: pytest.Config, unreadable: list[str] | None = None) -> dict[str, options.Given]:
    """Return what was set, and where; what cannot be read goes to a list, if there is one."""
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

        try:
            return wiring.from_ini(config, setting, value, problem)
        except pytest.UsageError as error:
            if unreadable is None:
                raise
            unreadable.append(str(error))
            return None

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
    """The configuration of the session's server; override it to change anything.

    It comes from the settings. Override it in a ``conftest.py``, with the same scope, and return
    ``mlc_server_config.replace(...)``; what the fixtures below give follows it. A configuration
    that contradicts itself is a `ConfigError`, before anything is started.
    """
    return _session(pytestconfig).config


@pytest.fixture(scope="session")
def mlc_server_factory(
    pytestconfig: pytest.Config, mlc_server_config: ServerConfig
) -> Iterator[ServerFactory]:
    """Call it with fields of `ServerConfig` that differ, and get a running server.

    ``mlc_server_factory(overrides={"max_num_sequence": 1})``. The same configuration twice is the
    same server; ``fresh=True`` is one that nobody else gets. Such servers live until the session
    ends, those of ``with mlc_server_factory.temporary(...) as server:`` until the end of the block.
    """
    from pytest_mlc_server import wiring

    session = _session(pytestconfig)
    yield wiring.factory(pytestconfig, session, mlc_server_config)
    session.close_pool()


@pytest.fixture(scope="session")
def mlc_server(
    request: pytest.FixtureRequest, mlc_server_factory: ServerFactory
) -> Iterator[PopenServer]:
    """A running MLC LLM server: the session's, or that of the model which the test runs with.

    It is ready: it has generated a token, unless the setting ``ready`` asks for less. A start that
    fails is a `StartError` in the first test, told whole, and in short in each further one; where
    the engine or its hardware is missing, an `EngineUnavailableError`, which
    ``--mlc-unavailable skip`` turns into skips. A server that died is started again, behind the
    same handle, before the next test that needs it.
    """
    __tracebackhide__ = True
    from pytest_mlc_server import lending

    yield from lending.lent(request, mlc_server_factory, _session(request.config))


@pytest.fixture
def mlc_environ(mlc_server: PopenServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Set, for one test, the variables with which an application finds the server.

    ``OPENAI_BASE_URL``, ``OPENAI_API_KEY`` and ``OPENAI_MODEL``; and, where the environment names
    an HTTP proxy and the server is one that was started, ``NO_PROXY`` with its host. The value is
    a dict of what was set. For all tests: ``usefixtures = mlc_environ`` in the ini file.
    """
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
    """A client of the server from OpenAI's package: its URL and key, no retries, no proxy.

    Its time limit is 60 s, and it is closed with the test. It needs the extra ``openai``, and says
    so before a server is started.
    """
    from pytest_mlc_server import clients

    yield from clients.client(mlc_server)


@pytest.fixture
def mlc_async_client(
    _mlc_openai: None, mlc_server: PopenServer, request: pytest.FixtureRequest
) -> Iterator[openai.AsyncOpenAI]:
    """As `mlc_client`, asynchronous: for pytest-asyncio, anyio, or an event loop of one's own.

    It keeps no connection open after an answer. A stream that a test leaves unread is closed in the
    test's own loop when its function ends.
    """
    from pytest_mlc_server import clients

    yield from clients.async_client(mlc_server, request.node)


@pytest.fixture
def mlc_session(mlc_server: PopenServer) -> Iterator[requests.Session]:
    """A session of `requests` whose relative URLs are the server's; with its key, without proxy.

    ``mlc_session.get("/v1/models")``. The key is sent to the server alone, not to other hosts whose
    URLs it is given. It is closed with the test.
    """
    from pytest_mlc_server import clients

    yield from clients.session(mlc_server)


@pytest.fixture
def mlc_sim(_mlc_sim_gate: None, mlc_server: PopenServer) -> Iterator[MLCSim]:
    """Script the simulator and see what it was asked, afresh for each test; skips elsewhere.

    ``mlc_sim.when("weather").reply("Sunny.")``. On another engine than ``sim`` the test is skipped,
    before a server is started for it. The test fails at its end if a reply function failed, if a
    `when` was left without an answer, or, with ``mlc_sim.default("fail")``, if no rule was for a
    request.
    """
    __tracebackhide__ = True
    from pytest_mlc_server import wiring

    yield from wiring.scripted(mlc_server)


@pytest.fixture
def mlc_usage(mlc_server: PopenServer, request: pytest.FixtureRequest) -> MLCUsage:  # noqa: ARG001
    """What the test has cost so far at its servers: requests, tokens, times, errors.

    ``assert mlc_usage.completion_tokens < 200``. What is not known raises `UsageUnknownError` when
    it is read, with the reason. With ``--mlc-no-usage`` the test is skipped.
    """
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
