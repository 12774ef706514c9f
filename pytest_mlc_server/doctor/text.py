"""A diagnosis for people: 80 columns, ASCII but for names, colours on a terminal alone."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import TextIO

from pytest_mlc_server.doctor.findings import LEVELS, OK, PROBLEM, Diagnosis, Finding, Section
from pytest_mlc_server.doctor.hiding import hide

#: Longer texts are cut; JSON has all of it.
LONGEST = 600

_COLOURS = {"ok": "32", "note": "36", "warning": "33", "problem": "31;1"}
_WIDTH, _WIDEST = 80, 100
_WORD = re.compile(r"""(?:[^\s'"\\]|'[^']*'|"[^"]*"|\\.)+""", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def is_coloured(stream: TextIO) -> bool:
    """Tell whether colours are for a stream: a terminal, unless NO_COLOR is set."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def width_of(stream: TextIO) -> int:
    """Return how many columns a stream has."""
    if not stream.isatty():
        return _WIDTH
    return max(40, min(_WIDEST, shutil.get_terminal_size((_WIDTH, 24)).columns))


def encodable(text: str, encoding: str) -> str:
    """Return a text that an encoding has all characters of, and no terminal takes for commands."""
    text = _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


class Page:
    """Lays out a diagnosis.

    Parameters
    ----------
    width
        How many columns there are.
    coloured
        Whether to use colours.
    secrets
        What must not be shown.
    encoding
        That of the stream.
    """

    def __init__(
        self, width: int, *, coloured: bool, secrets: Sequence[str] = (), encoding: str = "utf-8"
    ) -> None:
        self._width = width
        self._coloured = coloured
        self._secrets = secrets
        self._encoding = encoding

    def lines(self, diagnosis: Diagnosis) -> Iterator[str]:
        """Yield the lines."""
        yield "What a run with these settings would find. Nothing is started or written."
        for section in diagnosis.sections:
            yield from self._section(section, "")
        before: list[Section] = []
        several = len(diagnosis.servers) > 1
        for number, server in enumerate(diagnosis.servers, 1):
            which = f"server {number} of {len(diagnosis.servers)}" if several else "server"
            model = f" {server.model!r}" if server.model else ""
            yield ""
            yield self._paint(self._clean(f"{which}: {server.engine}{model}"), "1")
            same = [s.name for s in server.sections if s in before]
            for section in server.sections:
                if section not in before:
                    yield from self._section(section, "  ")
            if same:
                yield f"  as above: {', '.join(same)}"
            before += server.sections
        yield ""
        yield from self._verdict(diagnosis)

    def _section(self, section: Section, indent: str) -> Iterator[str]:
        yield ""
        yield indent + self._paint(section.name, "1")
        for finding in section.findings:
            yield from self._finding(finding, indent + "  ")

    def _finding(self, finding: Finding, indent: str) -> Iterator[str]:
        head = f"{finding.level:<8}"
        mark = self._paint(head, _COLOURS[finding.level])
        first, *more = self._wrapped(finding.text, indent + " " * len(head))
        yield f"{indent}{mark}{first[len(indent) + len(head) :]}"
        yield from more
        under = indent + " " * len(head)
        if finding.remedy:
            lines = self._wrapped(finding.remedy, under + "   ")
            yield f"{under}-> {lines[0].strip()}"
            yield from lines[1:]
        if finding.command:
            yield from self._command(finding.command, under + "   ")

    def _wrapped(self, text: str, indent: str) -> list[str]:
        lines: list[str] = []
        for line in self._clean(_cut(text)).split("\n"):
            deeper = indent + line[: len(line) - len(line.lstrip())]
            lines += textwrap.wrap(
                re.sub(r" {2,}", ": ", line.strip()),  # a table would be torn
                self._width,
                initial_indent=deeper,
                subsequent_indent=deeper + "  " * (deeper != indent),
                # A path or a command that is broken cannot be copied.
                break_long_words=False,
                break_on_hyphens=False,
            ) or [indent]
        return lines

    def _command(self, command: str, indent: str) -> Iterator[str]:
        """Yield a command in lines that a shell reads as one."""
        line = f"{indent}$ "
        beginning = len(line)
        for word in _words(hide(command, self._secrets)):
            shown = encodable(word, self._encoding)
            if len(line) + len(shown) + 2 > self._width and len(line) > beginning:
                yield f"{line}\\"
                line = f"{indent}    "
                beginning = len(line)
            line += f"{shown} "
        yield line.rstrip()

    def _verdict(self, diagnosis: Diagnosis) -> Iterator[str]:
        counts = diagnosis.counts()
        parts = [
            f"{counts[level]} {level}{'s' if counts[level] > 1 else ''}"
            for level in reversed(LEVELS)
            if counts[level] and level != OK
        ]
        found = ", ".join(parts) or "nothing to remark"
        if diagnosis.healthy:
            text = f"No problem: {found}."
            yield self._paint(text, _COLOURS[OK])
            return
        names = dict.fromkeys(
            section.name
            for section in diagnosis.all_sections()
            if any(finding.level == PROBLEM for finding in section.findings)
        )
        text = f"The run would fail: {found}. Look at: {', '.join(names)}."
        for line in textwrap.wrap(text, self._width):
            yield self._paint(line, _COLOURS[PROBLEM])

    def _clean(self, text: str) -> str:
        return encodable(hide(text, self._secrets), self._encoding)

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._coloured else text


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} ... ({len(text) - LONGEST} more characters)"


def _words(command: str) -> list[str]:
    """Divide a command where a shell would, with all quotes as they are."""
    return _WORD.findall(command)


def page_for(stream: TextIO, secrets: Sequence[str]) -> Page:
    """Return the page for a stream."""
    encoding = getattr(stream, "encoding", None) or sys.getdefaultencoding()
    return Page(width_of(stream), coloured=is_coloured(stream), secrets=secrets, encoding=encoding)
