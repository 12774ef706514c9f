"""A test or class says itself which servers it runs with: the parameter of `mlc_server`."""

from __future__ import annotations

import _ctypes

import pytest

from tests.plugin.test_matrix import names
from tests.support_models import Models, by_model, models

pytestmark = pytest.mark.slow

__all__ = ["models"]


def test_a_parameter_is_fields_or_a_model(models: Models) -> None:
    models.make("c", "d")
    models.tests(
        """
        CHOICES = [dict(model="c", overrides="max_num_sequence=3"), "d", pytest.param("c", id="x")]
        @pytest.mark.parametrize("mlc_server", CHOICES, indirect=True)
        def test_it(mlc_server, used):
            used(mlc_server)
        """
    )
    result = models.run("-v", models="a")
    result.assert_outcomes(passed=3)
    assert names(result) == ["test_it[c]", "test_it[d]", "test_it[x]"]
    assert [use.model for use in models.uses] == ["c", "d", "c"]
    assert models.loads == 3


def test_the_tests_of_a_class_share_each_server(models: Models) -> None:
    models.make("c", "d")
    models.tests(
        """
        @pytest.mark.parametrize("mlc_server", ["c", dict(model="d")], indirect=True)
        class TestIt:
            def test_one(self, mlc_server, used): used(mlc_server)
            def test_two(self, mlc_server, used): used(mlc_server)
        @pytest.mark.parametrize("mlc_server", [dict(model="d"), "c"], indirect=True)
        def test_more(mlc_server, used): used(mlc_server)
        """
    )
    models.run(models="a").assert_outcomes(passed=6)
    assert [use.model for use in models.uses] == ["c"] * 3 + ["d"] * 3
    assert models.loads == 2


def test_it_wins_over_the_models_of_the_run(models: Models) -> None:
    models.make("c")
    models.tests(
        """
        def test_all(mlc_server, used): used(mlc_server)
        @pytest.mark.parametrize(("n", "mlc_server"), [(1, "c"), (2, "b")], indirect=["mlc_server"])
        def test_own(mlc_server, n, used): used(mlc_server)
        """
    )
    result = models.run("-v")
    assert sorted(names(result)) == ["test_all[a]", "test_all[b]", "test_own[1-c]", "test_own[2-b]"]
    found = by_model(models.uses)
    assert {model: len(pids) for model, pids in found.items()} == {"a": 1, "b": 1, "c": 1}
    assert models.loads == 3


def test_a_conftest_may_say_it_too(models: Models) -> None:
    models.suite.write(
        conftest="""
        def pytest_generate_tests(metafunc):
            if "mlc_server" in metafunc.fixturenames:
                metafunc.parametrize("mlc_server", ["b"], indirect=True)
        """
    )
    models.tests()
    models.run().assert_outcomes(passed=3)
    assert {use.model for use in models.uses} == {"b"}


def test_a_value_in_its_place_is_left_alone(models: Models) -> None:
    models.tests(
        """
        @pytest.mark.parametrize("mlc_server", [1, 2])
        def test_it(mlc_server): assert mlc_server in (1, 2)
        """
    )
    models.run().assert_outcomes(passed=2)
    assert models.loads == 0


@pytest.mark.parametrize(
    ("parameter", "says"),
    [
        ("7", "the parameter 7 of mlc_server in*names no server: expected a model, or fields*"),
        (
            "dict(modell='a')",
            "*modell = 'a': ServerConfig has no such field; did you mean 'model'?*",
        ),
        (
            "dict(mode='fast')",
            "*mode = 'fast'*expected one of local, *the parameter of mlc_server*",
        ),
        ("''", "*model = ''*expected a text that is not empty*"),
    ],
)
def test_a_wrong_parameter_is_an_error_of_its_test(
    models: Models, parameter: str, says: str
) -> None:
    models.tests(
        f"""
        @pytest.mark.parametrize("mlc_server", [{parameter}, "a"], indirect=True)
        def test_it(mlc_server): pass
        """
    )
    result = models.run(models="a")
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines([f"*{says}"])


def test_a_library_does_not_pass_to_another_model(models: Models) -> None:
    models.tests(
        """
        @pytest.mark.parametrize("mlc_server", ["a", "b", dict(model="b", model_lib=None)],
                                 indirect=True)
        def test_it(mlc_server, used): used(mlc_server)
        """
    )
    models.make("b")
    (models.suite.path / "lib.so").symlink_to(_ctypes.__file__)  # any library of this machine
    result = models.run("--mlc-model-lib=lib.so", models="a")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*model_lib = 'lib.so' (from --mlc-model-lib *) belongs to model*"]
    )
    assert [use.model for use in models.uses] == ["a", "b"]


def test_gates_look_at_the_servers_of_the_test(models: Models) -> None:
    models.tests(
        """
        BOTH = pytest.mark.parametrize(
            "mlc_server", ["a", dict(engine="sim", model=None)], indirect=True, ids=["mlc", "sim"]
        )
        @BOTH
        @pytest.mark.mlc_engine("sim")
        def test_marked(mlc_server): assert mlc_server.engine == "sim"
        @BOTH
        def test_scripted(mlc_sim, mlc_server): assert mlc_server.engine == "sim"
        """
    )
    result = models.run("-v", "--mlc-env=STANDIN_UNUSED=1", models="a")
    result.assert_outcomes(passed=2, skipped=2)
    assert sorted(names(result)) == ["test_marked[sim]", "test_scripted[sim]"]
    assert models.loads == 0


def test_no_model_at_all_is_needed_for_it(models: Models) -> None:
    models.tests(
        """
        CHOICES = [dict(engine="sim", model="x"), dict(engine="sim", model="y")]
        @pytest.mark.parametrize("mlc_server", CHOICES, indirect=True)
        def test_it(mlc_server): assert mlc_server.model in "xy"
        """
    )
    result = models.suite.run_bare("-v")
    assert names(result) == ["test_it[x]", "test_it[y]"]
