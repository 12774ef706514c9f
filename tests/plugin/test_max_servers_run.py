"""``--mlc-max-servers`` with ``--mlc-scope run``: all workers of a run together have so many."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_mlc_server import shared_servers
from tests.conftest import await_
from tests.plugin.test_max_servers import alive, suite_of
from tests.support_models import Models, models

__all__ = ["models"]

pytest.importorskip("xdist")

pytestmark = pytest.mark.slow

RUN = ("-p", "xdist", "--mlc-scope=run")


@pytest.fixture(autouse=True)
def _own_directory(models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the servers of these runs apart from this user's, and end those that wait."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    yield
    for server in shared_servers.everywhere():
        server.stop(5.0)
        server.await_guardian()


EIGHT = """
@pytest.mark.parametrize("n", range(4))
def test_it(mlc_server, n):
    assert mlc_server.is_alive()
"""


@pytest.mark.parametrize("dist", ["load", "loadscope", "loadgroup", "worksteal", "each"])
@pytest.mark.parametrize("limit", [1, 2])
def test_the_workers_together_have_no_more(models: Models, dist: str, limit: int) -> None:
    suite_of(models, EIGHT)
    flags = ("-n2", f"--dist={dist}", f"--mlc-max-servers={limit}")
    result = models.run(*RUN, *flags, models="abc")
    result.assert_outcomes(passed=24 if dist == "each" else 12)
    assert max(alive(models)) <= limit
    assert models.loads >= 3
    models.suite.await_nothing_left()


#: pytest-xdist 3.8 writes its groups where pytest 9.2 does not look for them.
groups = pytest.mark.skipif(
    not hasattr(pytest.Item, "_nodeid"), reason="xdist's groups do not work with this pytest"
)


def test_the_tests_of_a_model_are_one_group_for_xdist(models: Models) -> None:
    models.suite.write(
        conftest="""
        import os
        import pytest

        @pytest.hookimpl(trylast=True)
        def pytest_collection_modifyitems(items):
            groups = [
                f"{item.name} {mark.args[0]}"
                for item in items
                for mark in item.iter_markers("xdist_group")
            ]
            with open("groups.txt", "w") as file:
                file.write("\\n".join(groups))
        """
    )
    models.tests(
        """
        def test_all(mlc_server): pass
        @pytest.mark.xdist_group("mine")
        def test_own(mlc_server): pass
        def test_without(): pass
        """
    )
    models.run("-p", "xdist", "-n1", "--dist=loadgroup").assert_outcomes(passed=5)
    groups = (models.suite.path / "groups.txt").read_text().split("\n")
    assert sorted(groups) == [
        "test_all[a] mlc-0",
        "test_all[b] mlc-1",
        "test_own[a] mine",
        "test_own[b] mine",
    ]


@groups
def test_a_group_for_each_model_keeps_it_on_one_worker(models: Models) -> None:
    models.tests(
        """
        WORKER = os.environ["PYTEST_XDIST_WORKER"]
        @pytest.mark.parametrize("n", range(4))
        def test_it(mlc_server, n):
            with open("workers.txt", "a") as file:
                file.write(f"{mlc_server.model} {WORKER}\\n")
        """
    )
    models.run("-p", "xdist", "-n2", "--dist=loadgroup", models="abc").assert_outcomes(passed=12)
    lines = set((models.suite.path / "workers.txt").read_text().split("\n")[:-1])
    assert sorted(line.split()[0] for line in lines) == ["a", "b", "c"]
    assert models.loads == 3


@groups
def test_a_group_of_the_users_own_is_left_alone(models: Models) -> None:
    models.tests(
        """
        WORKER = os.environ["PYTEST_XDIST_WORKER"]
        @pytest.mark.xdist_group("mine")
        def test_it(mlc_server):
            with open("workers.txt", "a") as file:
                file.write(f"{WORKER}\\n")
        """
    )
    models.run("-p", "xdist", "-n2", "--dist=loadgroup").assert_outcomes(passed=2)
    assert len(set((models.suite.path / "workers.txt").read_text().split())) == 1


WAITING = """
import time
from pytest_mlc_server.models import Choice

A, B = (Choice({"model": model}, 0, "") for model in "ab")

def await_file(name):
    deadline = time.monotonic() + 60
    while not os.path.exists(name):
        assert time.monotonic() < deadline, name
        time.sleep(0.005)

def use(factory):
    server = factory.lend(A)
    open("used.txt", "w").close()
    await_file("refused.txt")
    factory.take_back(server)

class Told:
    said = ""

    def write(self, text):
        self.said += text
        open("refused.txt", "w").close()

    def flush(self): pass

def wait(factory, monkeypatch):
    monkeypatch.setattr("sys.stderr", told := Told())
    await_file("used.txt")
    factory.take_back(factory.lend(B))
    assert "mlc 'b' waits until one of the 1 servers of this run is idle" in told.said

def test_it(mlc_server_factory, monkeypatch):
    if os.environ["PYTEST_XDIST_WORKER"] == "gw0":
        use(mlc_server_factory)
    else:
        wait(mlc_server_factory, monkeypatch)
"""


def test_a_worker_waits_until_one_is_idle_and_says_so(models: Models) -> None:
    suite_of(models, WAITING)
    models.make("b")
    result = models.run(*RUN, "-n2", "--dist=each", "--mlc-start=lazy", models="a")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*mlc 'b', *, waited * s until another one was idle*"])
    assert models.loads == 2


HANDED_OVER = """
def test_it(mlc_server_factory):
    if os.environ["PYTEST_XDIST_WORKER"] == "gw0":
        mlc_server_factory.take_back(mlc_server_factory.lend(A))
        open("used.txt", "w").close()
        await_file("other.txt")
    else:
        await_file("used.txt")
        mlc_server_factory.take_back(mlc_server_factory.lend(B))
        open("other.txt", "w").close()
"""


def test_a_worker_lets_go_of_what_it_does_not_use_now(models: Models) -> None:
    suite_of(models, WAITING.partition("def use(")[0] + HANDED_OVER)
    models.make("b")
    models.run(*RUN, "-n2", "--dist=each", "--mlc-start=lazy", models="a").assert_outcomes(passed=2)
    assert models.loads == 2


def test_a_worker_that_holds_the_last_one_gets_an_error_and_does_not_wait(models: Models) -> None:
    suite_of(
        models,
        """
def test_it(mlc_server_factory):
    mlc_server_factory()
    mlc_server_factory(model="b")
""",
    )
    models.make("b")
    result = models.run(*RUN, "-n1", "--mlc-max-servers=1", models="a")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*mlc 'b' cannot start, because the one server is in use: mlc 'a'*"]
    )


def test_without_a_bound_of_its_own_test_code_may_have_more(models: Models) -> None:
    suite_of(
        models,
        """
def test_it(mlc_server, mlc_server_factory):
    assert mlc_server_factory(model="b").is_alive() and mlc_server.is_alive()
""",
    )
    models.make("b")
    models.run(*RUN, "-n1", models="a").assert_outcomes(passed=1)
    assert alive(models) == [2]


def test_what_a_crashed_worker_had_in_use_makes_room(models: Models) -> None:
    suite_of(
        models,
        """
def test_it(mlc_server):
    if mlc_server.model == "a" and not os.path.exists("crashed"):
        open("crashed", "w").close()
        os._exit(1)
""",
    )
    result = models.run(*RUN, "-n1", "--mlc-max-servers=1", models="ab")
    result.assert_outcomes(passed=1, failed=1)
    assert models.loads == 2


@pytest.mark.parametrize("scope", ["run", "worker"])
def test_a_server_that_waits_for_the_next_run_makes_room(models: Models, scope: str) -> None:
    suite_of(models, "def test_it(mlc_server): pass")
    flags = ("-p", "xdist", "-n1", "--mlc-reuse=600", f"--mlc-scope={scope}")
    models.run(*flags, models="a").assert_outcomes(passed=1)
    await_(
        lambda: [one.status["idle"] is None for one in shared_servers.everywhere()] == [False],
        "a server that waits",
    )
    models.run(*flags, "--mlc-max-servers=2", models="b").assert_outcomes(passed=1)
    assert sorted(str(server.facts["model"]) for server in shared_servers.everywhere()) == [
        "a",
        "b",
    ]
    models.run(*flags, "--mlc-max-servers=1", models="b").assert_outcomes(passed=1)
    assert models.loads == 2  # it was there: nothing had to make room
    models.run(*flags, "--mlc-max-servers=1", models="c").assert_outcomes(passed=1)
    assert [str(server.facts["model"]) for server in shared_servers.everywhere()] == ["c"]
    assert max(alive(models)[-1:]) == 1


def test_models_are_reused_by_the_next_run(models: Models) -> None:
    suite_of(models, "def test_it(mlc_server): pass")
    flags = (*RUN, "-n1", "--mlc-reuse=600", "--mlc-max-servers=2")
    for _ in range(2):
        models.run(*flags).assert_outcomes(passed=2)
    assert models.loads == 2
