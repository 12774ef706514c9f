"""Errors: their text, the short one for later tests, and the way between processes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import pytest

from pytest_mlc_server import ConfigError, EngineUnavailableError, MLCServerError, StartError

TEXT = "the server did not start\nits log:\n  line"


def start_error() -> StartError:
    return StartError(TEXT, brief="no start", returncode=-9, log_path="/tmp/x.log")


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        (ConfigError, (ValueError, MLCServerError)),
        (StartError, (RuntimeError, MLCServerError)),
        (EngineUnavailableError, (StartError, RuntimeError, MLCServerError)),
    ],
)
def test_errors_are_what_upstreams_callers_catch(
    kind: type[MLCServerError], bases: tuple[type[Exception], ...]
) -> None:
    assert issubclass(kind, bases[0])
    assert set(bases) <= set(kind.__mro__)
    assert issubclass(MLCServerError, Exception)


def test_a_configuration_error_is_no_start_error() -> None:
    assert not issubclass(ConfigError, RuntimeError)
    assert not issubclass(StartError, ValueError)


def test_one_problem_is_the_text() -> None:
    error = ConfigError("port = 0")
    assert str(error) == "port = 0"
    assert error.problems == ("port = 0",)


def test_several_problems_are_counted_and_listed() -> None:
    error = ConfigError(["port = x", "mode = y"])
    assert error.problems == ("port = x", "mode = y")
    headline, *lines = str(error).splitlines()
    assert headline.startswith("2 problems")
    assert lines == ["  - port = x", "  - mode = y"]


def test_the_whole_text_is_shown_once() -> None:
    error = start_error()
    assert str(error) == TEXT
    error.reported_by = "test_a.py::test_one"
    assert str(error).startswith("no start\n")
    assert "test_a.py::test_one" in str(error)
    assert "line" not in str(error)
    assert error.text == TEXT


def test_the_brief_text_is_the_first_line_where_none_is_given() -> None:
    assert StartError(TEXT).brief == "the server did not start"


def test_facts_are_attributes() -> None:
    assert (start_error().returncode, start_error().log_path) == (-9, "/tmp/x.log")
    assert (StartError("x").returncode, StartError("x").log_path) == (None, None)


ERRORS = [
    start_error(),
    EngineUnavailableError("no GPU\nbuy one", returncode=1),
    ConfigError(["port = x", "mode = y"]),
    MLCServerError("text"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("reported_by", [None, "test_a.py::test_one"])
@pytest.mark.parametrize("way", ["pickle", "copy"])
def test_errors_survive_the_way_between_processes(
    error: MLCServerError, reported_by: str | None, way: str
) -> None:
    error = copy.copy(error)
    error.reported_by = reported_by
    again = pickle.loads(pickle.dumps(error)) if way == "pickle" else copy.deepcopy(error)
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def _raise() -> None:
    raise start_error()


def test_a_worker_process_can_raise_them() -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool, pytest.raises(StartError) as caught:
        pool.apply(_raise)
    assert str(caught.value) == TEXT
    assert caught.value.returncode == -9
