"""The servers of a run as data: what one process knows of them, and what all know together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_mlc_server import access_log, logs

if TYPE_CHECKING:
    from pytest_mlc_server.health import Incident
    from pytest_mlc_server.server import PopenServer
    from pytest_mlc_server.session import Session

#: What a server is known by, as `describe` returns it.
Description = Mapping[str, Any]

#: Lines of the log of a server that went wrong.
TAIL = 100

#: What a server counts itself: whoever asked last knows most.
COUNTS = ("requests", "prompt_tokens", "completion_tokens")


def describe(server: PopenServer, session: Session) -> dict[str, Any]:
    """Return what this process knows of a server, as JSON can hold it.

    Parameters
    ----------
    server
        The server.
    session
        The plugin's session.

    Returns
    -------
    dict
        ``id`` (the same in all processes that hold the server), ``ids`` (of each of its guardians),
        ``worker``, ``engine``, ``model``, ``device``, ``scope``, ``base_url`` and ``urls`` (all
        that it had), ``launched_at`` and ``ready_at`` (of the first start), ``ended_at``,
        ``startup_seconds`` and ``phases`` (of the last start), ``starts`` (each with ``at``,
        ``seconds``, ``phases``), ``restarts``, ``incidents``, ``peak_memory`` (bytes), ``memory``
        (pairs of time and bytes), ``requests``, ``prompt_tokens``, ``completion_tokens``, ``log``,
        ``log_tail`` (of a server that went wrong), ``reused`` and ``reused_from``, ``shared``.
        Times are seconds since 1970; what is not known is None.
    """
    life, first = server.life, server.life.starts[:1]
    external = server.config.engine == "external"
    shared = server.share is not None and not server.share.exclusive
    # Of one that was there already, each worker tells what it had of it.
    ids = list(life.marks) or [f"{session.worker or ''} {server.config.url}".strip()]
    incidents = session.health.incidents if session.health is not None else []
    incidents = [incident for incident in incidents if incident.server is server]
    unwanted = any(not incident.provoked for incident in incidents)
    return {
        "id": ids[0],
        "ids": ids,
        "worker": session.worker or "",
        "engine": server.engine,
        "model": server.model,
        "device": str(server.device),
        "scope": "run" if shared else "worker",
        "base_url": server.base_url,
        "urls": list(life.urls),
        "launched_at": first[0]["at"] if first else None,
        "ready_at": first[0]["at"] + first[0]["seconds"] if first else None,
        "ended_at": life.ended_at,
        "startup_seconds": server.startup_seconds,
        "phases": dict(server.startup_phases),
        "starts": [dict(start) for start in life.starts],
        "restarts": server.restarts,
        "incidents": [_incident(one, session.worker) for one in incidents],
        "peak_memory": life.peak,
        "memory": [list(point) for point in life.points],
        **{name: life.counted.get(name) for name in COUNTS},
        "log": server.log_path,
        "log_tail": _tail(server) if unwanted else "",
        "reused": server.reused is not None,
        "reused_from": None if server.reused is None else dict(server.reused),
        "shared": shared or external,
    }


def _tail(server: PopenServer) -> str:
    text = logs.tail(server.log_path, TAIL) if server.log_path is not None else ""
    return server.hide_secrets(access_log.own_lines(text)).rstrip()


def _incident(incident: Incident, worker: str | None) -> dict[str, Any]:
    return {
        "test": incident.test,
        "text": incident.text,
        "outcome": incident.outcome,
        "provoked": incident.provoked,
        "at": incident.at,
        "worker": worker or "",
    }


def described(session: Session) -> list[dict[str, Any]]:
    """Return what this process knows of its servers, one after the other."""
    if session.pool is None:
        return []
    handles = {id(server): server for server in session.pool.history}
    for incident in session.health.incidents if session.health is not None else []:
        # The handle of a server that was let go of and is held again may be in no history.
        handles.setdefault(id(incident.server), incident.server)
    return merged(describe(server, session) for server in handles.values())


class Servers:
    """Collects what the processes of a run say of their servers."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], dict[str, Any]] = {}
        self._costs: list[tuple[float, Mapping[str, Any]]] = []

    def take(self, descriptions: Iterable[dict[str, Any]]) -> None:
        """Take what one process says; it replaces what that one said before."""
        for one in descriptions:
            self._found[one["id"], one["worker"]] = one

    def add_cost(self, at: float, cost: Mapping[str, Any]) -> None:
        """Take what a test cost at its servers (`report.mlc_cost`), and when it ended."""
        # What others may have part in cannot be added up: it would be counted twice.
        self._costs += [(at, one) for one in cost["servers"] if not one["shared"]]

    def all(self) -> list[dict[str, Any]]:
        """Return each server once, in the order in which they became known."""
        servers = [dict(server) for server in merged(self._found.values())]
        for at, cost in self._costs:
            # A port may have been given to several servers, one after the other.
            begun = [
                server
                for server in servers
                if cost["server"] in server["urls"] and (server["launched_at"] or 0.0) <= at
            ]
            for server in sorted(begun, key=lambda one: float(one["launched_at"] or 0.0))[-1:]:
                for name in COUNTS:
                    if cost[name] is not None:
                        server[name] = (server[name] or 0) + cost[name]
        return servers


def merged(descriptions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one description for each server of several processes, or of several handles."""
    servers: list[dict[str, Any]] = []
    for one in descriptions:
        for number, other in enumerate(servers):
            if set(other["ids"]) & set(one["ids"]):
                servers[number] = _together(other, one)
                break
        else:
            servers.append(one)
    return servers


def _together(one: Description, other: Description) -> dict[str, Any]:
    """Return what two descriptions of one server say together."""
    # One that ended early does not know of a restart: the later one's word counts.
    late = max(one, other, key=lambda known: (known["restarts"], _last_start(known)))
    starts = {start["at"]: start for known in (one, other) for start in known["starts"]}
    ends = [known["ended_at"] for known in (one, other)]
    memory = max(one["memory"], other["memory"], key=lambda points: points[-1][0] if points else 0)
    incidents = [*one["incidents"], *other["incidents"]]
    return {
        **late,
        "id": one["id"],
        "ids": list(dict.fromkeys([*one["ids"], *other["ids"]])),
        "urls": list(dict.fromkeys([*one["urls"], *other["urls"]])),
        "worker": one["worker"] if one["worker"] == other["worker"] else "",
        "launched_at": _least(one["launched_at"], other["launched_at"]),
        "ready_at": _least(one["ready_at"], other["ready_at"]),
        "ended_at": None if None in ends else max(ends),
        "starts": [starts[at] for at in sorted(starts)],
        "incidents": [one for n, one in enumerate(incidents) if one not in incidents[:n]],
        "peak_memory": _most(one["peak_memory"], other["peak_memory"]),
        "memory": memory,
        **{name: _most(one[name], other[name]) for name in COUNTS},
        "log": one["log"] or other["log"],
        "log_tail": late["log_tail"] or one["log_tail"] or other["log_tail"],
        "reused": one["reused"] or other["reused"],
        "reused_from": one["reused_from"] or other["reused_from"],
    }


def _last_start(known: Description) -> float:
    return max((float(start["at"]) for start in known["starts"]), default=0.0)


def _least(*values: Any) -> Any:
    return min((value for value in values if value is not None), default=None)


def _most(*values: Any) -> Any:
    return max((value for value in values if value is not None), default=None)
