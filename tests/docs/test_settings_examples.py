"""The settings that the documents show, in each of the files that pytest reads them from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support_docs import EXAMPLES

SETTINGS = EXAMPLES / "settings"

FILES = {"pytest.ini": "pytest.ini", "ini_options.toml": "pyproject.toml"}
if pytest.version_tuple >= (9,):
    FILES["typed.toml"] = "pyproject.toml"


def test_every_file_is_tested() -> None:
    """On a pytest before 9, which does not know the typed form, that one is left out."""
    assert {path.name for path in SETTINGS.iterdir()} - {"typed.toml"} == set(FILES) - {
        "typed.toml"
    }


@pytest.mark.parametrize("example", FILES)
def test_they_are_understood(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, example: str
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    text = Path(SETTINGS, example).read_text(encoding="utf-8")
    (pytester.path / FILES[example]).write_text(text, encoding="utf-8")
    pytester.makepyfile(
        """
        def test_config(mlc_server_config):
            assert mlc_server_config.model == "dist/Llama-3-8B-Instruct-q4f16_1-MLC"
            assert mlc_server_config.device == "cuda"
            assert mlc_server_config.startup_timeout == 300
        """
    )
    result = pytester.runpytest_subprocess("-p", "mlc_server", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["mlc-server: engine mlc, model dist/Llama-3*, device cuda, *"])
