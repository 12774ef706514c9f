"""How a diagnosis is shown: to people on any terminal, and to programs."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mlc_server import doctor as package
from pytest_mlc_server.doctor import data, text
from pytest_mlc_server.doctor.findings import KINDS, Diagnosis, Finding, Section, Server
from tests.support_doctor import Doctor

SCHEMA = json.loads((Path(package.__file__).parent / "schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

texts = st.text(st.characters(codec="utf-8"), max_size=60)
findings = st.builds(Finding, st.sampled_from(list(KINDS)), texts, texts, texts)
sections = st.builds(Section, st.just("library"), st.lists(findings, max_size=3))
diagnoses = st.builds(
    Diagnosis,
    st.lists(sections, max_size=2),
    st.lists(st.builds(Server, st.just("sim"), texts, st.lists(sections, max_size=2)), max_size=2),
)


def shown(diagnosis: Diagnosis, *, coloured: bool = False, **options: Any) -> str:
    page = text.Page(options.pop("width", 80), coloured=coloured, **options)
    return "\n".join(page.lines(diagnosis))


def with_finding(*arguments: str) -> Diagnosis:
    return Diagnosis([Section("port", [Finding(*arguments)])])


@settings(max_examples=25)
@given(diagnosis=diagnoses, encoding=st.sampled_from(["ascii", "latin-1", "utf-8"]))
def test_every_terminal_can_show_it(diagnosis: Diagnosis, encoding: str) -> None:
    page = shown(diagnosis, encoding=encoding)
    page.encode(encoding)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", page)


@settings(max_examples=25)
@given(words=st.lists(texts, min_size=1, max_size=8), width=st.integers(40, 100))
def test_a_command_can_be_pasted(words: list[str], width: int) -> None:
    words = [re.sub(r"[\x00-\x1f\x7f-\x9f]|--api-key|://", "x", word) for word in words]
    page = shown(with_finding("port.auto", "text", "", shlex.join(words)), width=width)
    pasted = page.partition("$ ")[2].partition("\n\n")[0]
    assert shlex.split(pasted.replace("\\\n", " ")) == words  # as a shell reads it


@settings(max_examples=25)
@given(text_=st.lists(st.text("abc.-/=_", min_size=1, max_size=50), min_size=1, max_size=40))
def test_lines_fit(text_: list[str]) -> None:
    page = shown(with_finding("port.wrong", " ".join(text_), " ".join(text_)))
    assert all(len(line) <= 80 for line in page.splitlines())


def test_what_it_looks_like() -> None:
    wrong = Finding("port.wrong", "it is taken", "stop that program", "kill 1")
    section = Section("port", [wrong])
    diagnosis = Diagnosis(
        [Section("settings", [Finding("settings.none", "nothing is set")])],
        [Server("sim", "a", [section]), Server("sim", "b", [section, Section("command")])],
    )
    assert shown(diagnosis).splitlines()[2:] == [
        "settings",
        "  note    nothing is set",
        "",
        "server 1 of 2: sim 'a'",
        "",
        "  port",
        "    problem it is taken",
        "            -> stop that program",
        "               $ kill 1",
        "",
        "server 2 of 2: sim 'b'",
        "",
        "  command",
        "  as above: port",
        "",
        "The run would fail: 1 problem, 1 note. Look at: port.",
    ]
    assert shown(Diagnosis()).splitlines()[-1] == "No problem: nothing to remark."
    plain = shown(diagnosis)
    assert re.sub(r"\x1b\[[\d;]*m", "", shown(diagnosis, coloured=True)) == plain
    assert "\x1b[31;1mproblem" in shown(diagnosis, coloured=True)


def test_long_values_are_cut_for_people_alone() -> None:
    diagnosis = with_finding("port.wrong", "x" * 100_000)
    assert "(99400 more characters)" in shown(diagnosis)
    assert "x" * 100_000 in data.text(diagnosis, [])


def test_paths_are_not_broken() -> None:
    path = "/a-very-long-path" * 10
    assert path in shown(with_finding("port.wrong", f"see {path} please"))


@pytest.mark.parametrize("as_json", [False, True])
def test_no_secret_is_shown(as_json: bool) -> None:
    line = "python -m mlc_llm serve --api-key=k3y1 --api-key k3y2 http://me:pw12@h:1/ top-secret"
    diagnosis = with_finding("port.wrong", line, line, line)
    page = (
        data.text(diagnosis, ["top-secret"])
        if as_json
        else shown(diagnosis, secrets=["top-secret"])
    )
    assert not re.search(r"k3y|pw12|top-secret", page)
    assert "--api-key=***" in page


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert not text.is_coloured(io.StringIO())
    assert text.is_coloured(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not text.is_coloured(Terminal())
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "dumb")
    assert not text.is_coloured(Terminal())


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("20", 40), ("300", 100), ("80", 80)])
def test_the_width_is_that_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert text.width_of(Terminal()) == width
    assert text.width_of(io.StringIO()) == 80


# --- for programs ---------------------------------------------------------------------------------


@settings(max_examples=25)
@given(diagnosis=diagnoses)
def test_every_diagnosis_follows_the_schema(diagnosis: Diagnosis) -> None:
    told = json.loads(data.text(diagnosis, []))
    VALIDATOR.validate(told)
    assert told["healthy"] == (told["counts"]["problem"] == 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mlc-engine=sim"],
        ["--mlc-model=nowhere", "--mlc-port=8099", "--mlc-env=A_TOKEN=hunter2"],
        ["--mlc-url=http://127.0.0.1:9"],
        ["--mlc-engine=mock", "--mlc-engine=nonsense"],
        [],
    ],
)
def test_real_ones_follow_it_too(doctor: Doctor, arguments: list[str]) -> None:
    told = json.loads(data.text(doctor(*arguments, workers=2), []))
    VALIDATOR.validate(told)
    assert "hunter2" not in json.dumps(told)


def test_the_schema_refuses_what_is_wrong() -> None:
    told = json.loads(data.text(with_finding("port.wrong", "x"), []))
    for change in ({"schema": 2}, {"healthy": "yes"}, {"more": 1}):
        assert not VALIDATOR.is_valid({**told, **change})
    told["sections"][0]["facts"] = {"unknown": 1}
    assert not VALIDATOR.is_valid(told)
    VALIDATOR.check_schema(SCHEMA)
