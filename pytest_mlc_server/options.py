"""The table of settings: one row each, for the CLI flag, ini key and environment variable.

Imported by the plugin at every start of pytest, in projects that never ask for a server too, so
this module imports nothing but what the interpreter has loaded already.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself is not imported: it would be paid for in every pytest run
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    import pytest

#: Exactly the engines there are; `external` is implied by `url`.
ENGINES = ("mlc", "mock", "sim", "external")


class Setting:
    """One row of the table.

    Parameters
    ----------
    name
        Name with dashes, as in the CLI flag without its `--mlc-` prefix.
    kind
        What its text means: ``str``, ``path``, ``choice``, ``device``, ``devices``, ``overrides``,
        ``port``, ``address``, ``seconds``, ``count``, ``pair`` (``K=V``), ``flag`` (yes or no).
    default
        Value where nothing is set. Shown in the help and in the reference page.
    help
        One sentence.
    field
        Field of `ServerConfig` that it sets; None for settings of the test session.
    choices
        The words a ``choice`` may be.
    repeatable
        Whether it may be given several times; a higher source replaces all values of a lower one.
    metavar
        Placeholder in the help.
    """

    __slots__ = (
        "choices",
        "default",
        "field",
        "help",
        "kind",
        "metavar",
        "name",
        "repeatable",
    )

    def __init__(
        self,
        name: str,
        kind: str,
        default: object,
        help: str,  # noqa: A002 - argparse's and pytest's own name for it
        *,
        field: str | None = None,
        choices: tuple[str, ...] = (),
        repeatable: bool = False,
        metavar: str | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.help = help
        self.field = field
        self.choices = choices
        self.repeatable = repeatable
        self.metavar = metavar

    @property
    def key(self) -> str:
        """The ini key, which is the destination of the CLI flag as well: ``mlc_model_lib``."""
        return "mlc_" + self.name.replace("-", "_")

    @property
    def flag(self) -> str:
        """The CLI flag: ``--mlc-model-lib``."""
        return "--mlc-" + self.name

    @property
    def variable(self) -> str:
        """The environment variable: ``PYTEST_MLC_MODEL_LIB``."""
        return "PYTEST_" + self.key.upper()

    def __repr__(self) -> str:
        return f"<Setting {self.name}>"


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "engine",
        "choice",
        "mlc",
        "what serves: the real server, the real server on mock://echo, the simulator",
        field="engine",
        choices=ENGINES,
    ),
    Setting(
        "url",
        "str",
        None,
        "attach to the server at this URL instead of starting one (engine 'external')",
        field="url",
        metavar="URL",
    ),
    Setting(
        "model",
        "path",
        None,
        "model directory, or HF://org/name",
        field="model",
        repeatable=True,
        metavar="MODEL",
    ),
    Setting(
        "model-lib",
        "path",
        None,
        "compiled model library; compiled just in time where none is given",
        field="model_lib",
        metavar="LIB",
    ),
    Setting(
        "device",
        "device",
        "auto",
        "auto, cuda, cuda:1, rocm, metal, vulkan, opencl, cpu, ...",
        field="device",
        metavar="DEVICE",
    ),
    Setting(
        "devices",
        "devices",
        None,
        "GPUs to spread the workers' servers over: 0,1,2,3, UUIDs, or auto (all that may be used)",
        metavar="GPU,GPU",
    ),
    Setting(
        "share-devices",
        "flag",
        False,
        "let workers' servers share GPUs where there are more workers than GPUs in --mlc-devices",
    ),
    Setting(
        "mode",
        "choice",
        "local",
        "engine mode",
        field="mode",
        choices=("local", "interactive", "server"),
    ),
    Setting(
        "overrides",
        "overrides",
        None,
        "engine overrides, 'max_num_sequence=4;gpu_memory_utilization=0.6'",
        field="overrides",
        metavar="K=V;K=V",
    ),
    Setting(
        "additional-model",
        "path",
        (),
        "additional model, PATH or PATH,LIB",
        field="additional_models",
        repeatable=True,
        metavar="PATH[,LIB]",
    ),
    Setting(
        "embedding-model",
        "path",
        None,
        "embedding model directory",
        field="embedding_model",
        metavar="MODEL",
    ),
    Setting(
        "embedding-model-lib",
        "path",
        None,
        "compiled library of the embedding model",
        field="embedding_model_lib",
        metavar="LIB",
    ),
    Setting(
        "speculative-mode",
        "choice",
        "disable",
        "speculative decoding",
        field="speculative_mode",
        choices=("disable", "small_draft", "eagle", "medusa"),
    ),
    Setting(
        "prefix-cache-mode",
        "choice",
        "radix",
        "prefix cache",
        field="prefix_cache_mode",
        choices=("disable", "radix"),
    ),
    Setting(
        "prefill-mode",
        "choice",
        "hybrid",
        "prefill",
        field="prefill_mode",
        choices=("hybrid", "chunked"),
    ),
    Setting(
        "host", "str", "127.0.0.1", "address that the server binds", field="host", metavar="HOST"
    ),
    Setting(
        "port",
        "port",
        "auto",
        "auto (the server chooses) or a number; xdist worker gwN gets the number + N",
        field="port",
        metavar="PORT",
    ),
    Setting(
        "api-key",
        "str",
        None,
        "API key that the server asks for, better in PYTEST_MLC_API_KEY; auto makes a random one",
        field="api_key",
        metavar="KEY",
    ),
    Setting(
        "debug",
        "flag",
        True,
        "the server's debug endpoints (--enable-debug)",
        field="enable_debug",
    ),
    Setting(
        "tracing",
        "flag",
        False,
        "the server's event trace (--enable-tracing)",
        field="enable_tracing",
    ),
    Setting(
        "arg",
        "str",
        (),
        "one more argument for the server's command line, passed on as it is",
        field="args",
        repeatable=True,
        metavar="ARG",
    ),
    Setting(
        "env",
        "pair",
        (),
        "environment variable for the server",
        field="env",
        repeatable=True,
        metavar="K=V",
    ),
    Setting(
        "python",
        "path",
        None,
        "interpreter that has mlc_llm (default: the one that runs pytest)",
        field="python",
        metavar="PYTHON",
    ),
    Setting(
        "launch",
        "choice",
        "plain",
        "how mlc_llm is launched: python -m mlc_llm; direct (its device check in the same "
        "process); warm (direct, forked from a process that has imported it)",
        field="launch",
        choices=("plain", "direct", "warm"),
    ),
    Setting(
        "sim-script",
        "path",
        None,
        "what the simulator (engine 'sim') answers, and how fast: a TOML file of rules and faults",
        field="sim_script",
        metavar="FILE",
    ),
    Setting(
        "ready",
        "choice",
        "generate",
        "what counts as ready: one generated token, or GET /v1/models alone",
        field="ready",
        choices=("generate", "http"),
    ),
    Setting(
        "startup-timeout",
        "seconds",
        120.0,
        "time limit of a start, in seconds",
        field="startup_timeout",
        metavar="SECONDS",
    ),
    Setting(
        "startup-limit",
        "seconds",
        1800.0,
        "time limit of a start whose download or compilation makes progress, in seconds",
        field="startup_limit",
        metavar="SECONDS",
    ),
    Setting(
        "stop-timeout",
        "seconds",
        10.0,
        "time limit of an orderly stop, in seconds; 0 kills at once",
        field="stop_timeout",
        metavar="SECONDS",
    ),
    Setting(
        "log-dir",
        "path",
        None,
        "directory for the servers' logs (default: private and temporary, kept after a failure)",
        field="log_dir",
        metavar="DIR",
    ),
    Setting(
        "log-live",
        "flag",
        False,
        "copy the servers' logs to the terminal as they come",
        field="log_live",
    ),
    Setting(
        "scope",
        "choice",
        "worker",
        "a server for each pytest-xdist worker, or one for all workers of the run on this host",
        choices=("worker", "run"),
    ),
    Setting(
        "advertise",
        "address",
        None,
        "name or address of this host for pytest-xdist workers on other hosts, which its server of "
        "scope run then serves as well",
        metavar="ADDRESS",
    ),
    Setting(
        "reuse",
        "seconds",
        0.0,
        "how long a server stays after its last user, for the next run to attach to, in seconds",
        metavar="SECONDS",
    ),
    Setting(
        "warm",
        "seconds",
        0.0,
        "how long the warm parent (launch warm) stays after its last user, for the next run's "
        "servers to be forked from, in seconds; some 400 MiB of memory, no model and no GPU",
        metavar="SECONDS",
    ),
    Setting(
        "start",
        "choice",
        "collected",
        "when the server starts: before collection, after it if a test needs it, or when asked for",
        choices=("eager", "collected", "lazy"),
    ),
    Setting(
        "max-servers",
        "count",
        None,
        "how many servers live at once, in each worker or (scope run) on this host; idle ones make "
        "room (default: 1 for engine mlc, 4 for the others)",
        metavar="N",
    ),
    Setting(
        "restarts",
        "count",
        3,
        "how often a server that died or wedged is started again; 0 fails later tests at once",
        metavar="N",
    ),
    Setting(
        "reset",
        "choice",
        "never",
        "reset the engine's state (its prefix cache too) before each test or module",
        choices=("never", "test", "module"),
    ),
    Setting(
        "usage",
        "flag",
        True,
        "record what each test costs at the server: requests, tokens, times",
    ),
    Setting(
        "durations",
        "count",
        0,
        "show the N tests that cost most at the server; 0 shows none",
        metavar="N",
    ),
    Setting(
        "trace",
        "choice",
        "off",
        "write the server's event trace of each test, or of each failing one, to a file for "
        "Perfetto; implies --mlc-tracing, and blocks the real server for seconds",
        choices=("off", "on", "retain-on-failure"),
    ),
    Setting(
        "output",
        "path",
        "mlc-output",
        "directory for what tests leave: traces",
        metavar="DIR",
    ),
    Setting(
        "report",
        "path",
        (),
        "write a report of the run to this file, a page (.html) or data (.json)",
        repeatable=True,
        metavar="FILE",
    ),
    Setting(
        "unavailable",
        "choice",
        "fail",
        "what tests do where the engine or its hardware is missing",
        choices=("fail", "skip"),
    ),
    Setting(
        "require",
        "count",
        0,
        "fail the run if fewer than N tests reached a server",
        metavar="N",
    ),
)

BY_NAME = {setting.name: setting for setting in SETTINGS}

#: Upstream's own variable for its server tests: a library whose directory is the model.
UPSTREAM_MODEL_LIB = "MLC_SERVE_MODEL_LIB"


class Given:
    """A value that somebody set, and where.

    Parameters
    ----------
    setting
        The row of the table.
    raw
        The value as it was written: a string, a list of strings for a repeatable setting, a bool
        or a number where the source is typed.
    source
        Where it was written, for people: ``--mlc-port on the command line``.
    base
        Directory that relative paths in it start from.
    """

    __slots__ = ("base", "raw", "setting", "source")

    def __init__(self, setting: Setting, raw: object, source: str, base: str) -> None:
        self.setting = setting
        self.raw = raw
        self.source = source
        self.base = base

    def __repr__(self) -> str:
        return f"<Given {self.setting.name} from {self.source}>"


def add_ini(parser: pytest.Parser) -> None:
    """Register flags and ini keys with pytest."""
    group = parser.getgroup("mlc-server", "a live MLC LLM server for tests")
    for setting, flag, options in _flags():
        group.addoption(flag, **options)
        if flag == setting.flag:
            _add_ini_key(parser, setting)


def add_arguments(parser: argparse.ArgumentParser, *, session: bool = False) -> None:
    """Register the flags that configure a server with a plain argparse parser.

    Parameters
    ----------
    parser
        The parser.
    session
        Whether to register those of a test session as well.
    """
    for setting, flag, options in _flags():
        if session or setting.field is not None:
            parser.add_argument(flag, **options)


def _flags() -> Iterator[tuple[Setting, str, dict[str, Any]]]:
    for setting in SETTINGS:
        text = f"{setting.help}{_default_text(setting)}"
        options: dict[str, Any] = {"dest": setting.key, "default": None, "help": text}
        if setting.kind == "flag":
            on = {**options, "action": "store_const", "const": True}
            yield setting, setting.flag, on
            off = {**options, "action": "store_const", "const": False, "help": f"no {setting.help}"}
            yield setting, f"--mlc-no-{setting.name}", off
            continue
        if setting.repeatable:
            options["action"] = "append"
        options["metavar"] = setting.metavar or "{" + ",".join(setting.choices) + "}"
        yield setting, setting.flag, options


def _default_text(setting: Setting) -> str:
    repeatable = "; repeatable" if setting.repeatable else ""
    if setting.default in (None, ()):
        return repeatable and f" ({repeatable[2:]})"
    default = setting.default
    if isinstance(default, bool):
        default = "on" if default else "off"
    elif isinstance(default, float):
        default = f"{default:g}"
    return f" (default: {default}{repeatable})"


def _add_ini_key(parser: pytest.Parser, setting: Setting) -> None:
    text = f"see {setting.flag}"
    if setting.kind == "flag":
        parser.addini(setting.key, text, type="bool", default=None)
        return
    kind = "linelist" if setting.repeatable else "string"
    # Typed TOML ([tool.pytest]) refuses `mlc_port = 8082` for a string and `mlc_model = "x"` for a
    # list. Newer pytest versions take a union of types; older ones refuse the union itself.
    number = {"port": "int", "count": "int", "seconds": "float"}.get(setting.kind)
    wanted = (kind, "string") if setting.repeatable else (number, kind) if number else kind
    if isinstance(wanted, tuple):
        try:
            parser.addini(setting.key, text, type=wanted, default=None)  # type: ignore[arg-type]
        except (AssertionError, TypeError, ValueError):
            pass
        else:
            return
    parser.addini(setting.key, text, type=kind, default=None)  # type: ignore[arg-type]


def collect(
    cli: Callable[[Setting], tuple[object, str] | None],
    environ: Mapping[str, str],
    ini: Callable[[Setting], tuple[object, str, str] | None],
    cwd: str,
) -> dict[str, Given]:
    """Find what was set, by precedence: command line, environment, ini.

    Parameters
    ----------
    cli
        Value and source of a setting on the command line, or None.
    environ
        The environment.
    ini
        Value, source and directory of the file of a setting in the ini file, or None.
    cwd
        Where relative paths of the command line and the environment start.

    Returns
    -------
    dict
        `Given` by name of the setting, for those that are set.
    """
    given: dict[str, Given] = {}
    for setting in SETTINGS:
        found = cli(setting)
        if found is not None:
            given[setting.name] = Given(setting, *found, cwd)
            continue
        text = environ.get(setting.variable, "")
        raw = [line for line in text.split("\n") if line] if setting.repeatable else text
        if raw:  # an empty variable is how CI systems spell "not set"
            given[setting.name] = Given(setting, raw, f"{setting.variable} in the environment", cwd)
            continue
        written = ini(setting)
        if written is not None:
            given[setting.name] = Given(setting, *written)
    _add_upstream_variable(given, environ, cwd)
    return given


def _add_upstream_variable(given: dict[str, Given], environ: Mapping[str, str], cwd: str) -> None:
    library = environ.get(UPSTREAM_MODEL_LIB)
    engine = given["engine"].raw if "engine" in given else "mlc"
    # The mock engine brings a library of its own, an external server its model.
    if library and engine in ("mlc", "sim") and not {"model", "model-lib", "url"} & given.keys():
        source = f"{UPSTREAM_MODEL_LIB} in the environment"
        directory = library.replace("\\", "/").rpartition("/")[0]
        given["model"] = Given(BY_NAME["model"], [directory or "."], source, cwd)
        given["model-lib"] = Given(BY_NAME["model-lib"], library, source, cwd)
