"""How a server is: its state, whether it works, how much memory it holds."""

from __future__ import annotations

import os

from pytest_mlc_server.errors import StartError
from pytest_mlc_server.launching import GUARDIAN_GRACE, Launching
from pytest_mlc_server.leases import GuardianLostError, Lease

#: How long one generated token may take when a server is examined, in seconds.
CHECK_DEADLINE = 5.0

#: How long the guardian may take to say how much memory its server holds, in seconds; and in a
#: process that must end soon. It answers at once, unless it is stopped.
MEASURED_WITHIN, MEASURED_IN_HURRY = 5.0, 0.5


class Observing(Launching):
    """A handle whose server can be looked at."""

    def is_alive(self) -> bool:
        """Tell whether the server's process runs; of an external one, whether we are attached.

        A server that is alive need not work: see `check`.
        """
        lease = self._lease
        if lease is None:
            return self._attached
        if not lease.mine:  # a fork must not take the messages that are meant for its parent
            return self.pid is not None and _runs(self.pid)
        return self.poll() in ("ready", "wedged")

    @property
    def peak_memory(self) -> int | None:
        """The most resident memory of the server's process tree, in bytes.

        Over all its starts; shared pages count in each process that has them. None for an external
        server, and for one that was not started.
        """
        self.memory()
        return self.life.peak

    def memory(self) -> list[tuple[float, int]]:
        """Return the resident memory of the server's process tree over time.

        Returns
        -------
        list of tuple
            Seconds since 1970, and bytes; at most some hundred points, from the first start on.
            Empty for an external server.
        """
        with self._lock:
            if self._lease is not None and self._lease.mine:
                self._measure(self._lease)
            return self.life.points

    def _measure(self, lease: Lease, timeout: float = MEASURED_WITHIN) -> None:
        """Ask the guardian how much memory the server holds, for as long as it can be asked."""
        lease.send(op="memory")
        try:
            while (message := lease.next(timeout)) is not None:
                self._take(message)
                if message["event"] == "memory":
                    return
        except GuardianLostError:
            self._lost()

    def poll(self) -> str:
        """Return the state of the server from what is known, without asking it anything.

        Returns
        -------
        str
            ``stopped`` (or not started), ``ready``, ``wedged`` (its process lives, and generates
            nothing any more) or ``exited``; of a shared server also ``starting``, when another of
            its holders has it started again.
        """
        with self._lock:
            if self._lease is None:
                return "ready" if self._attached else "stopped"
            if self._lease.mine:
                self._hear(self._lease)
            return self._state

    def check(self, deadline: float = CHECK_DEADLINE) -> str:
        """Find out whether the server works: ask it for one token.

        A slow answer alone is no proof: a server that works off a queue is asked again for as long
        as its log or its metrics move.

        Parameters
        ----------
        deadline
            How long the token may take, in seconds.

        Returns
        -------
        str
            As `poll`, or ``busy``: slow, but working.
        """
        with self._lock:
            lease = self._lease
            if lease is None or not lease.mine or self.settle() != "ready":
                return self.poll()
            lease.send(op="check", deadline=deadline)
            try:
                while (message := lease.next(10 * deadline + GUARDIAN_GRACE)) is not None:
                    self._take(message)
                    if message["event"] == "checked":
                        return self._state if self._state != "ready" else str(message["state"])
            except GuardianLostError:
                self._lost()
            return self._state

    def settle(self) -> str:
        """Wait while another holder of a shared server has it started again; return the state.

        Raises
        ------
        StartError
            If the server did not become ready.
        """
        __tracebackhide__ = True
        with self._lock:
            lease = self._lease
            if self.poll() == "starting" and lease is not None:
                try:
                    self._await_ready(lease, self._plan, self.log_path or "")
                except StartError:
                    self._drop(lease)
                    raise
            return self._state


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
