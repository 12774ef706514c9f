"""``--mlc-max-servers``: how many servers of one process live at once, and which one makes room."""

from __future__ import annotations

import pytest

from tests.support_models import Models, models

__all__ = ["models"]

#: Notes, before each test, how many of the servers started so far are alive.
ALIVE = """
import psutil

def alive():
    with open("started.txt") as file:
        pids = [int(line) for line in file]
    return [pid for pid in pids if psutil.pid_exists(pid)
            and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]

@pytest.fixture(autouse=True)
def count(request):
    yield
    with open("alive.txt", "a") as file:
        file.write(f"{len(alive())}\\n")

"""


def alive(models: Models) -> list[int]:
    """Return how many servers were alive at the end of each test."""
    return [int(line) for line in (models.suite.path / "alive.txt").read_text().split()]


def suite_of(models: Models, source: str) -> None:
    models.suite.write(test_it="import os, pytest\n" + ALIVE + source)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--mlc-start=lazy"], [1, 1, 1, 1]),
        (["--mlc-start=lazy", "--mlc-max-servers=1"], [1, 1, 1, 1]),
        (["--mlc-start=lazy", "--mlc-max-servers=2"], [1, 2, 2, 2]),
        (["--mlc-start=lazy", "--mlc-max-servers=3"], [1, 2, 3, 3]),
    ],
)
def test_no_more_live_than_may_be(models: Models, flags: list[str], expected: list[int]) -> None:
    suite_of(models, "def test_it(mlc_server): assert mlc_server.is_alive()")
    models.run(*flags, models="abcd").assert_outcomes(passed=4)
    assert alive(models) == expected
    assert models.loads == 4


def test_the_least_recently_used_makes_room(models: Models) -> None:
    # The order a b a c: b is the one that was not used for longest when c needs room.
    source = """
import pytest

ORDER = ["a", "b", "a", "c", "a", "b"]

@pytest.mark.parametrize("n", range(len(ORDER)))
def test_it(n, mlc_server_factory):
    from pytest_mlc_server.models import Choice
    server = mlc_server_factory.lend(Choice({"model": ORDER[n]}, 0, ""))
    with open("pids.txt", "a") as file:
        file.write(f"{ORDER[n]} {server.pid}\\n")
    mlc_server_factory.take_back(server)
"""
    models.suite.write(test_it=source)
    models.make("a", "b", "c")
    models.run("--mlc-max-servers=2", models="a").assert_outcomes(passed=6)
    lines = (models.suite.path / "pids.txt").read_text().split("\n")[:-1]
    first_a, first_b, second_a, c, third_a, second_b = lines
    assert first_a == second_a == third_a
    assert first_b != second_b
    assert models.loads == 4
    assert c.startswith("c ")


@pytest.mark.parametrize("limit", ["", "2"])
def test_what_the_factory_gave_stays(models: Models, limit: str) -> None:
    suite_of(
        models,
        """
@pytest.fixture(scope="session")
def kept(mlc_server_factory):
    return mlc_server_factory(model="c")

def test_it(kept, mlc_server):
    assert kept.is_alive() and mlc_server.is_alive()
""",
    )
    models.make("c")
    flags = [f"--mlc-max-servers={limit}"] if limit else []
    models.run("--mlc-start=lazy", *flags).assert_outcomes(passed=2)
    assert alive(models) == [2, 2]
    assert models.loads == 3


@pytest.mark.parametrize("how", ["mlc_server_factory(model='b')", "mlc_server_factory(fresh=True)"])
def test_more_than_was_asked_for_is_an_error_that_names_what_is_in_use(
    models: Models, how: str
) -> None:
    suite_of(models, f"def test_it(mlc_server, mlc_server_factory): {how}")
    models.make("b")
    result = models.run("--mlc-max-servers=1", models="a")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*BoundError: max-servers = '1' (from --mlc-max-servers on the command line): mlc *"]
    )
    assert "the one server is in use: mlc 'a' (of mlc_server)" in result.stdout.str()
    assert models.loads == 1


def test_a_temporary_server_makes_room_again(models: Models) -> None:
    suite_of(
        models,
        """
@pytest.mark.parametrize("n", range(2))
def test_it(n, mlc_server_factory):
    with mlc_server_factory.temporary() as server:
        assert server.is_alive()
""",
    )
    models.run("--mlc-max-servers=1", models="a").assert_outcomes(passed=2)
    assert alive(models) == [0, 0]


def test_without_a_bound_of_its_own_test_code_may_have_more(models: Models) -> None:
    suite_of(
        models,
        "def test_it(mlc_server, mlc_server_factory): mlc_server_factory(model='b').is_alive()",
    )
    models.make("b")
    models.run(models="a").assert_outcomes(passed=1)
    assert alive(models) == [2]


@pytest.mark.parametrize("xdist", [[], ["-p", "xdist", "-n1"]], ids=["alone", "xdist"])
def test_the_next_model_starts_while_the_first_is_tested(models: Models, xdist: list[str]) -> None:
    suite_of(
        models,
        """
import time

def test_it(mlc_server):
    with open("started.txt") as file:
        assert len(file.readlines()) >= 1
    while len(alive()) < 2:  # the other one starts beside this test
        time.sleep(0.005)
""",
    )
    models.run("--mlc-max-servers=2", *xdist).assert_outcomes(passed=2)
    assert models.loads == 2


def test_lazy_starts_nothing_ahead(models: Models) -> None:
    suite_of(models, "def test_it(mlc_server): pass")
    models.run("--mlc-max-servers=2", "--mlc-start=lazy").assert_outcomes(passed=2)
    assert alive(models) == [1, 2]


def test_a_server_that_died_while_it_was_idle_is_started_again(models: Models) -> None:
    suite_of(
        models,
        """
import signal, time
from pytest_mlc_server.models import Choice

def test_it(mlc_server_factory):
    def lend(model):
        server = mlc_server_factory.lend(Choice({"model": model}, 0, ""))
        mlc_server_factory.take_back(server)
        return server
    first = lend("a")
    os.kill(first.pid, signal.SIGKILL)
    while first.poll() == "ready":
        time.sleep(0.005)
    assert lend("a").pid != first.pid
    assert lend("a").pid == lend("a").pid
""",
    )
    models.run("--mlc-max-servers=2", models="a").assert_outcomes(passed=1)
    assert models.loads == 2


def test_a_server_that_waited_is_reset_for_its_next_test(models: Models) -> None:
    suite_of(
        models,
        """
from pytest_mlc_server.models import Choice

def test_it(mlc_server_factory):
    for model in "aba":
        mlc_server_factory.take_back(mlc_server_factory.lend(Choice({"model": model}, 0, "")))
""",
    )
    models.make("b")
    flags = ("--mlc-max-servers=2", "--mlc-reset=test")
    models.run(*flags, models="a", orders="requests=requests.txt").assert_outcomes(passed=1)
    requests = (models.suite.path / "requests.txt").read_text()
    assert requests.count("POST /debug/reset_engine") == 1


def test_a_server_that_the_next_test_does_not_use_is_not_started_again(models: Models) -> None:
    suite_of(
        models,
        """
import signal, time

def test_it(mlc_server):
    if mlc_server.model == "a":
        os.kill(mlc_server.pid, signal.SIGKILL)
        while mlc_server.poll() == "ready":
            time.sleep(0.005)
        pytest.fail("as it should")
""",
    )
    result = models.run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["test_it.py::test_it[[]a]: *; not started again"])
    assert models.loads == 2


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_a_wrong_number_names_the_setting(models: Models, value: str) -> None:
    models.tests()
    result = models.run(f"--mlc-max-servers={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = f"max-servers = '{value}' (from --mlc-max-servers on the command line): expected a whole"
    assert text in result.stderr.str()


def test_an_external_server_is_not_bounded(models: Models) -> None:
    models.tests()
    result = models.suite.run_bare("--mlc-url=http://127.0.0.1:9", "--mlc-max-servers=2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stderr.str()
    assert "max-servers = '2' (from --mlc-max-servers on the command line) bounds" in text
    assert "url = 'http://127.0.0.1:9' (from --mlc-url on the command line)" in text
