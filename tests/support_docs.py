"""The code blocks of the documents: where each comes from, and whether it is what it says.

To show code, write a file below ``docs/examples/TOPIC/`` (with a ``pytest.ini`` of its own) and
show it, or some of its lines, in a fenced block right after a comment that says what it is:

``<!-- file: docs/examples/TOPIC/NAME -->``
    a file, or lines of it that follow one another (dedented).
``<!-- run: docs/examples/TOPIC/NAME.sh -->``
    the same, of commands. Every ``.sh`` below ``docs/examples/`` is run (``bash -eu``, in a copy of
    its topic) by ``tests/docs/test_runs.py``, and must end with status 0.
``<!-- output: docs/examples/TOPIC/NAME.out -->``
    what ``NAME.sh`` prints, or some of it: a line ``...`` stands for lines left out. Where the file
    has lines ``$ command``, these are the script's commands.
``<!-- not run: WHY -->``
    what no test can run. It is also in the list of ``tests/docs/not_run.py``, with its first line.

``<!-- command: NAME -->`` is for the commands of README.md that ``.ci/run`` runs, and
``<!-- generated -->`` for blocks of pages that ``docs/generate.py`` writes and checks.

- A topic with tests and without a script is run by ``pytest``. What needs anything else (another
  command or status, the stand-in for ``mlc_llm``, model directories, other plugins) has a row in
  ``tests/docs/runs.py``.
- ``python -m tests.docs.record TOPIC`` writes the ``.out`` files of a topic. Times, ports and the
  like may differ from then on: `VARYING` says which.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"

#: Kinds of blocks whose comment names a file.
OF_FILES = ("file", "run", "output")
KINDS = (*OF_FILES, "not run", "command", "generated")

_FENCE = re.compile(r"(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<language>.*)")
_COMMENT = re.compile(r" *<!-- ([a-z ]+?)(?:: (.+))? -->")

#: What differs from run to run, from machine to machine and from version to version. First whole
#: lines, then words; the layout does not count, because the length of a number changes it.
VARYING_LINES = (
    r"(platform|rootdir:|configfile:|plugins:|cachedir:) .*",
    r"(created: \d+/\d+ worker|\d+ workers \[).*",
    r"mlc-server: \w+ '.*': .*, (after )?\d+ s(: .*)?",  # of a start that takes ten seconds
)
VARYING = (
    (r"={3,}", "==="),
    (r"-{3,}", "---"),
    (r"_{3,}", "___"),
    (r"\b\d+\.\d+ ?(s|ms)\b", r"0.0 \1"),
    (r"\b(ready after 0\.0 s) \([^)]*\)", r"\1"),
    (r"\bin 0\.0 s \(\d+:\d\d:\d\d\)", "in 0.0 s"),
    (r"\bfirst token after 0\.0 ms, ", "first token after 0.0 s, "),
    (r"\bidle \d+ (s|min|h)\b", "idle 0 s"),
    (r"\b\d\d:\d\d(:\d\d)?\b", "00:00"),
    (r"\b\d{4}-\d\d-\d\d\b", "2000-01-01"),
    (r"\b(127\.0\.0\.1|0\.0\.0\.0|localhost):\d+", r"\1:0"),
    (r"\b(port|[Pp]rocess|pid|PID)([ =])\d+\b", r"\1\g<2>0"),
    (r"\b(\d+(\.\d+)?) (KiB|MiB|GiB)\b", r"0 \3"),
    (r"\b\d+\.\d+( tokens/s)", r"0.0\1"),
    (r"pytest-mlc-server-[0-9a-z_]{8}\b", "pytest-mlc-server-x"),
    (r"\b((?:sim|mlc|mock)-)\d+(-\d+\.log)", r"\g<1>0\2"),
    (r"-\w{10}(\.trace)", r"-x\1"),
    (r"\b0x[0-9a-f]+\b", "0x0"),
    (r"<PopenServer [^>]*>", "<PopenServer>"),  # pytest shortens it where the log's path is long
    (r"\bPython 3\.\d+\.\d+\b", "Python 3"),
    (r"\bbin/python3?(\.\d+)?\b", "bin/python"),  # as whoever made the environment called it
    (r" \\ ", " "),  # a command is broken where its paths are long
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes
    ----------
    page
        The page, relative to the repository.
    line
        Number of the line with the fence.
    kind
        What the comment before it says it is (`KINDS`); "" where there is no comment.
    target
        What the comment names.
    language, text
        What follows the fence, and the lines between the fences, without the fence's own indent.
    """

    page: str
    line: int
    kind: str
    target: str
    language: str
    text: str

    @property
    def first_line(self) -> str:
        """Return the first line of the text."""
        return next(iter(self.text.splitlines()), "")

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Return every page of the documents."""
    at_the_top = (ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md"))
    below = (p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)
    return [*(page for page in at_the_top if page.exists()), *sorted(below)]


def blocks(page: Path) -> Iterator[Block]:
    """Return the fenced blocks of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    name = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
    number = 0
    while number < len(lines):
        opening = _FENCE.fullmatch(lines[number])
        if opening is None:
            number += 1
            continue
        start, fence, indent = number, opening["fence"], opening["indent"]
        number += 1
        while number < len(lines) and lines[number].strip() != fence:
            number += 1
        text = "".join(f"{line.removeprefix(indent)}\n" for line in lines[start + 1 : number])
        comment = _COMMENT.fullmatch(lines[start - 1]) if start else None
        kind, target = (comment[1], comment[2] or "") if comment else ("", "")
        yield Block(name, start + 1, kind, target, opening["language"].strip(), text)
        number += 1


def all_blocks() -> list[Block]:
    """Return the fenced blocks of all pages."""
    return [block for page in pages() for block in blocks(page)]


def is_shown(text: str, source: str, *, ellipsis: bool = False) -> bool:
    """Tell whether a block shows a file, or lines of it that follow one another.

    Parameters
    ----------
    text
        The block.
    source
        What the file says.
    ellipsis
        Whether a line ``...`` of the block stands for any lines that are left out.
    """
    shown, lines = _lines(text), _lines(source)
    pieces: list[list[str]] = [[]]
    for line in shown:
        if ellipsis and line.strip() == "...":
            pieces.append([])
        else:
            pieces[-1].append(line)
    at = 0
    for piece in filter(None, pieces):
        found = _find(piece, lines, at)
        if found is None:
            return False
        at = found + len(piece)
    return any(pieces)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def _find(piece: Sequence[str], lines: Sequence[str], start: int) -> int | None:
    for at in range(start, len(lines) - len(piece) + 1):
        part = textwrap.dedent("\n".join(lines[at : at + len(piece)])).split("\n")
        if part == list(piece) or list(lines[at : at + len(piece)]) == list(piece):
            return at
    return None


def normalised(text: str, varying: Sequence[tuple[str, str]] = ()) -> str:
    """Return what a run has printed, as words, without what differs from run to run.

    Parameters
    ----------
    text
        The output.
    varying
        Further patterns, of the text as it is, and what to replace them with.
    """
    for pattern, replacement in varying:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    dropped = re.compile("|".join(VARYING_LINES))
    lines = [line for line in text.splitlines() if not dropped.fullmatch(line.strip())]
    words = " ".join(" ".join(lines).split())
    for pattern, replacement in VARYING:
        words = re.sub(pattern, replacement, words)
    return " ".join(words.split())
