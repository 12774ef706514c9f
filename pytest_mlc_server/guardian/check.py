"""Whether a server that looks alive works: a probe with a deadline, and what its silence means."""

from __future__ import annotations

import os
import threading
import time

from pytest_mlc_server import logs, process
from pytest_mlc_server.guardian import probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READY, WEDGED, BUSY = "ready", "wedged", "busy"

#: How often a server that is busy rather than silent is asked again.
PATIENCE = 6

#: How long to wait for the metrics, in seconds.
METRICS_DEADLINE = 1.0

#: How long the end of a process may take to be known after it has broken a connection, in seconds:
#: on a busy host it may be on its way for a while.
END_WITHIN = 1.0

#: How often to look for it, in seconds.
LOOK_EVERY = 0.005


class Check:
    """One examination, in a thread of its own.

    Parameters
    ----------
    address
        The server.
    expected
        What it must answer.
    log
        Its log.
    deadline
        How long one probe may take, in seconds.
    ended
        Tells whether the end of the server's process is known.
    done
        Called from the thread with this check, the verdict (`READY`, `WEDGED` or `BUSY`) and the
        evidence.
    """

    def __init__(
        self,
        address: tuple[str, int],
        expected: probe.Expected,
        log: str,
        deadline: float,
        ended: Callable[[], bool],
        done: Callable[[Check, str, str], None],
    ) -> None:
        self._address = address
        self._expected = expected
        self._log = log
        self._deadline = deadline
        self._ended = ended
        self._done = done
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        self._done(self, *self._examine())

    def _examine(self) -> tuple[str, str]:
        metrics: bytes | None = None
        for _ in range(PATIENCE):
            end = logs.size(self._log)
            began = time.monotonic()
            try:
                probe.generate(self._address, self._expected, self._deadline)
            except probe.NotYetError as error:
                evidence = str(error)
                if time.monotonic() - began < self._deadline / 2:
                    # Refused or reset: the process is going, and its end will say more.
                    self._await_end()
                    return READY, evidence
            except probe.NeverError as error:
                # It answers: it is not this probe that shows what is wrong with it.
                return READY, str(error)
            else:
                return READY, ""
            # Silence alone proves nothing: a server that works off a queue is silent to the last.
            before, metrics = metrics, self._metrics()
            if metrics == before and not self._answered_since(end):
                return WEDGED, f"{evidence}, and neither its log nor its metrics moved meanwhile"
        return BUSY, f"{evidence}, but its log or its metrics moved"

    def _await_end(self) -> None:
        limit = time.monotonic() + END_WITHIN
        while not self._ended() and time.monotonic() < limit:
            time.sleep(LOOK_EVERY)

    def _metrics(self) -> bytes:
        """Return the server's metrics; nothing if it does not tell: those of a dead engine hang."""
        try:
            return probe.request(
                self._address, "GET", "/metrics", None, self._expected, METRICS_DEADLINE
            )[1]
        except probe.NotYetError:
            return b""

    def _answered_since(self, offset: int) -> bool:
        """Tell whether the log shows work: a GET, ours or a health check's, needs no engine."""
        lines = logs.read(self._log, offset).splitlines()
        return any(line.strip() and '"GET ' not in line for line in lines)


def verify(
    address: tuple[str, int],
    expected: probe.Expected,
    deadline: float,
    done: Callable[[str], None],
    *,
    reset: bool,
    root: int = 0,
) -> None:
    """Find out, in a thread, whether the server at an address is ours and works.

    Parameters
    ----------
    address
        Where the server listened when it became ready.
    expected
        What it must answer.
    deadline
        How long it may take, in seconds.
    done
        Called from the thread with what is wrong; empty if nothing is.
    reset
        Whether to reset the engine's state first, the prefix cache included.
    root
        The process below which the server's tree is; 0 for this one.
    """

    def run() -> None:
        above = root or os.getpid()
        tree = [above, *(child.pid for child in process.descendants(above))]
        if not any(port == address[1] for _, port in process.listening(tree)):
            done(f"nothing of its process tree listens on port {address[1]} any more")
            return
        try:
            if reset:
                body = {"model": expected["model"]}
                where = "/debug/reset_engine"
                status, _ = probe.request(address, "POST", where, body, expected, deadline)
                if status != 200:
                    done(f"POST {where} answers {status}")
                    return
            probe.probe(address, expected, deadline, lambda _: None)
        except (probe.NotYetError, probe.NeverError) as error:
            done(str(error))
        else:
            done("")

    threading.Thread(target=run, daemon=True).start()
