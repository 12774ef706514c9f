"""A path of ours that pytest takes for a path with tests, and its ini file with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import write_model


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    write_model(path)
    return path


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    pytester.makeini("[pytest]\nmlc_device = cpu\n")
    pytester.makepyfile("def test_config(mlc_server_config): pass")
    # pytester's own arguments would hide it: they name a directory of the project.
    return pytester.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments)


def test_a_path_after_a_space_that_hides_the_ini_file_is_a_warning(
    pytester: pytest.Pytester, elsewhere: Path
) -> None:
    result = run(pytester, "--mlc-model", str(elsewhere))
    result.stdout.fnmatch_lines([f"*write --mlc-model={elsewhere}*"])


def test_a_path_after_an_equals_sign_hides_nothing(
    pytester: pytest.Pytester, elsewhere: Path
) -> None:
    result = run(pytester, f"--mlc-model={elsewhere}")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["mlc-server: *, device cpu, *"])
    result.stdout.no_fnmatch_line("*write --mlc-model*")
