"""What a starting server is doing, from its log and its guardian's words, in one line."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from pytest_mlc_server import logs
from pytest_mlc_server.masking import mask_url

if TYPE_CHECKING:
    from pytest_mlc_server.handle import Handle

#: What every line says it comes from.
NAME = "mlc-server"

#: How wide a line is where no terminal bounds it.
LINE_WIDTH = 200

#: What is read of a log at one look, in bytes: of more, the end.
MOST = 1 << 18

#: The frames of the spinner, for terminals of any encoding and of those that have these characters.
SPINNER, FINE_SPINNER = "|/-\\", "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

# How far a download or a load is: tqdm's bars around upstream's downloads, git's own, and the bar
# of upstream's native loader of several GPUs, which counts.
_PERCENT = re.compile(r"(?:^|[:\s])\s*(\d{1,3})%(?:\||\s\(\d+/\d+\))")
_COUNTED = re.compile(r"\[=*> *\]\s+\[(\d+)/(\d+)\]")

_STAMP = re.compile(r"^\[[\d :.-]+\]\s+(?:[A-Z]+\s+)?(?:\S+:\d+:\s+)?")


@dataclass(frozen=True)
class Snapshot:
    """What a start was doing at one moment.

    Parameters
    ----------
    key
        Equal for all who wait for the same server.
    what
        The server, for people.
    phase
        What it is doing.
    percent
        How much of that is done; None where the log does not say.
    last
        The last line of the log, without secrets and control characters.
    began
        When somebody began to wait for it, on the monotonic clock of this host.
    """

    key: str
    what: str
    phase: str
    percent: int | None
    last: str
    began: float

    def message(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return asdict(self)

    @classmethod
    def of(cls, message: dict[str, Any]) -> Snapshot:
        """Return what `message` returned in another process."""
        return cls(**{field.name: message[field.name] for field in fields(cls)})


class Starting:
    """Follows a start.

    Parameters
    ----------
    what
        The server, for people.
    log
        Returns the path of its log, None while there is none.
    hide
        Returns a text without secrets.
    offset
        Where in the log this start begins, in bytes.
    phase
        What is done while nothing tells.
    """

    def __init__(
        self,
        what: str,
        log: Callable[[], str | None],
        hide: Callable[[str], str] = str,
        offset: int = 0,
        phase: str = logs.LAUNCHING,
    ) -> None:
        self._what = what
        self._log = log
        self._hide = hide
        self._path: str | None = None
        self._offset = offset
        self._rest = b""
        self._phase = phase
        self._percent: int | None = None
        self._last = ""
        self._began = time.monotonic()

    @classmethod
    def of_server(cls, server: Handle) -> Starting:
        """Follow the start of a server that somebody begins to wait for."""
        model = server.model.rstrip("/")
        if not model.startswith("HF://"):
            model = model.rpartition("/")[2]  # a path would fill the line
        engine = str(server.config.engine)
        what = f"{engine} {model!r}" if model else f"{engine} {mask_url(server.config.url or '')}"
        # The log of a server that is started again goes on.
        again = bool(server.base_url) and server.log_path is not None
        return cls(
            clean(what.strip()),
            lambda: server.log_path,
            server.hide_secrets,
            logs.size(server.log_path or "") if again else 0,
            "attaching" if engine == "external" else logs.LAUNCHING,
        )

    @property
    def what(self) -> str:
        """The server, for people."""
        return self._what

    def hear(self, text: str) -> None:
        """Take over what the guardian says of the start."""
        self._set_phase(clean(self._hide(text)))

    def look(self) -> Snapshot:
        """Read what is new in the log, and return what the start is doing."""
        path = self._log()
        if path is not None:
            if self._path is not None and path != self._path:
                self._offset, self._rest = 0, b""  # started once more, by another guardian
            self._path = path
            self._read(path)
        key = path or f"{self._what} {id(self)}"
        return Snapshot(
            key, self._what, self._phase, self._percent, self._hide(self._last), self._began
        )

    def _read(self, path: str) -> None:
        size = logs.size(path)
        if size <= self._offset:  # one system call: this runs ten times a second
            return
        if size - self._offset > MOST:
            self._offset, self._rest = size - MOST, b""
        try:
            with open(path, "rb") as file:
                file.seek(self._offset)
                data = file.read(MOST)
        except OSError:
            return
        self._offset += len(data)
        # Bars are redrawn after a carriage return, and end with no line end.
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + data)
        self._rest = self._rest[: logs.LONGEST_LINE]
        for line in lines:
            self._take(_text(line), ended=True)
        self._take(_text(self._rest), ended=False)

    def _take(self, line: str, *, ended: bool) -> None:
        phase = logs.phase_begun(line)
        if phase:
            self._set_phase(phase)
        percent = percentage(line)
        if percent is not None:
            self._percent = percent
        elif ended and line and not line.startswith("---"):  # the guardian's: a phase says it
            self._last = _STAMP.sub("", line)[:LINE_WIDTH]

    def _set_phase(self, phase: str) -> None:
        if phase != self._phase:
            self._phase, self._percent = phase, None


def percentage(line: str) -> int | None:
    """Return how far the progress bar is that a line shows; None for any other line."""
    if (counted := _COUNTED.search(line)) and int(counted.group(2)):
        return min(100, 100 * int(counted.group(1)) // int(counted.group(2)))
    found = _PERCENT.search(line)
    return None if found is None else min(100, int(found.group(1)))


def clean(text: str) -> str:
    """Return a text in one line, without what would do something to a terminal."""
    return "".join(c for c in logs.plain(text).replace("\t", " ") if c.isprintable())


def _text(line: bytes) -> str:
    return clean(line[: logs.LONGEST_LINE].decode("utf-8", "replace")).strip()


def elapsed(seconds: float) -> str:
    """Return a time for people: ``34 s``, ``2 min 05 s``."""
    whole = max(0, int(seconds))
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60:02} s"


def line(snapshot: Snapshot, now: float) -> str:
    """Return what a start is doing, in one line."""
    percent = "" if snapshot.percent is None else f"{snapshot.percent} %, "
    text = f"{snapshot.what}: {snapshot.phase}, {percent}{elapsed(now - snapshot.began)}"
    return f"{text}: {snapshot.last}" if snapshot.last else text


def plain(snapshot: Snapshot, now: float) -> str:
    """Return the line for where there is no terminal."""
    return cut(f"{NAME}: {line(snapshot, now)}", LINE_WIDTH)


def status(starts: Sequence[Snapshot], now: float, frame: int, fine: bool = True) -> str:
    """Return the line for a terminal, not cut yet.

    Parameters
    ----------
    starts
        What starts: at least one.
    now
        The time, on the monotonic clock.
    frame
        The number of the spinner's frame.
    fine
        Whether the terminal has all characters.
    """
    spinner = FINE_SPINNER if fine else SPINNER
    longest = min(starts, key=lambda one: one.began)
    several = f"{len(starts)} servers start, the slowest: " if len(starts) > 1 else ""
    return f"{spinner[frame % len(spinner)]} {NAME}: {several}{line(longest, now)}"


def cut(text: str, width: int, fine: bool = True) -> str:
    """Return the beginning of a text that takes no more columns of a terminal than `width`."""
    if _columns(text) <= width:
        return text
    more = "…" if fine else "..."
    kept, room = [], width - len(more)
    for character in text:
        room -= _columns(character)
        if room < 0:
            break
        kept.append(character)
    return ("".join(kept) + more)[: max(0, width)]


def _columns(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
