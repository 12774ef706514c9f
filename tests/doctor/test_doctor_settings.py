"""What was set, where, and all that is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_mlc_server.doctor.case import with_remedy
from pytest_mlc_server.options import BY_NAME, Given
from tests.support_doctor import Doctor, codes, facts, found, only, problems


def test_nothing_is_configured(doctor: Doctor) -> None:
    diagnosis = doctor()
    assert problems(diagnosis) == {"settings.not-configured"}
    assert "--mlc-engine sim" in only(diagnosis, "settings.not-configured").remedy
    assert only(diagnosis, "settings.none").level == "note"
    assert diagnosis.servers == []
    assert not diagnosis.healthy


def test_a_conftest_may_configure_what_is_not_seen(doctor: Doctor) -> None:
    Path("tests", "below").mkdir(parents=True)
    Path("tests/below/conftest.py").write_text(
        "import pytest\n@pytest.fixture\ndef mlc_server_config():\n    return 1 / 0\n"
    )
    Path("tests/conftest.py").write_text("raise SystemExit('this must not be executed')\n")
    diagnosis = doctor()
    assert problems(diagnosis) == set()
    note = only(diagnosis, "settings.override-not-seen")
    assert "below/conftest.py defines mlc_server_config" in note.text
    assert only(diagnosis, "settings.perhaps-configured").level == "warning"
    elsewhere = doctor(tests=["nowhere"])
    assert "settings.not-configured" in codes(elsewhere)


def test_the_settings_and_their_sources(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_MLC_MODEL", "given-in-the-environment")
    diagnosis = doctor("--mlc-engine=sim", "--mlc-scope=run", ini="/some/pytest.ini")
    texts = [one.text for one in found(diagnosis, "settings.set")]
    assert texts == [
        "engine = 'sim' (--mlc-engine on the command line)",
        "model = ['given-in-the-environment'] (PYTEST_MLC_MODEL in the environment)",
        "scope = 'run' (--mlc-scope on the command line)",
    ]
    assert only(diagnosis, "settings.ini").text == "pytest reads /some/pytest.ini"
    assert facts(diagnosis, "settings")["settings"][0] == {
        "name": "engine",
        "value": "'sim'",
        "source": "--mlc-engine on the command line",
    }
    assert diagnosis.healthy


def test_all_mistakes_are_told_together(doctor: Doctor) -> None:
    diagnosis = doctor(
        "--mlc-engine=simm",
        "--mlc-port=none",
        "--mlc-startup-timeout=-1",
        "--mlc-require=many",
        "--mlc-device=cude",
        "--mlc-overrides=no_such_key=1",
        "--mlc-report=report.txt",
        "--mlc-scope=run",
        "--mlc-reset=test",
        "--mlc-warm=5",
        unreadable=["mlc_debug in /p/pytest.ini: invalid truth value 'perhaps'"],
    )
    wrong = " ".join(f"{one.text} -> {one.remedy}\n" for one in found(diagnosis, "settings.wrong"))
    for part in (
        "engine = 'simm'",
        "port = 'none'",
        "startup-timeout = '-1'",
        "require = 'many'",
        "device = 'cude'",
        "unknown key 'no_such_key'",
        "report = ['report.txt']",
        "resets the engine under the tests of other workers",
        "-> give --mlc-launch warm as well, or neither",
        "invalid truth value 'perhaps'",
        "-> did you mean 'sim'?",
    ):
        assert part in wrong
    assert all(one.remedy for one in found(diagnosis, "settings.wrong"))
    # A model is not to be missed while the engine cannot be read.
    assert "settings.not-configured" not in codes(diagnosis)


def test_the_rest_is_examined_all_the_same(doctor: Doctor) -> None:
    diagnosis = doctor("--mlc-engine=sim", "--mlc-mode=lokal", "--mlc-port=auto")
    assert "settings.wrong" in codes(diagnosis)
    assert {"simulator.installed", "port.auto", "command.line"} <= codes(diagnosis)


def test_contradictions_name_both_places(doctor: Doctor, model_dir: str) -> None:
    diagnosis = doctor(
        "--mlc-engine=sim",
        f"--mlc-model={model_dir}",
        "--mlc-model=other",
        "--mlc-port=8080",
        "--mlc-devices=0",
        "--mlc-device=cuda:1",
        "--mlc-embedding-model=e",
    )
    (first, *_) = found(diagnosis, "settings.wrong")
    assert "names several models" in first.text
    assert first.remedy == "use auto, and mlc_server.base_url"
    assert any(
        "needs embedding_model_lib" in one.text for one in found(diagnosis, "settings.wrong")
    )
    assert [server.model for server in diagnosis.servers] == [model_dir, "other"]


@pytest.mark.parametrize(
    ("facts_", "code"),
    [
        ({"error": "Error importing plugin 'x'"}, "pytest.cannot-read"),
        ({"error": "pytest did not read", "hangs": True}, "pytest.hangs"),
        ({"loaded": False}, "pytest.plugin-missing"),
        ({"workers": 4}, "pytest.workers"),
        ({"xdist": False, "foreign": ["-n", "4"]}, "extra.missing"),
        ({"foreign": ["--of-a-conftest"]}, "settings.unknown-arguments"),
        ({"ignored_ini": "pytest took /x for tests: write --mlc-model=/x"}, "settings.ini-ignored"),
        ({"ini": ""}, "settings.no-ini"),
        ({}, "pytest.version"),
    ],
)
def test_what_pytest_says_of_itself(doctor: Doctor, facts_: dict[str, object], code: str) -> None:
    diagnosis = doctor("--mlc-engine=sim", **facts_)
    finding = only(diagnosis, code)
    assert finding.remedy or finding.level in ("ok", "note")
    assert {"simulator.installed", "command.line"} <= codes(diagnosis)


@pytest.mark.parametrize(
    ("disabled", "remedy"),
    [("1", "unset PYTEST_DISABLE_PLUGIN_AUTOLOAD"), ("", "-p no:mlc_server")],
)
def test_why_the_plugin_is_not_loaded(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, disabled: str, remedy: str
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", disabled)
    assert remedy in only(doctor(loaded=False), "pytest.plugin-missing").remedy


@pytest.mark.parametrize(
    ("problem", "remedy"),
    [
        ("port 80 is occupied by process 1: a; b; stop that program, or use x", "stop that"),
        ("x = 1: y contradicts: give one of them", "give one"),
        ("x = 'sm': unknown; did you mean 'sim'?", "did you"),
        ("x = 1: nothing to do", "other"),
    ],
)
def test_a_remedy_is_told_apart(problem: str, remedy: str) -> None:
    text, what_to_do = with_remedy(problem, "otherwise")
    assert what_to_do.startswith(remedy)
    assert remedy == "other" or problem.startswith(text)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    values=st.dictionaries(
        st.sampled_from([name for name in BY_NAME if name not in ("url", "log-dir", "python")]),
        st.text(st.characters(codec="utf-8"), max_size=12),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_is_set_is_reported_and_nothing_is_raised(
    doctor: Doctor, values: dict[str, str]
) -> None:
    from pytest_mlc_server.doctor.settings import Settings, judge

    given_ = {
        name: Given(setting, [text] if setting.repeatable else text, f"{name} of a test", "/")
        for name, text in values.items()
        for setting in [BY_NAME[name]]
    }
    judged = judge(Settings(given_, "/"))
    assert all(judged.problems)
    assert judged.problems or judged.session
