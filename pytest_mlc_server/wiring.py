"""Joins pytest and the rest of the package: what the plugin does once anything is configured."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mlc_server import advertise, early, options, pool, runs, workers
from pytest_mlc_server.errors import ConfigError, MLCServerError
from pytest_mlc_server.factory import ServerFactory
from pytest_mlc_server.reading import written
from pytest_mlc_server.reporting import ci, header, progress, requirement, summary, watch
from pytest_mlc_server.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_mlc_server.config import ServerConfig
    from pytest_mlc_server.server import PopenServer
    from pytest_mlc_server.simulator import MLCSim


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
    workerinput = getattr(config, "workerinput", {})
    worker = workerinput.get("workerid")
    run = runs.of_worker(workerinput) if worker else None
    served = workerinput.get("mlc_served")
    try:
        session = Session(given, str(config.invocation_params.dir), worker, run, served)
        session.distributed = not worker and getattr(config.option, "dist", "no") != "no"
        if worker is None and given:
            session.check_workers(workers.local(config.option))
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None
    if worker is None and given:
        header.warn_of_ignored_ini(config, given)
    servers = summary.Summary(session)
    config.pluginmanager.register(servers, "mlc-server-summary")
    page = os.environ.get("GITHUB_STEP_SUMMARY")
    if page and worker is None:
        from pytest_mlc_server.reporting.step_summary import StepSummary

        config.pluginmanager.register(StepSummary(page, servers), "mlc-server-step-summary")
    if session.distributed and given:
        config.pluginmanager.register(Controller(session), "mlc-server-controller")
        config.pluginmanager.register(progress.ControllerProgress(config), "mlc-server-progress")
    if session.durations and worker is None:
        from pytest_mlc_server.reporting import durations

        config.pluginmanager.register(durations.Durations(session), "mlc-server-durations")
    if session.reports and worker is None and not early.only_looks(config):
        _record(config, session)
    if session.require and worker is None:
        config.pluginmanager.register(requirement.Requirement(session), "mlc-server-requirement")
    return session


def _record(config: pytest.Config, session: Session) -> None:
    from pytest_mlc_server.reporting.report import record, writing

    try:
        writing.check(session.reports, written(session.given["report"]))
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None
    servers = config.pluginmanager.getplugin("mlc-server-summary").servers
    config.pluginmanager.register(record.Recorder(session, servers), "mlc-server-report")


class Controller:
    """Tells pytest-xdist workers which run they belong to, and ends what they shared.

    Parameters
    ----------
    session
        The controller's session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._run: dict[str, Any] | None = None
        self._interrupted = False
        self._advertised: advertise.Advertised | None = None

    def _begun(self, config: pytest.Config) -> dict[str, Any]:
        if self._run is None:
            self._run = runs.begin(str(getattr(config.option, "dist", "load")))
        return self._run

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, config: pytest.Config, specs: Sequence[Any]) -> None:
        """Have the server start that workers on other hosts are to use, if there are such."""
        address = self._session.advertise
        if address is None or not any(map(advertise.is_remote, specs)) or early.only_looks(config):
            return
        self._session.run = runs.of_controller(self._begun(config))
        pool, health = self._session.open_pool(_terminal(config, self._session))
        pool.waiting = progress.shown(config, self._session)
        served = self._session.config
        self._advertised = advertise.Advertised(address, served, pool, health)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker, a replaced one too."""
        node.workerinput["mlc_run"] = self._begun(node.config)
        if self._advertised is not None and advertise.is_remote(node.gateway.spec):
            node.workerinput["mlc_served"] = self._advertised.told()

    @pytest.hookimpl(optionalhook=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look after the server for those who cannot: workers on other hosts."""
        gateway = getattr(getattr(report, "node", None), "gateway", None)
        if self._advertised is not None and gateway and advertise.is_remote(gateway.spec):
            self._advertised.after_test(report.nodeid, failed=report.failed)

    def pytest_keyboard_interrupt(self) -> None:
        """Do not wait for anything: who pressed Ctrl-C does not want to."""
        self._interrupted = True

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """End what the workers shared: they are gone by now."""
        self._session.close_parents()
        if self._run is None or self._session.scope != "run":
            return
        from pytest_mlc_server import shared_servers

        self._session.hurry = self._interrupted
        self._session.close_pool()
        timeout = None if self._interrupted else self._session.config.stop_timeout
        with contextlib.suppress(ConfigError):  # no directory to share anything in: told by tests
            shared_servers.end_run(str(self._run["id"]), os.getpid(), timeout)


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


def skip_without_simulator(config: ServerConfig) -> None:
    """Skip a test that scripts the simulator where something else serves."""
    if config.engine == "sim":
        return
    name = "url" if config.url is not None else "engine"
    chosen = config.describe(name)
    if name not in config.origins:
        default = config.engine == options.BY_NAME["engine"].default
        chosen += " (the default)" if default else " (from the fixture mlc_server_config)"
    pytest.skip(f"mlc_sim scripts the simulator (--mlc-engine sim), and this run has {chosen}")


def scripted(server: PopenServer) -> Iterator[MLCSim]:
    """Give a test the simulator's script; fail the test at its end for what it did not expect."""
    __tracebackhide__ = True
    from pytest_mlc_server.simulator import MLCSim

    sim = MLCSim(server)
    sim.clear()
    yield sim
    try:
        sim.end()
    except AssertionError as error:
        pytest.fail(str(error), pytrace=False)


def begin_early(config: pytest.Config, session: Session, tests: pytest.Session | None) -> None:
    """Have the server start now, if it is known which one will be asked for.

    Parameters
    ----------
    config
        pytest's configuration.
    session
        The plugin's session.
    tests
        pytest's session after collection; None before it.
    """
    if session.start != ("eager" if tests is None else "collected") or early.only_looks(config):
        return
    if not early.runs_tests(config):
        if tests is None:
            early.before_workers(session)
        return
    # The first test that asks for a server says what is wrong: it is none of the collection's.
    with contextlib.suppress(MLCServerError):
        if tests is None:
            early.before_collection(session, _open_pool(config, session))
            return
        found = early.after_collection(session, tests)
        if found is not None:
            server_config, changes = found
            factory(config, session, server_config).begin(**changes)


def factory(config: pytest.Config, session: Session, server_config: ServerConfig) -> ServerFactory:
    """Make the factory of servers, and register what watches the tests that use them."""
    servers = _open_pool(config, session)
    if server_config.key() != session.config.key():
        servers.give_up(but=server_config)  # begun before it was known that a fixture overrides it

    def on_unavailable(error: BaseException) -> None:
        if session.unavailable == "skip":
            pytest.skip(str(error).partition("\n")[0])

    return ServerFactory(servers, server_config, on_unavailable)


def _terminal(config: pytest.Config, session: Session) -> int:
    """Return the descriptor that live logs go to."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if not session.config.log_live or capture is None:
        return 2
    with capture.global_and_fixture_disabled():
        return os.dup(2)  # the terminal, not what capture puts in its place


def _open_pool(config: pytest.Config, session: Session) -> pool.ServerPool:
    servers, health = session.open_pool(_terminal(config, session))
    if not config.pluginmanager.has_plugin("mlc-server-tests"):
        tests = watch.TestWatch(session, servers, health)
        config.pluginmanager.register(tests, "mlc-server-tests")
        servers.waiting = progress.shown(config, session)
        if session.usage:
            from pytest_mlc_server.reporting import costs

            config.pluginmanager.register(costs.Costs(session, servers), "mlc-server-costs")
        if session.worker:
            config.pluginmanager.register(summary.Teller(session), "mlc-server-teller")
        if session.reports:
            from pytest_mlc_server.reporting.report.hidden import HiddenSecrets

            config.pluginmanager.register(HiddenSecrets(servers), "mlc-server-hidden")
        from pytest_mlc_server.reporting import others

        if others.is_wanted(config):
            config.pluginmanager.register(others.Others(config), "mlc-server-others")
        if session.trace != "off":
            from pytest_mlc_server.reporting.traces import Traces

            config.pluginmanager.register(Traces(session, servers, tests), "mlc-server-traces")
        if ci.service() == "github":
            config.pluginmanager.register(ci.Harmless(), "mlc-server-harmless")
    return servers
