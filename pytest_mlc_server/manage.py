"""``ps``, ``stop`` and ``logs``: servers that several processes or runs share; warm parents."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from pytest_mlc_server import logs, shared_servers, warm
from pytest_mlc_server.errors import MLCServerError
from pytest_mlc_server.shared_servers import Found

#: Exit codes: no such server, wrong use (as argparse).
NOT_FOUND, WRONG_USE = 1, 2

#: Time limit of an orderly stop, in seconds.
STOP_TIMEOUT = 10.0


def main(command: str, argv: Sequence[str]) -> int:
    """Run one of the commands.

    Parameters
    ----------
    command
        ``ps``, ``stop`` or ``logs``.
    argv
        What follows it.

    Returns
    -------
    int
        0, 1 if there is no such server or one did not stop, 2 for wrong use.
    """
    try:
        return {"ps": _ps, "stop": _stop, "logs": _logs}[command](argv)
    except MLCServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USE


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"python -m pytest_mlc_server {command}", description=description, allow_abbrev=False
    )


def _ps(argv: Sequence[str]) -> int:
    parser = _parser(
        "ps", "List the servers that wait for their next user (--mlc-reuse) or that a run shares."
    )
    parser.add_argument("--json", action="store_true", help="one JSON array, for programs")
    as_json = parser.parse_args(argv).json
    servers = shared_servers.everywhere()
    if as_json:
        print(json.dumps([facts_of(server) for server in servers], indent=2))
        return 0
    rows = [_row(server) for server in servers]
    if not rows:
        print("no servers")
        return 0
    titles = ("ID", "STATE", "USERS", "IDLE", "STAYS", "ENGINE", "MODEL", "URL", "STARTED", "PID")
    table = [titles, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(titles))]
    for row in table:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    return 0


def facts_of(server: Found) -> dict[str, Any]:
    """Return what is known of a shared server, as ``ps --json`` tells it."""
    status, ready = server.status, server.status.get("ready") or {}
    named = ("engine", "model", "device", "scope")
    return {
        "id": server.id,
        "kind": server.facts.get("kind", "server"),
        **{name: server.facts.get(name) for name in named},
        **{name: status.get(name) for name in ("state", "pid", "idle", "linger", "log")},
        "users": status.get("leases"),
        "started_at": status.get("started_at"),
        "url": _url(ready),
        "restarts": status.get("generation"),
        "python": server.facts.get("python"),
        "servers": status.get("servers", 0),
    }


def _row(server: Found) -> tuple[str, ...]:
    facts = facts_of(server)
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(facts["started_at"] or 0)))
    idle = "-" if facts["idle"] is None else f"{facts['idle']:.0f} s"
    users, engine, model = facts["users"], facts["engine"], facts["model"]
    if facts["kind"] == warm.KIND:
        # The keepers of its servers hold it, too.
        users, engine = users - facts["servers"], "-"
        plural = "" if facts["servers"] == 1 else "s"
        model = f"{warm.KIND} of {facts['python']}, {facts['servers']} server{plural}"
    cells = (server.id, facts["state"], users, idle, f"{facts['linger']:g} s")
    more = (engine, model, facts["url"] or "-", started, facts["pid"])
    return tuple(str(cell) for cell in (*cells, *more))


def _url(ready: Any) -> str:
    if not ready or not ready["port"]:
        return ""
    host = f"[{ready['address']}]" if ":" in ready["address"] else ready["address"]
    return f"http://{host}:{ready['port']}"


def _stop(argv: Sequence[str]) -> int:
    parser = _parser("stop", "Stop shared servers, whoever uses them.")
    parser.add_argument("id", nargs="*", help="as `ps` shows it; the beginning is enough")
    parser.add_argument("--all", action="store_true", help="all of this user's shared servers")
    parser.add_argument(
        "--timeout",
        type=float,
        default=STOP_TIMEOUT,
        metavar="SECONDS",
        help="time limit of an orderly stop (default: %(default)g; 0 kills at once)",
    )
    asked = parser.parse_args(argv)
    if asked.all == bool(asked.id):
        parser.error("give the ids of servers (see `ps`), or --all")
    if asked.timeout < 0:
        parser.error("--timeout must be 0 or more")
    servers = shared_servers.everywhere()
    code = 0
    if not asked.all:
        servers, code = _chosen(servers, asked.id)
    for server in servers:
        gone = server.stop(asked.timeout)
        print(f"{server.id}: {'stopped' if gone else 'still there'}")
        code = code if gone else NOT_FOUND
    if not servers and asked.all:
        print("no servers")
    return code


def _logs(argv: Sequence[str]) -> int:
    parser = _parser("logs", "Show the log of a shared server.")
    parser.add_argument("id", help="as `ps` shows it; the beginning is enough")
    parser.add_argument("--path", action="store_true", help="only where the log is")
    parser.add_argument(
        "-n", "--lines", type=int, default=0, metavar="N", help="the last N lines (default: all)"
    )
    asked = parser.parse_args(argv)
    servers, code = _chosen(shared_servers.everywhere(), [asked.id])
    for server in servers:
        path = str(server.status["log"])
        if asked.path:
            print(path)
        elif asked.lines:
            print(logs.tail(path, asked.lines))
        else:
            print(logs.read(path, limit=sys.maxsize), end="")
    return code


def _chosen(servers: Sequence[Found], beginnings: Sequence[str]) -> tuple[list[Found], int]:
    """Return the servers whose ids begin so, and an exit code; say which do not exist."""
    chosen: list[Found] = []
    code = 0
    for beginning in beginnings:
        matching = [server for server in servers if server.id.startswith(beginning)]
        if len(matching) == 1:
            chosen += [server for server in matching if server not in chosen]
            continue
        ids = ", ".join(server.id for server in matching or servers) or "there is none"
        what = "is the beginning of several ids" if matching else "is no shared server's id"
        print(f"error: {beginning!r} {what}: {ids}", file=sys.stderr)
        code = NOT_FOUND
    return chosen, code
