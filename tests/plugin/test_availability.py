"""Engines that are not on this machine, and the demand that tests reached a server."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest

from tests.support_plugin import Suite

TWO = """
    def test_first(mlc_server): pass
    def test_second(mlc_server_factory): mlc_server_factory()
    """


def interpreter(suite: Suite, script: str) -> str:
    """Write a program that stands for a Python interpreter."""
    path = suite.path / "interpreter"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


#: An interpreter that has nothing but the standard library.
BARE = f'exec {sys.executable} -I -S "$@"'
NO_DEVICE = "echo 'ValueError: Device is not found on your local environment: cuda:0' >&2; exit 1"

MISSING = [
    pytest.param(BARE, ["--mlc-engine=mlc"], "has no module mlc_llm", id="mlc"),
    pytest.param(BARE, ["--mlc-engine=mock"], "has no module mlc_llm", id="mock"),
    pytest.param(
        NO_DEVICE, ["--mlc-device=cuda"], "device 'cuda' is not on this machine", id="gpu"
    ),
]


@pytest.mark.parametrize(("script", "settings", "reason"), MISSING)
def test_fail_names_the_remedy(
    suite: Suite, script: str, settings: Sequence[str], reason: str
) -> None:
    suite.tests(TWO)
    python = f"--mlc-python={interpreter(suite, script)}"
    result = suite.run_bare(f"--mlc-model={suite.model}", python, *settings)
    result.assert_outcomes(errors=1, failed=1)
    result.stdout.fnmatch_lines([f"E *{reason}*", "*--mlc-engine sim*"])


@pytest.mark.parametrize(("script", "settings", "reason"), MISSING)
def test_skip_names_the_reason(
    suite: Suite, script: str, settings: Sequence[str], reason: str
) -> None:
    suite.tests(TWO)
    python = f"--mlc-python={interpreter(suite, script)}"
    model = f"--mlc-model={suite.model}"
    result = suite.run_bare(model, python, *settings, "--mlc-unavailable=skip", "-rs")
    result.assert_outcomes(skipped=2)
    assert result.ret == 0
    assert [line for line in result.outlines if line.startswith("SKIPPED") and reason in line]


@pytest.mark.parametrize("unavailable", ["fail", "skip"])
def test_a_simulator_without_its_extra_is_unavailable(suite: Suite, unavailable: str) -> None:
    suite.tests(TWO)
    without = suite.path / "without"
    without.mkdir()
    (without / "uvicorn.py").write_text("raise ModuleNotFoundError(name='uvicorn')")
    arguments = ["--mlc-engine=sim", f"--mlc-env=PYTHONPATH={without}", "-rs"]
    result = suite.run_bare(*arguments, f"--mlc-unavailable={unavailable}")
    if unavailable == "skip":
        result.assert_outcomes(skipped=2)
        result.stdout.fnmatch_lines(["SKIPPED*the simulator is not installed*"])
    else:
        result.assert_outcomes(errors=1, failed=1)
        result.stdout.fnmatch_lines(["*pip install 'pytest-mlc-server[[]sim]'*"])


@pytest.mark.parametrize(
    ("orders", "settings"),
    [("exit=3", []), ("die=11", []), ("", ["--mlc-python=no-such-python"])],
)
def test_skip_does_not_hide_other_failures(
    suite: Suite, orders: str, settings: Sequence[str]
) -> None:
    suite.tests(TWO)
    result = suite.run("--mlc-unavailable=skip", *settings, orders=orders)
    result.assert_outcomes(errors=1, failed=1)


REACHING = """
    import pytest
    from urllib.request import urlopen
    from pytest_mlc_server import factories

    own = factories.mlc_server()

    def test_first(mlc_server): pass
    def test_second(own): pass
    def test_asks_late(request):
        urlopen(f"{request.getfixturevalue('mlc_server').base_url}/").close()
    def test_plain(): pass
    def test_skips(mlc_server): pytest.skip()
    """


@pytest.mark.parametrize(("wanted", "code", "workers"), [(3, 0, 0), (4, 1, 0), (3, 0, 2)])
def test_require_counts_the_tests_that_reached_a_server(
    suite: Suite, wanted: int, code: int, workers: int
) -> None:
    suite.tests(REACHING)
    parallel = ["-p", "xdist", f"-n{workers}"] if workers else []
    result = suite.run(f"--mlc-require={wanted}", *parallel)
    result.assert_outcomes(passed=4, skipped=1)
    assert result.ret == code
    shown = [line for line in result.outlines if "tests reached an MLC server" in line]
    assert len(shown) == code
    assert all(f"{wanted} must" in line and "--mlc-require" in line for line in shown)


def test_require_makes_skipping_red(suite: Suite) -> None:
    suite.tests(TWO)
    python = f"--mlc-python={interpreter(suite, BARE)}"
    settings = ["--mlc-unavailable=skip", "--mlc-require=1", f"--mlc-model={suite.model}", python]
    result = suite.run_bare(*settings)
    result.assert_outcomes(skipped=2)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*0 tests reached an MLC server*"])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--collect-only"], pytest.ExitCode.OK),
        (["-k", "nothing"], pytest.ExitCode.TESTS_FAILED),
        (["-k", "plain"], pytest.ExitCode.TESTS_FAILED),
        (["nowhere.py"], pytest.ExitCode.USAGE_ERROR),
    ],
)
def test_require_where_no_test_asks(suite: Suite, arguments: Sequence[str], code: int) -> None:
    suite.tests(REACHING)
    assert suite.run("--mlc-require=1", *arguments).ret == code
    assert suite.starts == []
