"""The server's log: its tail, the part that belongs to a test, the line that says it died."""

from __future__ import annotations

import os
import re
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: What uvicorn writes once its socket listens.
RUNNING = re.compile(r"Uvicorn running on https?://\S+")

# The engine runs in a thread of the server. When that thread dies the process lives on, and waits
# for ever. Python's own hook for such threads writes these lines.
_THREAD_DIED = re.compile(r"^Exception in thread Thread-\d+")
_LAST_LINE = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\b")
_OTHER_LINE = re.compile(r"^(?:(?:INFO|WARNING|ERROR|DEBUG|CRITICAL):\s|\[\d|Exception in thread )")

#: What uvicorn writes for each request.
REQUEST = re.compile(r'^INFO:\s+\S+ - ("[A-Z]+ \S+ HTTP/[\d.]+".*)')

#: What this package's own requests end in: it tells their lines from those of tests.
OWN_QUERY = "?client=pytest-mlc-server"

#: Phases of a start, in their usual order, and what the log says at the beginning of each.
LAUNCHING, DETECTING, DOWNLOADING, COMPILING, LOADING, BINDING = PHASES = (
    "launching",
    "detecting devices",
    "downloading",
    "compiling",
    "loading",
    "binding",
)
#: What a server does before its start, while another one compiles or downloads the same model.
WAITING = "waiting for another server"

_PHASE_BEGINS = (
    (re.compile(r"auto_device\.py:\d+: (?:Found|Not found) device"), DETECTING),
    (re.compile(r"Downloading model from|\[Git(?: LFS)?\]|Downloaded http"), DOWNLOADING),
    (re.compile(r"Compiling using commands below"), COMPILING),
    (
        re.compile(
            r"Using (?:library model|cached model lib|compiled model lib)|\[DEBUG\] mock test"
            r"|The selected engine mode is|cpp/serve/config\.cc"
        ),
        LOADING,
    ),
    (re.compile(r"Started server process|Waiting for application startup"), BINDING),
)

# What upstream's `jit.py`, `engine_base.py` and `download_cache.py` say of files. A loader that has
# got past all models names its mode.
_LIBRARY = re.compile(r"Using (library model|cached model lib|compiled model lib): (\S.*)")
_DIRECTORY = re.compile(
    r"download_cache\.py:\d+: (?:(Weights already downloaded|Use cached weight): "
    r"|Moving .*? to )(\S.*)"
)
_BUILT = re.compile(r"The selected engine mode is")

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")

#: How a server came by a file: it was there already, it was made now, it was given.
CACHED, MADE, GIVEN = "cached", "made", "given"

#: What is read of a line, in bytes.
LONGEST_LINE = 65536


def phase_begun(line: str) -> str:
    """Return the phase of a start that begins with a line; empty if none does."""
    begun = [phase for beginning, phase in _PHASE_BEGINS if beginning.search(line)]
    return begun[-1] if begun else ""


def plain(text: str) -> str:
    """Return a text without terminal colours and without characters that a report cannot hold."""
    text = _ESCAPES.sub("", text).replace("\r\n", "\n")
    return "".join(c if c >= " " or c in "\n\t" else "?" for c in text)


def size(path: str) -> int:
    """Return the size of a log in bytes, 0 if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def words_path(log: str) -> str:
    """Return where the guardian of a server writes, beside the server's log."""
    return f"{log.removesuffix('.log')}.guardian.log"


def read(path: str, start: int = 0, end: int | None = None, limit: int = 1 << 20) -> str:
    """Return a part of a log, decoded; of a longer part than `limit` bytes, its end."""
    try:
        with open(path, "rb") as file:
            stop = size(path) if end is None else end
            skipped = max(0, stop - start - limit)
            file.seek(start + skipped)
            data = file.read(max(0, stop - start - skipped))
    except OSError:
        return ""
    text = data.decode("utf-8", "replace")
    if skipped:
        text = f"[{skipped} bytes left out]\n" + text.partition("\n")[2]
    return plain(text)


def tail(path: str, lines: int = 30) -> str:
    """Return the last lines of a log."""
    return "\n".join(read(path, limit=64 * 1024).rstrip().splitlines()[-lines:])


class LogReader:
    """Reads the log of a server as it grows, from the guardian.

    Parameters
    ----------
    path
        The log.
    offset
        Where to begin, in bytes.

    Attributes
    ----------
    phase
        What a starting server is doing: one of `PHASES`.
    running
        Whether uvicorn said that it listens.
    died
        What the dead engine said, all its lines; empty while no engine died.
    last_request
        The last request that the server logged.
    libraries, directories
        Files that the server named as the models' libraries and as directories of downloaded
        models, in order, each with how it came by it: `CACHED`, `MADE`, or `GIVEN`.
    built
        Whether nothing is compiled or downloaded any more.
    """

    def __init__(self, path: str, offset: int = 0) -> None:
        self.phase = LAUNCHING
        self.running = False
        self.died = ""
        self.last_request = ""
        self.libraries: list[tuple[str, str]] = []
        self.directories: list[tuple[str, str]] = []
        self.built = False
        self._path = path
        self._offset = offset
        self._rest = b""
        self._in_traceback = False
        self._message: list[str] = []

    def read(self) -> bool:
        """Read what is new; tell whether there was anything."""
        if size(self._path) <= self._offset:  # one system call: this runs ten times a second
            return False
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read(1 << 20)
        except OSError:
            return False
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:LONGEST_LINE]  # a server that never ends its line must not fill us
        for line in lines:
            self._line(plain(line[:LONGEST_LINE].decode("utf-8", "replace")).rstrip())
        return bool(data)

    def _line(self, line: str) -> None:
        if _THREAD_DIED.match(line) and not self._message:
            self._in_traceback = True
        elif self._in_traceback:
            self._traceback_line(line)
        else:
            self._other_line(line)

    def _traceback_line(self, line: str) -> None:
        if not self._message:
            if _LAST_LINE.match(line):
                self._message.append(line)
        elif _OTHER_LINE.match(line) or len(self._message) >= 50:
            self._in_traceback = False
            self._other_line(line)
        else:
            self._message.append(line)
        self.died = "\n".join(self._message).strip()

    def _other_line(self, line: str) -> None:
        if request := REQUEST.match(line):
            if f"{OWN_QUERY} " not in line:
                self.last_request = request.group(1)
            return
        if RUNNING.search(line):
            self.running = True
        self.phase = phase_begun(line) or self.phase
        if not self.built:
            self._look_for_files(line)

    def _look_for_files(self, line: str) -> None:
        self.built = bool(_BUILT.search(line)) or self.running
        if library := _LIBRARY.search(line):
            how = {"library model": GIVEN, "cached model lib": CACHED}.get(library.group(1), MADE)
            self.libraries.append((library.group(2), how))
        if directory := _DIRECTORY.search(line):
            self.directories.append((directory.group(2), CACHED if directory.group(1) else MADE))


class LiveLog:
    """Copies a log to a terminal as it grows.

    Parameters
    ----------
    path
        The log.
    output
        Descriptor to write to.
    prefix
        What each line begins with.
    secrets
        What is masked.
    """

    EVERY = 0.05  # seconds

    def __init__(self, path: str, output: int, prefix: str, secrets: Sequence[str] = ()) -> None:
        self._path = path
        self._output = output
        self._prefix = prefix.encode()
        self._secrets = [secret.encode() for secret in secrets]
        self._offset = 0
        self._rest = b""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlc-log-live", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Copy what is left, and end."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(self.EVERY):
            self._copy()
        self._copy()
        if self._rest:
            self._write([self._rest])

    def _copy(self) -> None:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._write(lines)

    def _write(self, lines: list[bytes]) -> None:
        shown = [line for line in lines if f"{OWN_QUERY} ".encode() not in line]
        data = b"".join(self._prefix + line + b"\n" for line in shown)
        for secret in self._secrets:
            data = data.replace(secret, b"***")
        while data:
            try:
                data = data[os.write(self._output, data) :]
            except OSError:  # the terminal is gone
                return
