"""An answer to what ``auto`` means: how long it holds, and where it is remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pytest_mlc_server import hardware, runtime
from pytest_mlc_server.errors import ConfigError

#: How old an answer may become, in seconds; and one without a GPU where the kernel shows one, or
#: without any device: a driver may be in trouble, and no file tells when that is over.
MAX_AGE = 7 * 24 * 3600.0
DOUBTFUL_AGE = 600.0

#: The file whose lock the process has that asks.
LOCK = "asking.lock"

#: Answers that this process has had already, by the names of their files.
known: dict[str, Answer] = {}


@dataclass(frozen=True)
class Answer:
    """What was found.

    Parameters
    ----------
    device
        What ``auto`` means; empty if that is left to the server.
    found
        All kinds that exist, in upstream's order.
    asked_at
        When TVM was asked, in seconds since 1970; 0 where there is nobody to ask.
    seconds
        How long that took.
    problem
        Why `device` is empty, in one line.
    tvm
        Its version.
    files
        Stamps of files that are others where the answer may be another.
    python
        The interpreter that was asked.
    """

    device: str
    found: tuple[str, ...] = ()
    asked_at: float = 0.0
    seconds: float = 0.0
    problem: str = ""
    tvm: str = ""
    files: tuple[Any, ...] = ()
    python: str = ""

    @property
    def age(self) -> float:
        """How long ago TVM was asked, in seconds."""
        return time.time() - self.asked_at

    @property
    def holds(self) -> bool:
        """Whether nothing has changed since that would make it another, as far as is known."""
        doubtful = not self.device or (self.device == "cpu" and hardware.has_compute_nodes())
        limit = DOUBTFUL_AGE if doubtful else MAX_AGE
        return 0 <= self.age < limit and hardware.stamps(f[0] for f in self.files) == [*self.files]


def name_of(python: str, environment: Mapping[str, str], cwd: str) -> str:
    """Return a name that is another where another answer is to be expected."""
    text = json.dumps(hardware.key(python, environment, cwd))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:24]


def _path(file: str) -> str:
    """Return where a file of this room is; empty if there is no directory of this user's own.

    It is the one of the locks: it is of this machine alone, where a home may be that of many, and
    it is empty after a restart of the machine, after which hardware may be another.
    """
    try:
        return os.path.join(runtime.subdirectory("devices"), file)
    except ConfigError:
        return ""


def remembered(name: str) -> Answer | None:
    """Return the answer of a name, None if there is none that holds."""
    answer = known.get(name)
    if answer is None and (answer := _read(name)) is not None:
        known[name] = answer
    return answer if answer is not None and answer.holds else None


def _read(name: str) -> Answer | None:
    path = _path(f"{name}.json")
    try:
        with open(path, encoding="utf-8") as file:
            return _restored(json.load(file))
    except (OSError, ValueError, TypeError, KeyError):
        return None  # none there, or none that can be read: it is asked for again


def _restored(fields: Mapping[str, Any]) -> Answer:
    """Make an answer of what a file says; whatever is wrong with it raises."""
    answer = Answer(
        device=str(fields["device"]),
        found=tuple(map(str, fields["found"])),
        asked_at=float(fields["asked_at"]),
        seconds=float(fields["seconds"]),
        tvm=str(fields["tvm"]),
        files=tuple(fields["files"]),
        python=str(fields["python"]),
    )
    if answer.device not in answer.found or any(len(file) != 4 for file in answer.files):
        raise ValueError("no answer")
    return answer


def forget(name: str, answer: Answer) -> None:
    """Forget an answer that has turned out wrong; a newer one, of another process, stays."""
    if known.get(name) == answer:
        del known[name]
    if _read(name) == answer:
        with contextlib.suppress(OSError):
            os.unlink(_path(f"{name}.json"))


def remember(name: str, answer: Answer) -> None:
    """Keep an answer for this process, and for those that follow."""
    known[name] = answer
    # Why nothing was found is for this process alone: the next one may be luckier.
    if answer.device and (path := _path(f"{name}.json")):
        with contextlib.suppress(OSError):
            with open(f"{path}.{os.getpid()}", "w", encoding="utf-8") as file:
                json.dump(asdict(answer), file)
            os.replace(f"{path}.{os.getpid()}", path)
            _tidy(os.path.dirname(path))


def _tidy(directory: str) -> None:
    """Remove answers that nobody takes for one any more."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if time.time() - entry.stat().st_mtime > MAX_AGE and entry.name != LOCK:
                os.unlink(entry.path)


@contextlib.contextmanager
def asking(limit: float) -> Iterator[None]:
    """Let one process of this user ask at a time; nobody waits longer than asking may take."""
    path = _path(LOCK)
    if not path:
        yield
        return
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)
