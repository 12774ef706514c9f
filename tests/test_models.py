"""Several models: their names in the ids of tests, and what a test's server differs in."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_mlc_server import ConfigError, ServerConfig, models
from pytest_mlc_server.models import Choice, Choices


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (["dist/a", "dist/b"], ["a", "b"]),
        (["one/m", "two/m"], ["one-m", "two-m"]),
        (["one/m", "two/m", "n"], ["one-m", "two-m", "n"]),
        (["x/one/m", "y/one/m"], ["x-one-m", "y-one-m"]),
        (["m", "one/m"], ["m", "one-m"]),
        (["HF://org/a", "HF://org/b/"], ["a", "b"]),
        (["HF://org/a", "org/a"], ["HF:-org-a", "org-a"]),
        (["/m", "/n"], ["m", "n"]),
        (["."], ["."]),
        (["C:\\models\\a", "C:\\models\\b"], ["a", "b"]),
        (["a::b", "c"], ["a-b", "c"]),
    ],
)
def test_names_are_as_short_as_they_can_be(written: list[str], names: list[str]) -> None:
    assert models.names(written) == names
    assert len(set(names)) == len(names)


def configs(*names: str) -> list[ServerConfig]:
    return [ServerConfig(model=name) for name in names]


def test_equal_wishes_are_one_object() -> None:
    choices = Choices(configs("a", "b"))
    assert [choice.changes for choice in choices.matrix] == [{"model": "a"}, {"model": "b"}]
    same = [choices.of(written, "t") for written in ("a", {"model": "a"}, choices.matrix[0])]
    assert all(one is choices.matrix[0] for one in same)
    other = choices.of({"model": "a", "mode": "server"}, "t")
    assert other is not None
    assert other is choices.of({"mode": "server", "model": "a"}, "t")
    assert other.number == 2


@pytest.mark.parametrize("written", [None, 3, ["a"], {1: "a"}, b"a"])
def test_what_names_no_server_is_nothing(written: object) -> None:
    assert Choices(configs("a")).of(written, "t") is None


def test_one_model_is_no_choice() -> None:
    choices = Choices(configs("a"))
    assert not choices
    assert choices.matrix == []
    assert choices.of(Path("b"), "t") is not None
    assert choices


def test_changes_say_where_they_come_from() -> None:
    config = ServerConfig(model="a", origins={"model": "the ini file"})
    changed = models.changed(config, Choice({"mode": "server"}, 0, "here"))
    assert changed.describe("mode") == "mode = 'server' (from here)"
    assert changed.describe("model") == "model = 'a' (from the ini file)"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mode": "fast"}, r"mode = 'fast'.*\(in here\)"),
        ({"model": "b"}, "model_lib = 'a.so' belongs to model = 'a', and not to model = 'b'"),
    ],
)
def test_wrong_changes_are_errors(changes: dict[str, object], says: str) -> None:
    config = ServerConfig(model="a", model_lib="a.so")
    with pytest.raises(ConfigError, match=says):
        models.changed(config, Choice(changes, 0, "here"))


@pytest.mark.parametrize("changes", [{"model": "a"}, {"model": "b", "model_lib": None}])
def test_a_library_may_stay_or_be_given(changes: dict[str, object]) -> None:
    config = ServerConfig(model="a", model_lib="a.so")
    changed = models.changed(config, Choice(changes, 0, "here"))
    assert changed.model_lib == changes.get("model_lib", "a.so")


def test_several_models_do_not_attach() -> None:
    config = ServerConfig(url="http://127.0.0.1:9", model="a")
    choice = Choices(configs("a", "b")).matrix[1]
    with pytest.raises(ConfigError, match=r"attaches to one server .* one of several models"):
        models.changed(config, choice)
