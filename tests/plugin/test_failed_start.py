"""A start that fails: tried once, reported to every test that needs it, and legible."""

from __future__ import annotations

import re

import pytest

from tests.support_plugin import Suite

NEEDS_IT = """
    import pytest
    from pytest_mlc_server import StartError

    def test_first(mlc_server): pass
    def test_second(mlc_server): pass
    def test_third(mlc_environ): pass
    def test_factory(mlc_server_factory):
        with pytest.raises(StartError) as caught:
            mlc_server_factory()
        assert len(str(caught.value).splitlines()) <= 4
    def test_other(): pass
    """


def sections(result: pytest.RunResult) -> dict[str, str]:
    """Return what pytest printed about each error, by the name of the test."""
    text = result.stdout.str()
    parts = re.split(r"^_+ ERROR at setup of (\w+) _+$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_it_is_tried_once_and_short_after_the_first_time(suite: Suite) -> None:
    suite.tests(NEEDS_IT)
    result = suite.run(orders="say=no-such-luck exit=3")
    result.assert_outcomes(errors=3, passed=2)
    assert len(suite.starts) == 1
    first, *others = (sections(result)[f"test_{name}"] for name in ("first", "second", "third"))
    assert "exit code 3" in first
    assert "no-such-luck" in first
    assert "-m mlc_llm serve" in first
    for other in others:
        errors = [line for line in other.splitlines() if line.startswith("E ")]
        assert "exit code 3" in errors[0]
        assert len(errors) <= 3
        assert "test_first" in other


def test_every_other_configuration_has_a_try_of_its_own(suite: Suite) -> None:
    suite.tests(
        """
        import pytest
        from pytest_mlc_server import StartError

        @pytest.mark.parametrize("mode", ["local", "server", "local", "server"])
        def test_configuration(mlc_server_factory, mode):
            with pytest.raises(StartError):
                mlc_server_factory(mode=mode)
        """
    )
    suite.run(orders="exit=3").assert_outcomes(passed=4)
    assert len(suite.starts) == 2


@pytest.mark.parametrize(
    "setting", ["--mlc-mode=server", "--mlc-python=no-such-python", "--mlc-embedding-model=x"]
)
def test_the_traceback_is_not_about_this_package(suite: Suite, setting: str) -> None:
    suite.tests("def test_first(mlc_server): pass")
    result = suite.run(setting, orders="exit=3")
    result.assert_outcomes(errors=1)
    frame = re.compile(r"^\S*pytest_mlc_server/\w+\.py:\d+", flags=re.MULTILINE)
    frames = frame.findall(result.stdout.str())
    assert len(frames) <= 1
    before_error = sections(result)["test_first"].partition("\nE ")[0]
    assert len(before_error.splitlines()) <= 20


def test_secrets_stay_out_of_the_report(suite: Suite) -> None:
    suite.tests("def test_first(mlc_server): pass")
    result = suite.run(
        "--mlc-api-key=hush-hush", "--mlc-env=TOKEN=quite-private", "-l", orders="exit=3"
    )
    result.assert_outcomes(errors=1)
    assert "--api-key" in result.stdout.str()
    for secret in ("hush-hush", "quite-private"):
        assert secret not in result.stdout.str()


def test_its_log_is_kept_and_named(suite: Suite) -> None:
    suite.tests("def test_first(mlc_server): pass")
    result = suite.run(orders="exit=3")
    (log,) = suite.left_logs
    assert "leaving as ordered" in log.read_text()
    assert str(log) in result.stdout.str()


def test_a_mistake_in_the_configuration_is_reported_the_same_way(suite: Suite) -> None:
    suite.tests(NEEDS_IT.replace("StartError", "ConfigError"))
    result = suite.run("--mlc-python=no-such-python")
    result.assert_outcomes(errors=3, passed=2)
    assert suite.starts == []
    first, second = (sections(result)[f"test_{name}"] for name in ("first", "second"))
    assert "--mlc-python on the command line" in first
    assert "no-such-python" in second
    assert "test_first" in second
