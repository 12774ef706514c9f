"""How many servers a run has at once on this host, counted by locks that the kernel frees.

Each live server holds the lock of a file of its own: its guardian does, for as long as anything of
the server is left. To take one more is to count the locks, under a lock for that moment.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from pytest_mlc_server.errors import StartError

_PREFIX, _SUFFIX = "slot-", ".live"

#: How long to wait for the lock under which servers are counted, in seconds.
COUNT_WITHIN = 60.0


class FullError(StartError):
    """There are as many servers as there may be."""


class Slots:
    """The servers of one run that live on this host.

    Parameters
    ----------
    directory
        The run's directory.
    limit
        How many may live at once.
    lingering
        Returns how many more servers count: those of earlier runs that wait for their next user,
        but for those with these names.
    """

    def __init__(
        self, directory: str, limit: int, lingering: Callable[[set[str]], int] = lambda _: 0
    ) -> None:
        self.directory = directory
        self.limit = limit
        self._lingering = lingering

    def taken(self) -> set[str]:
        """Return the names of the servers that live."""
        with self._counting():
            return self._taken()

    def take(self, name: str) -> int:
        """Count one more server; return the descriptor that its guardian keeps open.

        Parameters
        ----------
        name
            The server's; no other that lives has it.

        Raises
        ------
        FullError
            If there are as many as there may be.
        """
        import fcntl

        with self._counting():
            taken = self._taken()
            if len(taken) + self._lingering({*taken, name}) >= self.limit:
                raise FullError(
                    f"{self.limit} servers are live, and no more may be (--mlc-max-servers)"
                )
            descriptor = self._open(name)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                raise FullError(f"the server {name} is still going") from None
            return descriptor

    def join(self, name: str) -> int | None:
        """Count a server that this run did not start while this process holds it.

        Returns
        -------
        int or None
            The descriptor to close with the lease; None if its guardian is counted already.
        """
        import fcntl

        with self._counting():
            descriptor = self._open(name)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                return None
            return descriptor

    def _taken(self) -> set[str]:
        import fcntl

        names = set()
        for file in os.listdir(self.directory):
            if not (file.startswith(_PREFIX) and file.endswith(_SUFFIX)):
                continue
            name = file[len(_PREFIX) : -len(_SUFFIX)]
            descriptor = self._open(name)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                names.add(name)
            else:
                # Nobody can be about to lock it: whoever does is counting now.
                os.unlink(os.path.join(self.directory, file))
            finally:
                os.close(descriptor)
        return names

    def _open(self, name: str) -> int:
        path = os.path.join(self.directory, f"{_PREFIX}{name}{_SUFFIX}")
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        import fcntl

        path = os.path.join(self.directory, "slots.lock")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            deadline = time.monotonic() + COUNT_WITHIN
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StartError(
                            f"another process of this run has held {path} for {COUNT_WITHIN:g} s"
                        ) from None
                    time.sleep(0.002)
            yield
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def held(slots: Slots | None, name: str) -> Iterator[int | None]:
    """Hold the slot of a server that is being started; its guardian holds it from then on.

    Raises
    ------
    FullError
        If there is none.
    """
    if slots is None:
        yield None
        return
    descriptor = slots.take(name)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
