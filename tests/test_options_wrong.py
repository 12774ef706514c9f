"""What cannot be read ends the run at once, and names setting, value and origin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_mlc_server.options import BY_NAME, SETTINGS, Setting
from tests.support_settings import ASK, SAMPLES, flags, ini, run

#: Settings of which every text can be read.
ANYTHING_GOES = {
    "model-lib",
    "embedding-model",
    "embedding-model-lib",
    "api-key",
    "arg",
    "python",
    "sim-script",
    "log-dir",
    "output",
}

WRONG = [setting for setting in SETTINGS if setting.name not in ANYTHING_GOES]


def usage_error(pytester: pytest.Pytester, *args: str) -> str:
    """Run pytest, which must stop at configuration, and return the error."""
    pytester.makepyfile("def test_it(mlc_server_config): print('COLLECTED')")
    result = pytester.runpytest_inprocess("-s", *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "COLLECTED" not in result.stdout.str()
    text = result.stderr.str()
    assert text.startswith("ERROR: ")
    assert "Traceback" not in text
    return text


def test_every_setting_that_can_be_wrong_has_a_wrong_sample() -> None:
    assert {n for n, sample in SAMPLES.items() if sample.wrong is None} == ANYTHING_GOES | {
        "additional-model"
    }


SOURCES = ("cli", "addopts", "env", "ini", "-o")


def _runs() -> Iterator[tuple[Setting, str]]:
    """Have each setting wrong in one source, in turn, and one of each kind in all of them."""
    kinds: set[str] = set()
    for index, setting in enumerate(WRONG):
        # A yes-or-no flag takes no value on the command line.
        sources = SOURCES[2:] if setting.kind == "flag" else SOURCES
        first = setting.kind not in kinds
        kinds.add(setting.kind)
        for source in sources if first else (sources[index % len(sources)],):
            yield setting, source


@pytest.mark.parametrize(
    ("setting", "source"),
    [pytest.param(*one, id=f"{one[0].name}-{one[1]}") for one in _runs()],
)
def test_a_wrong_value_names_setting_value_and_origin(
    setting: Setting, source: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = SAMPLES[setting.name]
    wrong = sample.wrong or "a,"  # a library must follow the comma of an additional model
    args: list[str] = []
    if source == "env":
        monkeypatch.setenv(setting.variable, wrong)
        origin = f"{setting.variable} in the environment"
    elif source == "ini":
        file = pytester.makefile(".ini", pytest=ini(setting, wrong))
        origin = f"{setting.key} in {file}"
    elif source == "addopts":
        pytester.makefile(".ini", pytest=f"[pytest]\naddopts = '{flags(setting, wrong)[0]}'\n")
        origin = f"{setting.flag} in addopts"
    elif source == "-o":
        pytester.makefile(".ini", pytest="[pytest]\n")  # which must not get the blame
        args = ["-o", f"{setting.key}={wrong}"]
        origin = f"-o {setting.key} on the command line"
    else:
        args = flags(setting, wrong)
        origin = f"{setting.flag} on the command line"
    text = usage_error(pytester, *args)
    assert origin in text
    assert wrong in text
    assert sample.says in text


def test_all_wrong_values_are_reported_together(pytester: pytest.Pytester) -> None:
    text = usage_error(pytester, "--mlc-port=0x1F90", "--mlc-engine=mok")
    assert "2 problems" in text
    assert "port = '0x1F90' (from --mlc-port on the command line)" in text
    assert "engine = 'mok' (from --mlc-engine on the command line)" in text


@pytest.mark.parametrize("name", ["model", "model-lib", "api-key", "host", "log-dir", "python"])
def test_an_empty_text_on_the_command_line_is_refused(name: str, pytester: pytest.Pytester) -> None:
    text = usage_error(pytester, f"--mlc-{name}=")
    assert f"{name} = " in text
    assert f"--mlc-{name} on the command line" in text


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("max_num_sequenze=4", "'max_num_sequence'"),
        ("completely_else=4", "unknown key 'completely_else'"),
        ("max_num_sequence=four", "max_num_sequence takes a whole number, not 'four'"),
        ("max_num_sequence=4.0", "a whole number"),
        ("gpu_memory_utilization=much", "a number"),
        ("prefix_cache_mode=disable", "--mlc-prefix-cache-mode"),
        ("prefill_mode=chunked", "--mlc-prefill-mode"),
        ("opt=O2;opt=O0", "'O2' and as 'O0'"),
    ],
)
def test_wrong_overrides_end_the_run(overrides: str, says: str, pytester: pytest.Pytester) -> None:
    text = usage_error(pytester, f"--mlc-overrides={overrides}")
    assert "--mlc-overrides on the command line" in text
    assert overrides.partition("=")[0] in text
    assert says in text


def test_secrets_do_not_reach_the_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_MLC_ENV", "HF_TOKEN=s3cret\nLONELY")
    monkeypatch.setenv("PYTEST_MLC_API_KEY", "t0psecret")
    text = usage_error(pytester)
    assert "PYTEST_MLC_ENV in the environment" in text
    assert "LONELY" in text
    assert "s3cret" not in text
    assert "t0psecret" not in text


def test_help_lists_every_flag_and_key_whatever_is_set(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_MLC_PORT", "nonsense")  # help must help then, too
    monkeypatch.setenv("COLUMNS", "200")
    result = pytester.runpytest_inprocess("--help")
    assert result.ret == 0
    words = result.stdout.str().replace("=", " ").split()
    for setting in SETTINGS:
        assert setting.flag in words
        assert setting.key in words
        if setting.kind == "flag":
            assert f"--mlc-no-{setting.name}" in words


# --- upstream's own variable ----------------------------------------------------------------------


def pair(pytester: pytest.Pytester, *args: str) -> tuple[str | None, str | None]:
    config = run(pytester, *args).config
    assert config is not None
    return config.model, config.model_lib


@pytest.mark.parametrize(
    ("library", "model"),
    [("/models/a/lib.so", "/models/a"), ("sub/a/lib.so", "sub/a"), ("lib.so", ".")],
)
def test_upstreams_variable_gives_model_and_library(
    library: str, model: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLC_SERVE_MODEL_LIB", library)
    assert pair(pytester) == (model, library)


@pytest.mark.parametrize("name", ["model", "model-lib"])
@pytest.mark.parametrize("source", ["cli", "env", "ini"])
def test_upstreams_variable_is_ignored_where_one_of_the_pair_is_set(
    name: str, source: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLC_SERVE_MODEL_LIB", "/models/a/lib.so")
    setting = BY_NAME[name]
    if source == "env":
        monkeypatch.setenv(setting.variable, "x")
    elif source == "ini":
        pytester.makefile(".ini", pytest=ini(setting, "x"))
    args = flags(setting, "x") if source == "cli" else []
    assert pair(pytester, *args) == (("x", None) if name == "model" else (None, "x"))


def test_an_empty_upstream_variable_is_not_set(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLC_SERVE_MODEL_LIB", "")
    assert pair(pytester) == (None, None)


# --- what needs more than its own value -----------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--mlc-engine=sim", "--mlc-url=http://h:1"], ["http://h:1", "'sim'"]),
        (["--mlc-engine=external"], ["external", "--mlc-url"]),
        ([ASK, "--mlc-embedding-model=e"], ["embedding_model = 'e'", "--mlc-embedding-model-lib"]),
        ([ASK, "--mlc-embedding-model-lib=e"], ["embedding_model_lib", "--mlc-embedding-model"]),
        ([ASK, "--mlc-arg=--port", "--mlc-arg=9000"], ["--port", "--mlc-port"]),
        (["--mlc-model=/no/such/place"], ["/no/such/place"]),
    ],
)
def test_contradictions_are_found_at_first_use_with_their_origins(
    args: list[str], says: list[str], pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        """
        def test_without(mlc_server_config): pass
        def test_with(mlc_server): pass
        """
    )
    result = pytester.runpytest_inprocess(*args, "-p", "no:randomly")
    result.assert_outcomes(passed=1, errors=1)
    text = result.stdout.str()
    assert "ConfigError" in text
    for word in says:
        assert word in text
    flag = args[-1].partition("=")[0]
    assert f"{flag} on the command line" in text


def test_asking_with_nothing_configured_lists_the_ways(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_with(mlc_server): pass")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    ways = ["--mlc-model", "--mlc-engine mock", "--mlc-engine sim", "--mlc-url"]
    for way in [*ways, "mlc_model", "PYTEST_MLC_MODEL"]:
        assert way in result.stdout.str()
