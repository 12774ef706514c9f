"""A lease, the holder's end of a guardian: hold the server, hear its news, let it go.

The guardian stops its server when the lease's socket closes or its holder's process ends, in
whatever way. A lease therefore needs no clean-up to be safe; clean-up only makes the end orderly.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_mlc_server import guardian_process, logs, process
from pytest_mlc_server.errors import ConfigError

#: Processes without which this one has no use for servers either: the controller of an xdist
#: worker, which lives on for 5 to 15 s after its controller was killed.
also_needed: list[int] = []

#: A guardian that says more than this without ending its line is none, in bytes.
LONGEST_MESSAGE = 16 << 20

#: How long a guardian may take to answer a guest, in seconds: it answers at once or not at all.
ANSWER_WITHIN = 15.0


class GuardianLostError(Exception):
    """The guardian ended without a word: it was killed, or it failed."""


class Lease:
    """A guardian of one server, as its holder sees it.

    Parameters
    ----------
    argv, env, cwd
        What the guardian executes: command line, whole environment, working directory.
    log
        The server's log.
    order
        What else the guardian must know: `mark`, `port`, `expected`, the time limits.
    secret
        What the server reads from descriptor 3; empty for nothing.
    lock
        File whose lock reserves the port; empty for none.
    builds
        Files that keep builds apart, a line each (`builds.Builds.files`); empty for none.
    door
        A socket that listens, where others may ask the guardian for a lease; None for nobody else.
    held
        Descriptor of a lock that the guardian keeps until nothing of the server is left.
    parent
        Socket of a warm parent that forks the server; empty for none.
    forks
        A socket that listens, for the requests that a warm parent is to have; None for a server.

    Attributes
    ----------
    shared : bool
        Whether others may hold the same server: letting it go is not stopping it then.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        log: str,
        order: Mapping[str, Any],
        *,
        secret: str = "",
        lock: str = "",
        builds: str = "",
        door: socket.socket | None = None,
        held: int | None = None,
        parent: str = "",
        forks: socket.socket | None = None,
    ) -> None:
        self._init(order["mark"], log, shared=door is not None)
        pairs = (f"{name}={value}" for name, value in env.items())
        fields = [str(len(argv)), *argv, cwd, log, secret, lock, builds, parent, *pairs]
        if any("\0" in field for field in fields):
            raise ConfigError("a command line, a directory or an environment cannot hold a NUL")
        record = b"\0".join(os.fsencode(field) for field in fields)
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._guardian: subprocess.Popen[bytes] | None = guardian_process.start(
                theirs,
                log,
                () if door is None else (door,),
                () if held is None else (held,),
                () if forks is None else (forks,),
            )
        try:
            self._socket.sendall(len(record).to_bytes(4, "big") + record)
            self._socket.sendall(json.dumps({**order, "holders": holders()}).encode() + b"\n")
        except OSError:
            pass  # the guardian is gone already: the first `next` says so

    def _init(self, mark: str, log: str, *, shared: bool) -> None:
        self.mark = mark
        self.shared = shared
        self._owner = os.getpid()
        self._log = log
        self._inbox = b""
        self._keeper, self._keeper_start = 0, ""

    @classmethod
    def ask(
        cls, connection: socket.socket, *, exclusive: bool, linger: float, runs: Sequence[Any]
    ) -> tuple[Lease, dict[str, Any]]:
        """Ask a guardian that is there already for a lease.

        Parameters
        ----------
        connection
            To its door.
        exclusive
            Whether nobody else may hold the server at this moment.
        linger
            How long the server stays after its last holder, in seconds.
        runs
            Processes that hold the server beside this one, each with its start time.

        Returns
        -------
        Lease, dict
            The lease, and the guardian's answer: ``welcome``, or ``busy`` without a lease.

        Raises
        ------
        GuardianLostError
            If the guardian is going.
        """
        lease = cls.__new__(cls)
        lease._init("", "", shared=True)
        lease._socket, lease._guardian = connection, None
        lease.send(op="attach", holders=holders(), exclusive=exclusive, linger=linger, runs=runs)
        answer = lease.next(ANSWER_WITHIN)
        if answer is None:
            raise GuardianLostError(f"it did not answer within {ANSWER_WITHIN:g} s")
        lease.mark, lease._log = str(answer.get("mark", "")), str(answer.get("log", ""))
        lease._meet(int(answer.get("keeper", 0)))
        return lease, answer

    @property
    def guardian(self) -> dict[str, Any]:
        """The process that ends last of a guardian that this process started, for others."""
        pid = self._guardian.pid if self._guardian is not None else 0
        return {"keeper": pid, "keeper_start": process.start_time(pid)}

    @property
    def mine(self) -> bool:
        """Whether this process made the lease: a fork of that process holds nothing."""
        return self._owner == os.getpid()

    def next(self, timeout: float) -> dict[str, Any] | None:
        """Return the guardian's next message, or None if none comes in time.

        Parameters
        ----------
        timeout
            In seconds; 0 takes only what is there already.

        Raises
        ------
        GuardianLostError
            If the guardian is gone.
        """
        deadline = time.monotonic() + timeout
        while b"\n" not in self._inbox:
            remaining = max(0.0, deadline - time.monotonic())
            poll = select.poll()  # not select(): a process with many open files is past its limit
            poll.register(self._socket, select.POLLIN)
            if not poll.poll(remaining * 1000):
                return None
            data = self._receive()
            if not data or len(self._inbox) > LONGEST_MESSAGE:
                raise GuardianLostError(self._last_words())
            self._inbox += data
        line, _, self._inbox = self._inbox.partition(b"\n")
        try:
            message: dict[str, Any] = json.loads(line)
            event = message["event"]
            keeper = int(message["keeper"]) if event == "spawned" else 0
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise GuardianLostError(f"it sent what is no message: {line[:200]!r}") from None
        if keeper:
            self._meet(keeper)
        return message

    def _meet(self, keeper: int) -> None:
        self._keeper, self._keeper_start = keeper, process.start_time(keeper)

    def send(self, **message: Any) -> None:
        """Ask the guardian something; if it is gone, whoever waits for the answer hears of it."""
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def stop(self, timeout: float, *, discard: str | None = None) -> None:
        """Ask the guardian to stop the server.

        Parameters
        ----------
        timeout
            Time limit of the orderly stop, in seconds.
        discard
            Directory that the guardian removes afterwards.
        """
        self.send(op="stop", timeout=timeout, discard=discard)

    def release(self, *, keep_log: bool) -> None:
        """Let go of a server that others may hold."""
        self.send(op="release", keep=keep_log)
        self.leave()

    def wait(self, timeout: float) -> dict[str, Any]:
        """Wait until the server and the guardian are gone; end what a lost guardian left.

        Parameters
        ----------
        timeout
            In seconds; a guardian that needs longer is killed, and what it left too.

        Returns
        -------
        dict
            How the server ended: ``returncode``, ``by``, ``left``; empty if nobody can say.
        """
        deadline = time.monotonic() + timeout
        ended: dict[str, Any] = {}
        try:
            while (message := self.next(max(0.0, deadline - time.monotonic()))) is not None:
                if message["event"] == "ended":
                    ended = message
                if message["event"] == "stopped":
                    break
        except GuardianLostError:
            self.sweep()
        self._socket.close()
        if not self._guardian_ended(max(1.0, deadline - time.monotonic())):
            self._end_guardian()
            self.sweep()
        words = logs.words_path(self._log)
        if logs.size(words) == 0:
            with contextlib.suppress(OSError):
                os.unlink(words)
        return ended

    def _end_guardian(self) -> None:
        """Kill a guardian that does nothing any more: stopped with SIGSTOP, say."""
        if self._keeper and process.start_time(self._keeper) == self._keeper_start:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._keeper, signal.SIGKILL)  # the watcher then ends what it left
        if not self._guardian_ended(5.0) and self._guardian is not None:
            self._guardian.kill()
            self._guardian.wait()

    def _guardian_ended(self, timeout: float) -> bool:
        """Wait for the guardian's end: of our child, its watcher; else of its keeper."""
        if self._guardian is not None:
            return guardian_process.ended(self._guardian, timeout)
        return guardian_process.await_end(self._keeper, self._keeper_start, timeout)

    def leave(self) -> None:
        """Close the lease without waiting for the end of anything."""
        self._socket.close()
        guardian_process.leave(self._guardian if self.mine else None)

    def sweep(self) -> None:
        """Kill whatever carries the server's mark: the last belt, when the guardian is gone."""
        while found := process.marked(self.mark):
            process.kill(found)
            time.sleep(0.005)

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except OSError:
            return b""

    def _last_words(self) -> str:
        try:
            with open(logs.words_path(self._log), encoding="utf-8", errors="replace") as file:
                return file.read()[-2000:].strip()
        except OSError:
            return ""


def holders() -> list[tuple[int, str]]:
    """Return the processes without which this one needs no server, each with its start time."""
    return [(pid, process.start_time(pid)) for pid in (os.getpid(), *also_needed)]
