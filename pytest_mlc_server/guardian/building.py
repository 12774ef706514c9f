"""Two servers of one host never compile or download the same model at the same time.

Neither the cache of libraries nor that of downloads takes a lock. The first server builds, under a
lock that the kernel frees with its keeper; the others wait for it. A stamp beside the lock names
the files that a start of this configuration used: as long as they are unchanged there is nothing to
build, and starts run side by side.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pytest_mlc_server.logs import LogReader

#: How often a lock that another keeper has is tried again, in seconds: one system call.
TRY_EVERY = 0.1

#: How often those who wait are told again for whom: silence would mean that this process hangs.
TELL_EVERY = 5.0


class Build:
    """What one server may compile and download.

    Parameters
    ----------
    files
        A line each: the stamp, empty where all is built anew each time, and a lock for each model.
    """

    def __init__(self, files: str) -> None:
        self.holder = ""
        """Who has a lock that could not be had, for people."""
        self._stamp, *self._locks = files.split("\n")
        self._taken: dict[str, int] = {}

    def enter(self) -> bool:
        """Take the locks, if there is anything to build; tell whether the server may start."""
        if self._taken or self.nothing_to_build():
            return True
        for path in self._locks:
            try:
                self._taken[path] = self._take(path)
            except BlockingIOError:
                self.leave()
                return False
            except OSError as error:
                # Better side by side than not at all: it is as it would be without this package.
                sys.stderr.write(f"cannot take the lock {path}: {error.strerror}\n")
        if self.nothing_to_build():
            self.leave()  # whoever had the locks until now has built it
        return True

    def leave(self) -> None:
        """Let others build."""
        taken, self._taken = self._taken, {}
        for path, descriptor in taken.items():
            try:
                os.unlink(path)  # while it is ours: whoever waits for it looks whether it is there
            except OSError:
                pass
            os.close(descriptor)

    def turn(self, tell: Callable[..., None], log: str) -> Turn:
        """Begin to wait until `enter` succeeds.

        Parameters
        ----------
        tell
            Tells the holders something.
        log
            The server's log.
        """
        return Turn(self, tell, log)

    def look(self, reader: LogReader, order: dict[str, Any], cwd: str, *, ready: bool) -> None:
        """Let others build as soon as the server's log says that this one has built all.

        Parameters
        ----------
        reader
            The log.
        order
            What the holder told of the models.
        cwd
            The server's directory.
        ready
            Whether the server is ready.
        """
        if not self._taken or not (ready or (reader.built and not order["until_ready"])):
            return
        if len(reader.libraries) >= order["libraries"]:
            places = [path for path, _ in reader.directories]
            used = [path for path, _ in reader.libraries]
            used += [os.path.join(path, "mlc-chat-config.json") for path in places]
            self.remember([*(os.path.join(cwd, path) for path in used), *order["configs"]])
        self.leave()

    def remember(self, paths: Iterable[str]) -> None:
        """Leave a stamp: as long as these files are as they are, there is nothing to build."""
        if not self._stamp:
            return
        try:
            lines = [f"{_look(path)} {path}\n" for path in dict.fromkeys(paths)]
            with open(f"{self._stamp}.{os.getpid()}", "w", encoding="utf-8") as file:
                file.writelines(lines)
            os.replace(f"{self._stamp}.{os.getpid()}", self._stamp)
        except (OSError, ValueError):
            pass  # the next start takes the lock: that costs time, not truth

    def nothing_to_build(self) -> bool:
        """Tell whether all is there, as the stamp says, and nothing of it has changed."""
        if not self._stamp:
            return False
        try:
            with open(self._stamp, encoding="utf-8") as file:
                lines = file.read().splitlines()
            found = [line.split(" ", 2) for line in lines]
            return bool(found) and all(
                _look(path) == f"{changed} {size}" for changed, size, path in found
            )
        except (OSError, ValueError):
            return False

    def _take(self, path: str) -> int:
        while True:
            descriptor = self._lock(path)
            try:
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    break
            except FileNotFoundError:
                pass
            os.close(descriptor)  # its holder removed it meanwhile: this is not the lock any more
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"guardian process {os.getpid()}".encode())
        return descriptor

    def _lock(self, path: str) -> int:
        import fcntl

        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.holder = os.read(descriptor, 100).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise
        return descriptor


class Turn:
    """The wait of a server that must not build yet.

    Parameters
    ----------
    build
        What it may build.
    tell
        Tells the holders something.
    log
        The server's log.
    """

    pause = TRY_EVERY

    def __init__(self, build: Build, tell: Callable[..., None], log: str) -> None:
        self._build = build
        self._tell = tell
        self._log = log
        self._began = time.monotonic()
        self._told, self._told_at = "", 0.0
        from pytest_mlc_server import logs  # here: a server that need not wait does not wait for it

        self._phase = logs.WAITING

    @property
    def phases(self) -> dict[str, float]:
        """How long it has lasted, as a phase of a start."""
        return {self._phase: time.monotonic() - self._began}

    def has_come(self) -> bool:
        """Tell whether the server may start now; tell the holders for whom it waits."""
        if self._build.enter():
            return True
        now, holder = time.monotonic(), self._build.holder
        news = holder != self._told
        if news or now - self._told_at > TELL_EVERY:
            self._told, self._told_at = holder, now
            detail = f"that compiles or downloads this model ({holder})"
            self._tell(event="phase", phase=self._phase, detail=detail)
            if news:
                self._write(f"--- {self._phase} {detail} ---\n")
        return False

    def _write(self, line: str) -> None:
        try:
            with open(self._log, "a", encoding="utf-8", errors="replace") as log:
                log.write(line)
        except OSError:
            pass


def _look(path: str) -> str:
    """Return what changes when a file does."""
    status = os.stat(path)
    return f"{status.st_mtime_ns} {status.st_size}"
