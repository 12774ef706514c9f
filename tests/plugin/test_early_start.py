"""The server starts while pytest is on its way to the first test that uses it; never on a guess."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import pytest

from tests.conftest import WATCHDOG, await_gone
from tests.plugin.test_health_runs import summary
from tests.support_plugin import Suite
from tests.support_runs import BEFORE, waiting

pytestmark = pytest.mark.slow

__all__ = ["waiting"]  # a fixture

# --- when it starts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fixture", ["mlc_server", "mlc_environ", "mine, mlc_server_config", "indirectly", "small"]
)
@pytest.mark.parametrize("arguments", [[], ["--mlc-start=collected"]], ids=["default", "collected"])
def test_it_starts_when_collection_ends(
    suite: Suite, fixture: str, arguments: Sequence[str]
) -> None:
    fixtures = """
    import pytest
    from pytest_mlc_server import factories
    small = factories.mlc_server(mode="server")

    @pytest.fixture(scope="module")
    def mine(mlc_server): return mlc_server

    @pytest.fixture
    def indirectly(mine): return mine
    """
    suite.tests(fixtures + BEFORE.format(first="wait_for_start()", fixture=fixture))
    result = suite.run(*arguments)
    result.assert_outcomes(passed=2)
    assert len(suite.starts) == 1
    assert len(summary(result)) == 1


def test_lazy_starts_it_for_the_first_test_that_asks(suite: Suite) -> None:
    suite.tests(BEFORE.format(first="assert not started()", fixture="mlc_server"))
    suite.run("--mlc-start=lazy").assert_outcomes(passed=2)
    assert len(suite.starts) == 1


def test_eager_starts_it_before_collection(suite: Suite) -> None:
    suite.tests(
        "from conftest import wait_for_start\nwait_for_start()\ndef test_uses_it(mlc_server): pass"
    )
    suite.run("--mlc-start=eager").assert_outcomes(passed=1)
    assert len(suite.starts) == 1


def test_the_first_test_waits_for_the_same_start(suite: Suite) -> None:
    go = suite.path / "go"
    suite.tests(
        f"""
        import pathlib
        from conftest import pids, wait_for_start

        def test_first():
            wait_for_start()
            pathlib.Path({str(go)!r}).touch()

        def test_uses_it(mlc_server):
            assert pids() == [mlc_server.pid]
        """
    )
    suite.run(orders=f"wait={go}").assert_outcomes(passed=2)


@pytest.mark.parametrize("start", ["collected", "eager"])
def test_in_scope_run_it_starts_once_for_all_workers(suite: Suite, start: str) -> None:
    pytest.importorskip("xdist")
    suite.tests(BEFORE.format(first="wait_for_start()", fixture="mlc_server"))
    result = suite.run(
        "-p", "xdist", "-n2", "--dist=each", "--mlc-scope=run", f"--mlc-start={start}"
    )
    result.assert_outcomes(passed=4)
    assert len(suite.starts) == 1


@pytest.mark.parametrize(
    ("dist", "needing", "counts"),
    [
        # The first worker begins; with so few tests, another one may get the test.
        ("load", 1, (1, 2)),
        ("worksteal", 1, (1, 2)),
        ("loadfile", 3, (1, 2)),
        ("loadscope", 3, (1, 2)),
        ("each", 1, (3,)),
    ],
)
def test_workers_that_get_no_test_with_a_server_start_none(
    suite: Suite, dist: str, needing: int, counts: Sequence[int]
) -> None:
    pytest.importorskip("xdist")
    suite.tests(
        f"""
        import pytest

        @pytest.mark.parametrize("n", range({needing}))
        def test_uses_it(mlc_server, n): pass
        """
    )
    suite.write(test_other="def test_other(): pass")
    result = suite.run("-p", "xdist", "-n3", f"--dist={dist}")
    assert result.ret == 0
    assert len(suite.starts) in counts


# --- what nobody asks for, and what fails ---------------------------------------------------------


@pytest.mark.parametrize("orders", ["", "hang"])
def test_a_server_that_nobody_asks_for_is_gone_at_the_end(suite: Suite, orders: str) -> None:
    suite.tests(
        """
        import pytest
        from conftest import wait_for_start

        @pytest.fixture
        def fails_before(): pytest.fail("before the server")

        def test_first(): wait_for_start()
        def test_uses_it(fails_before, mlc_sometimes): pass

        @pytest.fixture
        def mlc_sometimes(request, mlc_server_factory): pass
        def test_never(fails_before, mlc_server): pass
        """
    )
    # The session's fixture would be made first otherwise.
    text = (
        (suite.path / "test_it.py")
        .read_text()
        .replace(
            "def test_never(fails_before, mlc_server)",
            "@pytest.fixture(scope='session', autouse=True)\ndef _early(request):\n"
            "    yield\n\ndef test_never(fails_before, late)",
        )
    )
    text += (
        "\n@pytest.fixture\ndef late(fails_before, request):\n"
        "    return request.getfixturevalue('mlc_server')\n"
    )
    (suite.path / "test_it.py").write_text(text)
    result = suite.run("--mlc-start=eager", orders=orders)
    result.assert_outcomes(passed=1, errors=2)
    assert len(suite.starts) == 1
    suite.await_nothing_left()
    assert suite.left_logs == []


@pytest.mark.parametrize("start", ["collected", "eager"])
def test_a_failed_early_start_is_told_by_the_first_test_that_asks(suite: Suite, start: str) -> None:
    suite.tests(
        """
        from conftest import wait_for_start

        def test_first(): wait_for_start()
        def test_uses_it(mlc_server): pass
        def test_uses_it_too(mlc_server): pass
        """
    )
    result = suite.run(f"--mlc-start={start}", orders="exit=3")
    result.assert_outcomes(passed=1, errors=2)
    assert len(suite.starts) == 1
    text = result.stdout.str()
    assert "ERROR at setup of test_uses_it " in text
    assert "its process ended (exit code 3)" in text
    assert "stand-in: leaving as ordered" in text
    assert "first reported by test_it.py::test_uses_it" in text


@pytest.mark.parametrize("start", ["collected", "eager"])
@pytest.mark.parametrize(
    "wrong", ["--mlc-model=nowhere", "--mlc-log-dir=/proc/nowhere", "--mlc-python=/no/python"]
)
def test_what_is_wrong_before_the_start_is_told_by_the_first_test_that_asks(
    suite: Suite, wrong: str, start: str
) -> None:
    suite.tests("def test_first(): pass\ndef test_uses_it(mlc_server): pass")
    model = [] if "model" in wrong else [f"--mlc-model={suite.model}"]
    result = suite.run_bare(f"--mlc-start={start}", *model, wrong)
    result.assert_outcomes(passed=1, errors=1)
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert suite.starts == []


@pytest.mark.parametrize("start", ["collected", "eager"])
def test_ctrl_c_while_it_starts_leaves_nothing(suite: Suite, start: str) -> None:
    busy = "    while True: time.sleep(0.02)\n"
    text = "import time\nfrom conftest import wait_for_start\n"
    if start == "eager":
        text += f"wait_for_start()\nopen('busy', 'w').close()\nif True:\n{busy}"
    text += f"def test_first():\n    wait_for_start()\n    open('busy', 'w').close()\n{busy}"
    text += "def test_uses_it(mlc_server): pass\n"
    (suite.path / "test_it.py").write_text(text)
    process = suite.begin(f"--mlc-start={start}", orders="hang")
    suite.await_file("busy")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(WATCHDOG) == pytest.ExitCode.INTERRUPTED
    (pid,) = suite.starts
    await_gone(pid)
