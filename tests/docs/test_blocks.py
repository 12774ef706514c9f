"""Every code block of the documents says where it comes from, and is what it says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.docs.not_run import NOT_RUN
from tests.docs.runs import ELSEWHERE, RUNS
from tests.support_docs import (
    EXAMPLES,
    KINDS,
    OF_FILES,
    ROOT,
    all_blocks,
    blocks,
    is_shown,
    normalised,
    pages,
)
from tests.support_examples import Run, all_runs

BLOCKS = all_blocks()
PAGES = [page.relative_to(ROOT).as_posix() for page in pages()]

#: Where the files that blocks show are.
PLACES = ("docs/examples/", "examples/")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    unknown = [f"{b}: {b.first_line!r}" for b in BLOCKS if b.page == page and b.kind not in KINDS]
    assert not unknown, "a comment is missing on the line before; see tests/support_docs.py"


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_what_the_files_say(page: str) -> None:
    for block in BLOCKS:
        if block.page == page and block.kind in OF_FILES:
            assert block.target.startswith(PLACES), block
            file = ROOT / block.target
            assert file.is_file(), f"{block}: there is no {block.target}"
            source = file.read_text(encoding="utf-8")
            printed = block.kind == "output"
            assert is_shown(block.text, source, ellipsis=printed), f"{block}: not {block.target}"
            assert (file.suffix == ".out") == printed, block
            assert (file.suffix == ".sh") == (block.kind == "run"), block


def test_what_is_not_run_is_decided() -> None:
    """A new block that no test can run has to be put down, so that somebody thinks about it."""
    found = [block for block in BLOCKS if block.kind == "not run"]
    assert all(block.target for block in found), "say why"
    decided = dict.fromkeys(NOT_RUN, 0)
    for block in found:
        names = [n for n in NOT_RUN if n[0] == block.page and block.first_line.startswith(n[1])]
        assert len(names) == 1, f"{block}: it is not in tests/docs/not_run.py: {block.first_line}"
        decided[names[0]] += 1
    assert all(decided.values()), "these are no longer there"


def test_commands_are_those_that_ci_runs() -> None:
    commands = [(block.page, block.target) for block in BLOCKS if block.kind == "command"]
    assert commands == [("README.md", "quick start"), ("README.md", "tests")]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for _, name in commands:
        assert f'run_readme "{name}"' in ci


def test_generated_blocks_are_on_generated_pages() -> None:
    for block in BLOCKS:
        if block.kind == "generated":
            text = (ROOT / block.page).read_text(encoding="utf-8")
            assert "<!-- Written by docs/generate.py" in text, block


@pytest.mark.parametrize("page", PAGES)
def test_no_code_hides_in_an_indented_block(page: str) -> None:
    """Markdown takes lines that are indented far enough for code, without any fence."""
    before, fenced, in_list = "", False, False
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif line.strip() and not line.startswith(" "):
            in_list = re.match(r"[-*+] |\d+[.)] ", line) is not None
        code = line.startswith("    ") and not (before.strip() or fenced or in_list)
        assert not code, f"{page}: put it into a fenced block: {line!r}"
        before = line


def _files() -> list[str]:
    """Return all files of the examples, relative to the repository."""
    found = (path for path in EXAMPLES.rglob("*") if path.is_file())
    kept = (p for p in found if "__pycache__" not in p.parts and not p.name.startswith(".coverage"))
    return sorted(p.relative_to(ROOT).as_posix() for p in kept)


def _linked() -> set[str]:
    """Return the files that pages lead to by a link."""
    found = set()
    for page in pages():
        for target in re.findall(r"\]\(([^):]+)\)", page.read_text(encoding="utf-8")):
            found.add(os.path.normpath(page.parent.relative_to(ROOT) / target))
    return found


SHOWN: frozenset[str] = frozenset({b.target for b in BLOCKS if b.kind in OF_FILES} | _linked())


def test_every_file_of_the_examples_is_shown_or_needed() -> None:
    assert [name for name in _files() if not _is_needed(name)] == []


def _is_needed(name: str) -> bool:
    """Tell whether a page shows a file, or a file that is shown needs it."""
    if name in SHOWN:
        return True
    file, topic = ROOT / name, "/".join(name.split("/")[:3]) + "/"
    siblings = [ROOT / shown for shown in SHOWN if shown.startswith(topic)]
    beside = any(shown.parent == file.parent for shown in siblings)
    # What pytest reads by itself, and what prints the output that is shown.
    if file.name.startswith(("pytest.ini", "conftest.py", "test_")) and beside:
        return True
    if file.with_suffix(".out") in siblings:
        return True
    word = re.compile(rf"\b{re.escape(file.name)}\b|\b(import|from) {file.stem}\b")
    return any(word.search(shown.read_text(encoding="utf-8")) for shown in siblings)


def test_every_file_of_the_examples_is_executed() -> None:
    runs = all_runs(RUNS, ELSEWHERE)
    assert [name for name in _files() if not _is_executed(ROOT / name, runs)] == []


def _is_executed(file: Path, runs: list[Run]) -> bool:
    """Tell whether a run, or the test that is responsible for it, executes a file."""
    example = file.parent.relative_to(EXAMPLES).as_posix()
    runs = [run for run in runs if _covers(run, example)]
    if any(file in (run.script, run.expected) for run in runs):
        return True
    if example in ELSEWHERE:
        return f'"{example}"' in (ROOT / ELSEWHERE[example]).read_text(encoding="utf-8")
    if file.suffix in (".sh", ".out") or not runs:
        return False
    texts = [run.text for run in runs]
    if file.suffix != ".py" or file.name.startswith(("test_", "conftest")):
        return any("pytest" in text for text in texts)
    imported = re.compile(rf"^(import|from) {file.stem}\b", re.MULTILINE)
    others = [other for other in file.parent.rglob("*.py") if other != file]
    return any(file.name in text or f"-m {file.stem}" in text for text in texts) or any(
        imported.search(other.read_text(encoding="utf-8")) for other in others
    )


def _covers(run: Run, example: str) -> bool:
    """Tell whether a run is of an example, or of a directory below or above it in the topic."""
    return (
        run.example == example
        or f"{run.example}/".startswith(f"{example}/")
        or (f"{example}/".startswith(f"{run.example}/") and f"--ignore={example}" not in run.text)
    )


def test_rows_are_of_examples_that_are_there() -> None:
    for run in all_runs(RUNS, ELSEWHERE):
        assert run.directory.is_dir(), run
        assert run.script is None or run.script.is_file(), run
        assert run.output is None or (run.directory / run.output).is_file(), run


def test_a_block_that_is_not_the_file_is_noticed() -> None:
    source = "import os\n\ndef f() -> None:\n    one()\n    two()\n    three()\n"
    assert is_shown("one()\ntwo()\n", source)
    assert is_shown(source, source)
    assert not is_shown("one()\nthree()\n", source)
    assert not is_shown("one ()\n", source)
    assert not is_shown("\n", source)
    assert is_shown("import os\n...\n    three()\n", source, ellipsis=True)
    assert not is_shown("    three()\n...\nimport os\n", source, ellipsis=True)


def test_fences_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- file: docs/examples/a.py -->\n```python\nx = 1\n```\n"
        "- item\n\n  <!-- not run: it is a drawing -->\n  ```text\n  a\n    b\n  ```\n"
        "```sh\nls\n```\n"
    )
    assert [(b.line, b.kind, b.target, b.language, b.text) for b in blocks(page)] == [
        (2, "file", "docs/examples/a.py", "python", "x = 1\n"),
        (8, "not run", "it is a drawing", "text", "a\n  b\n"),
        (12, "", "", "sh", "ls\n"),
    ]


def test_what_varies_does_not_count_and_the_rest_does() -> None:
    one = (
        "platform linux -- Python 3.11.7\nsim 'x', ready after 0.69 s,\npeak memory 5 MiB, 6 asked"
    )
    other = "sim 'x', ready after 12.03 s (loading 9.1 s),  peak memory 148 MiB,\n6 asked\n"
    assert normalised(one) == normalised(other)
    assert normalised(one) != normalised(other.replace("6 asked", "7 asked"))
    assert normalised("reuse 600 s") != normalised("reuse 60 s")
