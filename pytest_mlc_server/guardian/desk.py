"""What holders and guests ask of the guardian, and what they are told."""

from __future__ import annotations

import os
import time

from pytest_mlc_server.guardian.holder import checked, place_of, processes, seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_mlc_server.guardian.holder import Holder
    from pytest_mlc_server.guardian.loop import Loop

#: What anybody at the door may ask for, and what needs a lease.
BY_ANYBODY = frozenset({"attach", "status", "end_run", "stop", "stop_idle"})
BY_HOLDERS = frozenset({"release", "check", "verify", "restart", "memory"})


class Desk:
    """Takes messages; what follows from them is decided in the loop.

    Parameters
    ----------
    loop
        The loop.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._servers: list[Holder] = []

    def on_message(self, holder: Holder, message: dict[str, Any]) -> None:
        """Do what a message asks for; whoever sends what is none is sent away."""
        try:
            self._obey(holder, message)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            holder.lose()  # whoever sent this holds no lease of ours

    def _obey(self, holder: Holder, message: dict[str, Any]) -> None:
        if not self._loop.told:
            self._take_order(holder, message)
            return
        operation = str(message.get("op")).replace("-", "_")
        has_lease = self._loop.holders.has(holder)
        if operation not in BY_ANYBODY and not (has_lease and operation in BY_HOLDERS):
            raise ValueError(f"this one may not ask for {operation}")
        getattr(self, f"_on_{operation}")(holder, message)

    def _on_status(self, holder: Holder, _: dict[str, Any]) -> None:
        holder.send(event="status", **self._status())

    def _on_end_run(self, _: Holder, message: dict[str, Any]) -> None:
        self._loop.holders.end_run(int(message["pid"]))

    def _on_stop(self, _: Holder, message: dict[str, Any]) -> None:
        timeout = seconds(message["timeout"])
        self._loop.discard = str(message.get("discard") or "") or self._loop.discard
        self._loop.begin_stop(timeout)

    def _on_stop_idle(self, holder: Holder, _: dict[str, Any]) -> None:
        if self._loop.holders.leases == 0:
            self._loop.begin_stop()
        holder.send(event="status", **self._status())

    def _on_memory(self, holder: Holder, _: dict[str, Any]) -> None:
        if self._loop.state == "ready":
            self._loop.memory.sample(self._loop.pid)
        holder.send(event="memory", memory=self._loop.memory.told())

    def _on_release(self, holder: Holder, message: dict[str, Any]) -> None:
        self._loop.keep_log = self._loop.keep_log or bool(message["keep"])
        holder.lose()

    def _on_check(self, holder: Holder, message: dict[str, Any]) -> None:
        self._loop.examiner.begin_check(holder, seconds(message["deadline"]))

    def _on_verify(self, holder: Holder, message: dict[str, Any]) -> None:
        deadline, reset = seconds(message["deadline"]), bool(message["reset"])
        self._loop.examiner.begin_verify(holder, deadline, reset=reset)

    def _take_order(self, holder: Holder, message: dict[str, Any]) -> None:
        holders = checked(message)
        self._loop.told = message
        self._loop.share = message.get("share") or {}
        self._loop.discard = self._loop.share.get("discard", "")
        for pid, start in holders:
            holder.watch_process(pid, start)
        if self._loop.share:
            self._keep_for_runs(self._loop.share)
        for door in self._loop.doors:
            self._loop.holders.open_door(door)
        self._loop.starter.begin()

    def _keep_for_runs(self, message: dict[str, Any]) -> None:
        for pid, start in processes(message, "runs"):
            self._loop.holders.keep_for_run(pid, start)

    @property
    def linger(self) -> float:
        """How long the server stays after its last user, in seconds."""
        return float(self._loop.share.get("linger", 0.0))

    def on_nobody(self) -> None:
        """Nobody holds the server: it stays for a while if it works and that was asked for."""
        if not (self.linger and self._loop.state == "ready" and self._loop.stopping is None):
            self._loop.begin_stop()

    def _on_attach(self, guest: Holder, message: dict[str, Any]) -> None:
        found, linger = processes(message), seconds(message["linger"])
        if self._loop.leaving or self._loop.holders.has(guest):
            guest.lose()
        elif message["exclusive"] and self._loop.holders.idle_since is None:
            guest.send(event="busy", **self._status())
        else:
            idle = self._loop.holders.idle_since
            if idle is not None:
                examiner = self._loop.examiner
                examiner.examined, examiner.waited = False, time.monotonic() - idle
            status = self._status()
            # Before the lease: its holder may be one that ended already, and then it is over.
            if linger or not self._loop.told["forks"]:
                # A warm parent that another run wants to keep is none of this one's to end.
                self._loop.share["linger"] = linger
            self._keep_for_runs(message)
            guest.send(event="welcome", **status, **self._loop.share.get("grants", {}))
            self._loop.holders.accept(guest, found)
            if message.get("server"):
                self._servers.append(guest)

    def _status(self) -> dict[str, Any]:
        idle = self._loop.holders.idle_since
        return {
            "state": self._loop.state,
            "keeper": os.getpid(),
            "pid": self._loop.pid,
            "log": self._loop.order.log,
            "mark": self._loop.told["mark"],
            "generation": self._loop.generation,
            "started_at": self._loop.started_at,
            "idle": None if idle is None else time.monotonic() - idle,
            "leases": self._loop.holders.leases,
            "servers": sum(map(self._loop.holders.has, self._servers)),
            "examined": self._loop.examiner.examined,
            "waited": self._loop.examiner.waited,
            "unused": time.monotonic() - self._loop.holders.unused_since,
            "linger": self.linger,
            "ready": self._loop.ready,
            "returncode": self._loop.returncode,
        }

    def _on_restart(self, holder: Holder, message: dict[str, Any]) -> None:
        timeout, port = seconds(message["timeout"]), int(message["port"])
        reason, generation = str(message["reason"]), message.get("generation")
        parent = message.get("parent") or {}
        place = place_of(parent)
        if self._loop.leaving:
            return
        if generation is not None and int(generation) != self._loop.generation:
            # Another holder was first: there is a new server already, or soon.
            if self._loop.state == "ready":
                holder.send(**self._loop.ready)
            return
        self._loop.generation += 1
        if place:
            self._loop.order.parent, self._loop.told["parent"] = str(parent["socket"]), place
        # At once: until the old server has ended, nobody may be told that it is ready.
        self._loop.state, self._loop.examiner.waited = "starting", None
        # Also while what a server that died has left is being ended.
        self._loop.then = lambda: self._loop.starter.begin_again(port, reason)
        self._loop.stop_tree(timeout)
