"""The table of what was proven on what: nothing is missing, and its tests bear out each word."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support_docs import ROOT, pages

PAGE = ROOT / "docs" / "explanation" / "proof.md"
README = (ROOT / "README.md").read_text(encoding="utf-8")

#: Sections of README that promise nothing beyond what others do.
NO_PROMISES = {"Try it", "What you get"}

COLUMNS = ("stand-in", "simulator", "mock", "real, CPU", "real, GPU")
YES, RECORDED, WAITS, MEASURED = "yes", "recorded", "waits", "measured"
FAKES, NOT_VERIFIED, NOTHING = "fakes", "not verified", "-"

#: What each column may say.
WORDS = {
    "stand-in": {YES, NOTHING},
    "simulator": {YES, NOTHING},
    "mock": {RECORDED, WAITS, NOT_VERIFIED, NOTHING},
    "real, CPU": {RECORDED, WAITS, MEASURED, NOT_VERIFIED, NOTHING},
    "real, GPU": {WAITS, FAKES, NOT_VERIFIED, NOTHING},
}

#: The test has a server of this kind if its module, or what that imports of the tests, has this.
SIGNS = {
    "stand-in": r"standin|STANDIN",
    "simulator": r"\"sim\"|engine=sim|engine sim|\bSimulator\b|\bsimulators\b|\bscripted\b",
    FAKES: r"\bgpus\b|STANDIN_GPUS|pynvml",
    RECORDED: r"recording|RECORDED|real_engine|real_server",
}


@dataclass(frozen=True)
class Test:
    """A test that a row names."""

    path: str
    name: str
    marks: frozenset[str]
    arguments: frozenset[str]
    source: str

    __test__ = False

    def has(self, sign: str) -> bool:
        """Tell whether it shows a sign of a kind of server."""
        return re.search(SIGNS[sign], self.source) is not None


@dataclass(frozen=True)
class Row:
    """A claim, what it was proven on, and by what."""

    section: str
    claim: str
    cells: dict[str, str]
    by: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.section}: {self.claim}"

    @property
    def tests(self) -> list[Test]:
        """The tests that it names."""
        return [found(one) for one in self.by if "::" in one]


def rows(page: str) -> Iterator[Row]:
    """Return the rows of a page's tables of claims, with what the list below names for each."""
    for section in re.split(r"(?m)^## ", page)[1:]:
        heading = section.partition("\n")[0]
        _, _, shown_by = section.partition("\nShown by\n")
        named = dict(re.findall(r"(?m)^(\d+)\. ((?:.+\n?)(?: +`.+\n?)*)", shown_by))
        for number, text in re.findall(r"(?m)^\| (\d+) \| (.+) \|$", section):
            claim, *words = text.split(" | ")
            by = tuple(re.findall(r"`([^`]+)`", named.pop(number, "")))
            yield Row(heading, claim, dict(zip(COLUMNS, words, strict=True)), by)
        assert not named, f"{heading}: there are no rows {sorted(named)}"


@functools.cache
def found(test: str) -> Test:
    """Find a test, and the marks that it has, by itself or by its module."""
    path, _, name = test.partition("::")
    file = ROOT / path
    assert file.is_file(), f"there is no {path}"
    source = file.read_text(encoding="utf-8")
    tree = ast.parse(source)
    functions = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
    ]
    assert functions, f"there is no {test}"
    function = functions[-1]
    assert name.startswith("test_"), test
    marks = {mark for one in function.decorator_list for mark in marks_in(one)}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            marks |= set(marks_in(node.value))
    arguments = frozenset(one.arg for one in function.args.args)
    return Test(path, name, frozenset(marks), arguments, with_helpers(file, source))


def marks_in(node: ast.AST) -> Iterator[str]:
    """Return the names of the marks in an expression."""
    yield from re.findall(r"pytest\.mark\.(\w+)", ast.unparse(node))


def with_helpers(file: Path, source: str) -> str:
    """Return a test module's text with those of the tests' own modules that it imports."""
    texts = [source]
    for name in re.findall(r"(?m)^from tests\.([\w.]+) import", source):
        helper = ROOT / "tests" / f"{name.replace('.', '/')}.py"
        if helper.is_file() and name != "conftest":
            texts.append(helper.read_text(encoding="utf-8"))
    beside = file.parent / "conftest.py"
    if beside.is_file() and beside.parent != ROOT / "tests":
        texts.append(beside.read_text(encoding="utf-8"))
    return "\n".join(texts)


ROWS = list(rows(PAGE.read_text(encoding="utf-8")))


# --- the rules: each returns what is wrong with a row --------------------------------------------


def lies(row: Row) -> Iterator[str]:
    """Return the words of a row that its tests do not bear out."""
    for column, word in row.cells.items():
        if word not in WORDS[column]:
            yield f"{column}: {word!r} is none of {sorted(WORDS[column])}"
    for column in ("stand-in", "simulator"):
        if row.cells[column] == YES and not any(test.has(column) for test in row.tests):
            yield f"{column}: no test of the row has one"
    yield from _lies_of_real(row)


def _lies_of_real(row: Row) -> Iterator[str]:
    real = [test for test in row.tests if "mlc_real" in test.marks]
    with_model = [test for test in real if "real_model" in test.arguments]
    waiting = {"mock": set(real) - set(with_model), "real, CPU": set(with_model)}
    for column, tests in waiting.items():
        if row.cells[column] == WAITS and not tests:
            yield f"{column}: no test of the row is marked mlc_real and has that engine"
        if tests and row.cells[column] not in (WAITS, MEASURED):
            yield f"{column}: {[test.name for test in tests]} wait for it"
    gpu = [test for test in real if "mlc_gpu" in test.marks]
    if row.cells["real, GPU"] == WAITS and not gpu:
        yield "real, GPU: no test of the row is marked mlc_gpu"
    if row.cells["real, GPU"] == FAKES and not any(test.has(FAKES) for test in row.tests):
        yield "real, GPU: no test of the row has stand-ins for GPUs"
    words = set(row.cells.values())
    if RECORDED in words and not any(test.has(RECORDED) for test in row.tests):
        yield "recorded: no test of the row has recordings"
    if MEASURED in words and not any(one.startswith("benchmarks/") for one in row.by):
        yield "measured: no benchmark is named"
    reals = [row.cells[column] for column in COLUMNS[2:]]
    if row.cells["stand-in"] == YES and reals != [NOTHING] * 3 and NOTHING in reals:
        yield "a claim about a server says of each real one how that is, or of none"


# --- the page -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_what_a_row_says_is_so(row: Row) -> None:
    assert row.by, "nothing proves it"
    for one in row.by:
        assert "::" in one or (one.startswith("benchmarks/") and (ROOT / one).is_file()), one
    assert not list(lies(row))


def test_each_promise_of_the_readme_has_a_row() -> None:
    headings = set(re.findall(r"(?m)^## (.+)$", README)) - NO_PROMISES
    promises = headings | {lead.rstrip(".") for lead in re.findall(r"(?m)^\*\*(.+?)\*\*", README)}
    assert promises == {row.section for row in ROWS}


def test_each_setting_and_fixture_that_the_readme_names_has_a_row() -> None:
    text = README.partition("## What you get")[2]
    named = set(re.findall(r"--mlc-[a-z-]+[a-z]", text))
    table = text.partition("| fixture |")[2].partition("\n\n")[0]
    named |= set(re.findall(r"mlc_\w+", "".join(re.findall(r"(?m)^\| (.+?) \|", table))))
    claims = "\n".join(row.claim for row in ROWS)
    assert {name for name in named if not re.search(rf"{name}(?![\w-])", claims)} == set()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_tests_and_benchmarks_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:tests|benchmarks)/[\w/.]+\.py)", text):
        assert (ROOT / path).is_file(), path


def test_no_claim_stands_twice() -> None:
    claims = [(row.section, row.claim) for row in ROWS]
    assert len(set(claims)) == len(claims)


# --- and that it can fail -------------------------------------------------------------------------

STANDIN = "tests/test_health.py::test_a_process_that_ends_is_found_without_asking"
SETTINGS = "tests/test_access_log.py::test_what_counts"
REAL = "tests/test_real.py::test_mock_engine_echoes"
MODEL = "tests/test_real.py::test_real_model_answers"


def row(cells: str, *by: str) -> Row:
    words = [word.strip() for word in cells.split("|")]
    return Row("Section", "claim", dict(zip(COLUMNS, words, strict=True)), by)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (row("no | - | - | - | -", STANDIN), "stand-in: 'no' is none of"),
        (row("yes | - | - | - | -", SETTINGS), "stand-in: no test of the row has one"),
        (row("- | yes | - | - | -", SETTINGS), "simulator: no test of the row has one"),
        (row("- | - | waits | - | -", STANDIN), "mock: no test of the row is marked mlc_real"),
        (row("- | - | - | waits | -", REAL), "real, CPU: no test of the row is marked mlc_real"),
        (row("- | - | not verified | - | -", REAL), "mock: ['test_mock_engine_echoes'] wait"),
        (row("- | - | - | not verified | -", MODEL), "real, CPU: ['test_real_model_answers'] wait"),
        (row("- | - | - | - | waits", MODEL), "real, GPU: no test of the row is marked mlc_gpu"),
        (row("- | - | - | - | yes", MODEL), "real, GPU: 'yes' is none of"),
        (row("- | - | - | - | fakes", STANDIN), "real, GPU: no test of the row has stand-ins"),
        (row("- | - | recorded | - | -", SETTINGS), "recorded: no test of the row has"),
        (row("- | - | - | measured | -", STANDIN), "measured: no benchmark is named"),
        (row("yes | - | - | not verified | -", STANDIN), "a claim about a server says of each"),
    ],
)
def test_a_lie_is_found(made: Row, told: str) -> None:
    assert any(lie.startswith(told) for lie in lies(made)), list(lies(made))


@pytest.mark.parametrize("name", ["tests/test_gone.py::test_x", "tests/test_health.py::test_gone"])
def test_a_test_that_is_not_there_is_found(name: str) -> None:
    with pytest.raises(AssertionError, match="there is no"):
        found(name)


def test_rows_are_read() -> None:
    table = "| | claim | a | b | c | d | e |\n|---|\n| 1 | works | yes | - | - | - | - |\n"
    page = f"# Page\n\n## Here\n\n{table}\nShown by\n\n1. `{STANDIN}`,\n   `benchmarks/x.py`\n"
    [one] = rows(page)
    assert (one.section, one.claim, one.cells["stand-in"]) == ("Here", "works", "yes")
    assert one.by == (STANDIN, "benchmarks/x.py")
    with pytest.raises(AssertionError, match="there are no rows"):
        list(rows(page + "2. `tests/test_x.py::test_x`\n"))
