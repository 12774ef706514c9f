"""What a handle remembers of its server: its guardians, its starts, its memory, its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_mlc_server.server import PopenServer


class Life:
    """One server's life, as its holder heard of it.

    Attributes
    ----------
    marks
        What tells its guardian from all others; several if a guardian was lost, oldest first. All
        holders of one shared server have the same.
    starts
        Each start that succeeded: ``at`` (seconds since 1970), ``seconds``, ``phases``.
    ended_at
        When it ended, or when this process let go of it; None while it runs.
    lent_at
        When it was first given to a test, examined; 0 where nobody gave it.
    urls
        Each `base_url` that it had.
    counted
        What a server of several processes had counted when this one let go of it: ``requests``,
        ``prompt_tokens``, ``completion_tokens``; what is not known is left out.
    """

    def __init__(self) -> None:
        self.marks: list[str] = []
        self.starts: list[dict[str, Any]] = []
        self.ended_at: float | None = None
        self.lent_at = 0.0
        self.urls: list[str] = []
        self.counted: dict[str, int] = {}
        self._memory: dict[str, Mapping[str, Any]] = {}

    def begin(self, mark: str) -> None:
        """Note which guardian has the server now."""
        if mark not in self.marks:
            self.marks.append(mark)

    def take(self, message: Mapping[str, Any]) -> None:
        """Note what a message of the guardian says."""
        event = message.get("event")
        if "memory" in message and self.marks:
            self._memory[self.marks[-1]] = message["memory"]
        if event == "ready":
            self.ended_at = None
            at = float(message.get("launched_at") or time.time() - message["seconds"])
            if all(start["at"] != at for start in self.starts):
                phases = dict(message["phases"])
                self.starts.append({"at": at, "seconds": message["seconds"], "phases": phases})
        elif event in ("exited", "wedged", "ended", "stopped", "failed"):
            self.end()

    def reached_at(self, url: str) -> None:
        """Note where it is."""
        if url not in self.urls:
            self.urls.append(url)

    def end(self) -> None:
        """Note that it is over, if that is not known already."""
        if self.ended_at is None:
            self.ended_at = time.time()

    @property
    def usable_since(self) -> float:
        """Since when what happens in it is its user's doing, in seconds since 1970."""
        last = self.starts[-1] if self.starts else {"at": 0.0, "seconds": 0.0}
        return max(self.lent_at, float(last["at"] + last["seconds"]))

    @property
    def peak(self) -> int | None:
        """The most memory that the server's tree held, in bytes; None if nobody looked."""
        return max((one["peak"] or 0 for one in self._memory.values()), default=0) or None

    @property
    def points(self) -> list[tuple[float, int]]:
        """The memory over time: seconds since 1970, and bytes."""
        return [(at, size) for one in self._memory.values() for at, size in one["points"]]


def counted(server: PopenServer) -> dict[str, int]:
    """Return what a server has counted since its start; what it does not tell is left out."""
    from pytest_mlc_server import logs
    from pytest_mlc_server.access_log import AccessLog
    from pytest_mlc_server.meter import Meter

    found: dict[str, int] = {}
    if server.log_path is None:
        return found
    log = AccessLog(server.log_path)
    log.read(logs.size(server.log_path))
    found["requests"] = log.requests
    # With a restart or a reset, the engine forgets what it has counted.
    if server.poll() == "ready" and not server.restarts and not log.resets:
        meter = Meter(server)
        counters = meter.ask()
        meter.close()
        if counters is not None:
            for name in ("prompt_tokens", "completion_tokens"):
                found[name] = getattr(counters, name) - server.probe_usage.get(name, 0)
    return found
