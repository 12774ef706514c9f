"""Every setting on the command line, in the environment and in ini files, and who wins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pytest_mlc_server import EngineUnavailableError, PopenServer, ServerConfig, plugin
from pytest_mlc_server.options import BY_NAME, SETTINGS, Given, Setting
from pytest_mlc_server.reading import read_session
from tests.support_settings import SAMPLES, Outcome, flags, ini, run, seen, surroundings

ALL = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)

#: Names and defaults as the project promises them; None where nothing is set.
DEFAULTS: dict[str, Any] = {
    "engine": "mlc",
    "url": None,
    "model": None,
    "model-lib": None,
    "device": "auto",
    "devices": None,
    "share-devices": False,
    "mode": "local",
    "overrides": None,
    "additional-model": (),
    "embedding-model": None,
    "embedding-model-lib": None,
    "speculative-mode": "disable",
    "prefix-cache-mode": "radix",
    "prefill-mode": "hybrid",
    "host": "127.0.0.1",
    "port": "auto",
    "api-key": None,
    "debug": True,
    "tracing": False,
    "arg": (),
    "env": (),
    "python": None,
    "launch": "plain",
    "sim-script": None,
    "ready": "generate",
    "startup-timeout": 120.0,
    "startup-limit": 1800.0,
    "stop-timeout": 10.0,
    "log-dir": None,
    "log-live": False,
    "advertise": None,
    "scope": "worker",
    "reuse": 0.0,
    "warm": 0.0,
    "start": "collected",
    "max-servers": None,
    "restarts": 3,
    "reset": "never",
    "usage": True,
    "durations": 0,
    "trace": "off",
    "output": "mlc-output",
    "report": (),
    "unavailable": "fail",
    "require": 0,
}


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every start find its engine missing: what was read is the question here."""

    def start(self: PopenServer, extra_env: object = None) -> None:
        raise EngineUnavailableError("not on this machine")

    monkeypatch.setattr(PopenServer, "start", start)
    monkeypatch.setattr(PopenServer, "begin", lambda _: None)


def write_ini(pytester: pytest.Pytester, text: str) -> Path:
    return pytester.makefile(".ini", pytest=text)


def test_the_table_has_the_promised_settings_and_defaults() -> None:
    assert {s.name: s.default for s in SETTINGS} == DEFAULTS


def test_every_setting_has_a_sample() -> None:
    assert sorted(SAMPLES) == sorted(BY_NAME)


@pytest.mark.parametrize("name", [n for n in DEFAULTS if BY_NAME[n].repeatable])
def test_only_these_settings_are_repeatable(name: str) -> None:
    assert name in ("model", "additional-model", "arg", "env", "report")


@ALL
def test_names_follow_from_the_settings_name(setting: Setting) -> None:
    words = setting.name.split("-")
    assert setting.flag == "--mlc-" + "-".join(words)
    assert setting.key == "mlc_" + "_".join(words)
    assert setting.variable == "PYTEST_MLC_" + "_".join(words).upper()


def test_a_default_run_reads_the_defaults(pytester: pytest.Pytester) -> None:
    config = run(pytester).config
    assert config is not None
    for setting in SETTINGS:
        if setting.field is not None:
            value = getattr(config, setting.field)
            # None leaves it to upstream, whose default the table names; mappings are empty.
            default = {} if setting.name in ("overrides", "env") else setting.default
            upstreams = setting.name in ("speculative-mode", "prefix-cache-mode", "prefill-mode")
            assert value == (None if upstreams else default), setting


# --- each source, and that it beats the lower ones ------------------------------------------------


@ALL
def test_ini_beats_the_default(setting: Setting, pytester: pytest.Pytester) -> None:
    sample = SAMPLES[setting.name]
    write_ini(pytester, ini(setting, *sample.text))
    assert seen(setting, run(pytester, *surroundings(setting))) == sample.value


@ALL
def test_command_line_beats_environment_and_ini(
    setting: Setting, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = SAMPLES[setting.name]
    write_ini(pytester, ini(setting, sample.other))
    monkeypatch.setenv(setting.variable, sample.other)
    outcome = run(pytester, *flags(setting, *sample.text), *surroundings(setting))
    assert seen(setting, outcome) == sample.value


# All settings at once, read by pytest and not acted upon: together they contradict each other.


def read_all(pytester: pytest.Pytester, *args: str) -> dict[str, Any]:
    """Return what pytest makes of all settings that are set."""
    given = plugin._given(pytester.parseconfig("-p", "no:cacheprovider", *args))
    return {name: _value(one) for name, one in given.items()}


def _value(one: Given) -> Any:
    if one.setting.field is not None:
        config = ServerConfig.from_given({one.setting.name: one}, cwd=os.getcwd())
        return getattr(config, one.setting.field)
    value = read_session(one)
    return tuple(map(os.path.relpath, value)) if one.setting.name == "report" else value


def write_all(pytester: pytest.Pytester, which: str, more: str = "") -> None:
    lines = [ini(s, *_texts(s, which)).partition("\n")[2] for s in SETTINGS]
    write_ini(pytester, "[pytest]\n" + "".join(lines) + more)


def _texts(setting: Setting, which: str) -> tuple[str, ...]:
    sample = SAMPLES[setting.name]
    return sample.text if which == "text" else (sample.other,)


def set_all(monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    for setting in SETTINGS:
        monkeypatch.setenv(setting.variable, "\n".join(_texts(setting, which)))


def override_all(which: str) -> list[str]:
    """Return ``-o`` for all settings."""
    pairs = (f"{s.key}=" + "\n".join(_texts(s, which)) for s in SETTINGS)
    return [word for pair in pairs for word in ("-o", pair)]


WANTED = {name: sample.value for name, sample in SAMPLES.items()}


def sources(pytester: pytest.Pytester, *args: str) -> dict[str, str]:
    """Return where pytest says that each setting was set."""
    given = plugin._given(pytester.parseconfig("-p", "no:cacheprovider", *args))
    return {name: one.source for name, one in given.items()}


def test_the_origin_of_every_setting_is_known(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [flag for s in SETTINGS for flag in flags(s, *SAMPLES[s.name].text)]
    file = write_ini(pytester, f"[pytest]\naddopts = {' '.join(map(repr, words))}\n")
    assert sources(pytester) == {s.name: f"{s.flag} in addopts" for s in SETTINGS}
    on_the_line = {s.name: f"{s.flag} on the command line" for s in SETTINGS}
    assert sources(pytester, *words) == on_the_line
    write_all(pytester, "text")
    assert sources(pytester) == {s.name: f"{s.key} in {file}" for s in SETTINGS}
    overridden = {s.name: f"-o {s.key} on the command line" for s in SETTINGS}
    assert sources(pytester, *override_all("text")) == overridden
    set_all(monkeypatch, "text")
    assert sources(pytester) == {s.name: f"{s.variable} in the environment" for s in SETTINGS}


def test_environment_beats_ini(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(pytester, "other")
    set_all(monkeypatch, "text")
    assert read_all(pytester) == WANTED


def test_addopts_is_the_command_line(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"'{flag}'" for s in SETTINGS for flag in flags(s, *SAMPLES[s.name].text)]
    write_all(pytester, "other", f"addopts = {' '.join(words)}\n")
    set_all(monkeypatch, "other")
    assert read_all(pytester) == WANTED


def test_override_ini_replaces_the_ini_value(pytester: pytest.Pytester) -> None:
    write_all(pytester, "other")
    assert read_all(pytester, *override_all("text")) == WANTED


def test_environment_beats_override_ini(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, "text")
    assert read_all(pytester, *override_all("other")) == WANTED


def test_an_empty_environment_variable_is_not_set(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(pytester, "text")
    for setting in SETTINGS:
        monkeypatch.setenv(setting.variable, "")
    assert read_all(pytester) == WANTED


@pytest.mark.parametrize("name", ["model", "additional-model", "arg", "env"])
def test_a_variable_of_empty_lines_is_not_set(
    name: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, sample = BY_NAME[name], SAMPLES[name]
    write_ini(pytester, ini(setting, *sample.text))
    monkeypatch.setenv(setting.variable, "\n\n")
    assert seen(setting, run(pytester)) == sample.value


def test_environment_keeps_blanks_inside_a_line(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_MLC_ARG", '--allow-origins\n["a b"]\n')
    assert seen(BY_NAME["arg"], run(pytester)) == ("--allow-origins", '["a b"]')


def test_the_last_flag_wins(pytester: pytest.Pytester) -> None:
    outcome = run(pytester, "--mlc-debug", "--mlc-no-debug", "--mlc-port=1", "--mlc-port=2")
    assert outcome.config is not None
    assert (outcome.config.enable_debug, outcome.config.port) == (False, 2)


# --- forms of ini files ---------------------------------------------------------------------------

FORMS = {
    "pytest.ini": """
        [pytest]
        mlc_model = HF://org/a
        mlc_port = 8082
        mlc_startup_timeout = 2.5
        mlc_stop_timeout = 3
        mlc_debug = no
        mlc_arg =
            --allow-origins
            ["*"]
    """,
    "tox.ini": """
        [pytest]
        mlc_model = HF://org/a
        mlc_port = 8082
        mlc_startup_timeout = 2.5
        mlc_stop_timeout = 3
        mlc_debug = false
        mlc_arg =
            --allow-origins
            ["*"]
    """,
    "pyproject.toml, ini_options": """
        [tool.pytest.ini_options]
        mlc_model = "HF://org/a"
        mlc_port = "8082"
        mlc_startup_timeout = "2.5"
        mlc_stop_timeout = "3"
        mlc_debug = "false"
        mlc_arg = ["--allow-origins", '["*"]']
    """,
    "pyproject.toml, ini_options with types": """
        [tool.pytest.ini_options]
        mlc_model = ["HF://org/a"]
        mlc_port = 8082
        mlc_startup_timeout = 2.5
        mlc_stop_timeout = 3
        mlc_debug = false
        mlc_arg = ["--allow-origins", '["*"]']
    """,
    "pyproject.toml, typed": """
        [tool.pytest]
        mlc_model = "HF://org/a"
        mlc_port = 8082
        mlc_startup_timeout = 2.5
        mlc_stop_timeout = 3
        mlc_debug = false
        mlc_arg = ["--allow-origins", '["*"]']
    """,
    "pyproject.toml, typed with texts": """
        [tool.pytest]
        mlc_model = ["HF://org/a"]
        mlc_port = "8082"
        mlc_startup_timeout = "2.5"
        mlc_stop_timeout = "3"
        mlc_debug = false
        mlc_arg = ["--allow-origins", '["*"]']
    """,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_ini_file_is_read_alike(form: str, pytester: pytest.Pytester) -> None:
    if "typed" in form and pytest.version_tuple < (9, 0):
        pytest.skip("[tool.pytest] is read from pytest 9 on")
    pytester.path.joinpath(form.partition(",")[0]).write_text(_dedent(FORMS[form]))
    config = run(pytester).config
    assert config is not None
    assert config.model == "HF://org/a"
    assert config.port == 8082
    assert (config.startup_timeout, config.stop_timeout) == (2.5, 3.0)
    assert config.enable_debug is False
    assert config.args == ("--allow-origins", '["*"]')


def _dedent(text: str) -> str:
    return "\n".join(line[8:] for line in text.splitlines()) + "\n"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("mlc_port = [1]", "port"),
        ("mlc_port = 1.5", "port"),
        ("mlc_device = 3", "device"),
        ("mlc_debug = 'maybe'", "debug"),
        ("mlc_require = true", "require"),
        ("mlc_stop_timeout = -1", "stop-timeout"),
    ],
)
def test_a_wrong_type_in_typed_toml_is_a_usage_error(
    line: str, name: str, pytester: pytest.Pytester
) -> None:
    if pytest.version_tuple < (9, 0):
        pytest.skip("[tool.pytest] is read from pytest 9 on")
    file = pytester.makepyprojecttoml(f"[tool.pytest]\n{line}\n")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stderr.str()
    assert BY_NAME[name].key in text
    assert str(file) in text
    assert line.partition(" = ")[2].strip("[]").replace("true", "True") in text


# --- relative paths -------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ini file's directory; pytest is called from one beside it."""
    directory = pytester.mkdir("project")
    monkeypatch.chdir(pytester.mkdir("called-from"))
    return directory


def _path_value(name: str, outcome: Outcome) -> list[str]:
    value = seen(BY_NAME[name], outcome)
    if name != "additional-model":
        return [os.path.abspath(one) for one in value] if name == "report" else [value]
    (model,) = value
    return [model] if isinstance(model, str) else list(model)


@pytest.mark.parametrize(
    ("name", "text"),
    [(s.name, "sub/x.json") for s in SETTINGS if s.kind == "path"]
    + [("additional-model", "sub/x,lib/y.so"), ("model", "./x"), ("model", "../x")],
)
def test_a_relative_path_of_an_ini_file_starts_from_that_file(
    name: str, text: str, pytester: pytest.Pytester, elsewhere: Path
) -> None:
    file = elsewhere / "pytest.ini"
    file.write_text(ini(BY_NAME[name], text))
    outcome = run(pytester, "-c", str(file), str(pytester.path))
    expected = [(elsewhere / part).resolve() for part in text.split(",")]
    assert [Path(part) for part in _path_value(name, outcome)] == expected


@pytest.mark.parametrize(
    ("name", "text", "source"),
    [("model", "./x", source) for source in ("env", "addopts", "-o")]
    + [(s.name, "../sub/x.json", "cli") for s in SETTINGS if s.kind == "path"]
    + [("additional-model", "sub/x,lib/y.so", "cli")],
)
def test_any_other_relative_path_starts_from_where_pytest_was_called(
    name: str,
    text: str,
    source: str,
    pytester: pytest.Pytester,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting, called_from = BY_NAME[name], Path.cwd()
    addopts = f"addopts = {flags(setting, text)[0]}\n" if source == "addopts" else ""
    (elsewhere / "pytest.ini").write_text(f"[pytest]\n{addopts}")
    if source == "env":
        monkeypatch.setenv(setting.variable, text)
    args = {"cli": flags(setting, text), "-o": ["-o", f"{setting.key}={text}"]}.get(source, [])
    outcome = run(pytester, "-c", str(elsewhere / "pytest.ini"), *args, str(pytester.path))
    assert outcome.config is not None
    assert outcome.config.cwd == str(called_from)
    expected = [(called_from / part).resolve() for part in text.split(",")]
    # What is relative stays so: the server starts in that directory, and the model is its id.
    got = [(called_from / part).resolve() for part in _path_value(name, outcome)]
    assert got == expected


@pytest.mark.parametrize("name", ["model", "additional-model", "embedding-model"])
def test_a_remote_model_of_an_ini_file_is_left_alone(
    name: str, pytester: pytest.Pytester, elsewhere: Path
) -> None:
    file = elsewhere / "pytest.ini"
    file.write_text(ini(BY_NAME[name], "HF://org/name"))
    outcome = run(pytester, "-c", str(file), str(pytester.path))
    assert _path_value(name, outcome) == ["HF://org/name"]


def test_a_bare_interpreter_name_of_an_ini_file_is_a_command(
    pytester: pytest.Pytester, elsewhere: Path
) -> None:
    file = elsewhere / "pytest.ini"
    file.write_text(ini(BY_NAME["python"], "python3.99"))
    outcome = run(pytester, "-c", str(file), str(pytester.path))
    assert seen(BY_NAME["python"], outcome) == "python3.99"


def test_the_home_directory_is_expanded(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    outcome = run(pytester, "--mlc-model=~/models/a")
    assert seen(BY_NAME["model"], outcome) == "/home/somebody/models/a"
