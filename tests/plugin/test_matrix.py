"""Several models: each test that uses the server runs once with each, and each is loaded once."""

from __future__ import annotations

import pytest

from tests.support_models import Models, by_model, models
from tests.support_plugin import Suite

pytestmark = pytest.mark.slow

__all__ = ["models"]


def names(result: pytest.RunResult) -> list[str]:
    """Return the tests of a verbose run, in their order."""
    return [line.split(" ")[0].partition("::")[2] for line in result.outlines if "PASSED" in line]


def test_each_test_that_uses_the_server_runs_once_with_each_model(models: Models) -> None:
    models.tests()
    result = models.run("-v")
    result.assert_outcomes(passed=5)
    assert sorted(names(result)) == [
        "test_direct[a]",
        "test_direct[b]",
        "test_through[a]",
        "test_through[b]",
        "test_without",
    ]
    assert [use.model for use in models.uses] == ["a", "a", "b", "b"]
    assert models.loads == 2
    result.stdout.fnmatch_lines(["mlc-server: *model a, b (each test with each of 2), *"])


@pytest.mark.parametrize("source", ["environment", "ini", "toml"])
def test_models_come_from_the_environment_and_ini_files_too(
    models: Models, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "environment":
        monkeypatch.setenv("PYTEST_MLC_MODEL", "a\nb\n")
    elif source == "ini":
        models.suite.pytester.makeini("[pytest]\nmlc_model =\n  a\n  b\n")
    else:
        models.suite.pytester.makepyprojecttoml('[tool.pytest.ini_options]\nmlc_model = ["a", "b"]')
    models.make("a", "b")
    models.tests()
    environment = [f"--mlc-env={variable}" for variable in models.suite.variables()]
    models.suite.run_bare(*environment).assert_outcomes(passed=5)
    assert models.loads == 2


def test_ids_are_short_and_unique(models: Models) -> None:
    models.tests("def test_it(mlc_server): pass")
    models.make("one/m", "two/m", "n")
    flags = models.flags("one/m", "two/m", "n")
    result = models.suite.run_bare(*flags, "-v")
    assert names(result) == ["test_it[one-m]", "test_it[two-m]", "test_it[n]"]


def test_tests_with_other_parameters_are_grouped_by_model(models: Models) -> None:
    models.tests(
        """
        @pytest.fixture(scope="module", params=["x", "y"])
        def letter(request): return request.param
        @pytest.mark.parametrize("n", [1, 2])
        class TestIt:
            def test_it(self, mlc_server, n, letter, used): used(mlc_server)
        def test_more(mlc_server, used): used(mlc_server)
        """
    )
    models.run().assert_outcomes(passed=10)
    assert [use.model for use in models.uses] == ["a"] * 5 + ["b"] * 5
    assert models.loads == 2


def test_a_random_order_keeps_the_groups(models: Models) -> None:
    pytest.importorskip("pytest_randomly")
    models.tests("\n".join(f"def test_{n}(mlc_server, used): used(mlc_server)" for n in range(8)))
    models.run("-p", "randomly", "-p", "no:cacheprovider").assert_outcomes(passed=16)
    assert models.loads == 2


def test_one_model_in_a_list_is_no_matrix(models: Models) -> None:
    models.tests()
    result = models.run("-v", models="a")
    assert names(result) == ["test_direct", "test_without", "test_through"]


def test_the_factory_alone_is_not_multiplied(models: Models) -> None:
    models.tests("def test_it(mlc_server_factory, used): used(mlc_server_factory())")
    models.run().assert_outcomes(passed=1)
    assert [use.model for use in models.uses] == ["a"]


def test_a_fixture_that_is_asked_for_by_name_gets_the_first_model(models: Models) -> None:
    models.tests("def test_it(request, used): used(request.getfixturevalue('mlc_server'))")
    models.run().assert_outcomes(passed=1)
    assert [use.model for use in models.uses] == ["a"]


def test_session_fixtures_over_the_server_are_made_once_for_each_model(models: Models) -> None:
    models.tests(
        """
        @pytest.fixture(scope="session")
        def client(mlc_server):
            yield mlc_server
            with open("closed.txt", "a") as file:
                file.write(f"{mlc_server.is_alive()} ")
        def test_one(client, mlc_server): assert client is mlc_server
        def test_two(client, used): used(client)
        """
    )
    models.run().assert_outcomes(passed=4)
    assert (models.suite.path / "closed.txt").read_text() == "True True "
    assert len(by_model(models.uses)) == 2


def test_an_overridden_configuration_is_used_with_each_model(models: Models) -> None:
    models.suite.write(
        conftest="""
        import pytest

        @pytest.fixture(scope="session")
        def mlc_server_config(mlc_server_config):
            return mlc_server_config.replace(overrides="max_num_sequence=3")
        """
    )
    models.tests(
        """
        def test_it(mlc_server, used):
            assert mlc_server.overrides == {"max_num_sequence": 3}
            used(mlc_server)
        """
    )
    models.run().assert_outcomes(passed=2)
    assert [use.model for use in models.uses] == ["a", "b"]


@pytest.mark.parametrize("uses", [True, False])
def test_an_overridden_server_is_multiplied_if_it_is_made_of_ours(
    models: Models, uses: bool
) -> None:
    models.tests(
        f"""
        @pytest.fixture(scope="session")
        def mlc_server({"mlc_server" if uses else ""}):
            return {"mlc_server" if uses else "None"}
        def test_it(mlc_server): pass
        """
    )
    models.run().assert_outcomes(passed=2 if uses else 1)
    assert models.loads == (2 if uses else 0)


def test_a_model_that_fails_to_start_fails_its_own_tests_alone(models: Models) -> None:
    models.tests()
    models.make("broken")
    (models.suite.path / "broken" / "params_shard_0.bin").unlink()
    result = models.suite.run_bare(*models.flags("a", "broken", "b"), "-v")
    result.assert_outcomes(passed=5, errors=2)
    result.stdout.fnmatch_lines(["*params_shard_0.bin*", "*first reported by *"])
    assert models.loads == 2


def test_a_start_that_fails_is_tried_once_for_each_model(models: Models) -> None:
    models.tests()
    models.run(orders="exit=3").assert_outcomes(passed=1, errors=4)
    assert models.loads == 2


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--mlc-port=8123"], ["port = '8123' (from --mlc-port ", "auto"]),
        (["--mlc-model-lib=a.so"], ["model-lib = 'a.so' (from --mlc-model-lib ", "one model"]),
        (["--mlc-url=http://127.0.0.1:9"], ["url = 'http://127.0.0.1:9' (from --mlc-url "]),
        (["--mlc-advertise=10.0.0.1"], ["advertise = '10.0.0.1' (from --mlc-advertise "]),
        (["--mlc-model=./a"], ["'./a' is listed twice"]),
        (["--mlc-model=-x"], ["write ./ before it"]),
    ],
)
def test_what_contradicts_several_models_names_both_places(
    models: Models, flags: list[str], says: list[str]
) -> None:
    models.tests()
    result = models.run(*flags)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stderr.str()
    for words in (*says, "(from --mlc-model on the command line)"):
        assert words in text
    assert models.loads == 0


def test_nothing_is_multiplied_for_a_run_that_only_collects(suite: Suite, models: Models) -> None:
    models.tests()
    result = models.run("--collect-only", "-q")
    assert "test_it.py::test_direct[b]" in result.outlines
    assert suite.starts == []


# --- with pytest-xdist ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dist", "early"), [("load", ["gw0"]), ("each", ["gw0", "gw1"])], ids=["load", "each"]
)
def test_only_a_worker_that_will_use_the_first_model_starts_it_early(
    models: Models, dist: str, early: list[str]
) -> None:
    pytest.importorskip("xdist")
    models.suite.write(
        conftest="""
        import os
        import pytest
        from pytest_mlc_server.pool import ServerPool

        begin = ServerPool.begin

        def note(self, config):
            begin(self, config)
            if not self.running:
                worker = os.environ["PYTEST_XDIST_WORKER"]
                open(f"early-{worker}-{os.path.basename(config.model)}", "w").close()

        ServerPool.begin = note
        """
    )
    models.tests(
        """
        @pytest.mark.parametrize("n", range(4))
        def test_it(mlc_server, n): pass
        """
    )
    result = models.run("-p", "xdist", "-n2", f"--dist={dist}")
    result.assert_outcomes(passed=16 if dist == "each" else 8)
    found = sorted(path.name for path in models.suite.path.glob("early-*-a"))
    assert found == [f"early-{worker}-a" for worker in early]


def test_several_models_with_a_server_of_each_worker(models: Models) -> None:
    pytest.importorskip("xdist")
    models.tests()
    models.run("-p", "xdist", "-n2", "--dist=each").assert_outcomes(passed=10)
    found = by_model(models.uses)
    assert {model: len(pids) for model, pids in found.items()} == {"a": 2, "b": 2}
    assert models.loads == 4
