"""The control endpoints: how a test tells a running simulator what to do, and asks what came in.

The gate lets only those in who know the token; to everybody else these paths do not exist.
"""

# No postponed annotations here: FastAPI reads them at run time.

import asyncio
import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, HTTPException, Query, Request, Response
from pydantic import TypeAdapter

from pytest_mlc_server.sim.connection import connection_of
from pytest_mlc_server.sim.door import Door, FaultState
from pytest_mlc_server.sim.doors import Doors
from pytest_mlc_server.sim.gate import Deaths
from pytest_mlc_server.sim.replies import with_file_read
from pytest_mlc_server.sim.rule_faults import CrashFault, DoorFault, RefuseFault
from pytest_mlc_server.sim.rule_replies import Reply
from pytest_mlc_server.sim.rule_wire import CallAnswer, Record, RuleStatus
from pytest_mlc_server.sim.rules import Default, Latency, Rule

_RECORDS = TypeAdapter(list[Record])


def create_control(doors: Doors, deaths: Deaths) -> FastAPI:
    """Return the application of the control endpoints.

    Parameters
    ----------
    doors : Doors
        What they change.
    deaths : Deaths
        How the server dies.
    """
    app = FastAPI(openapi_url=None)
    app.state.doors = doors
    app.state.deaths = deaths
    for method, path, endpoint in _ENDPOINTS:
        app.add_api_route(f"/sim{path}", endpoint, methods=[method], response_model=None)
    return app


# Dependencies are coroutines: FastAPI would have a thread of its pool call a plain function.
async def _doors(request: Request) -> Doors:
    doors: Doors = request.app.state.doors
    return doors


async def _door(request: Request) -> Door:
    """Return the door that a request is about: the one named, or the one it came through."""
    doors = await _doors(request)
    named = request.headers.get("x-mlc-sim-door")
    if named is None:
        return doors.at(request.scope["server"][1])
    return _find(doors, named)


def _find(doors: Doors, port: str) -> Door:
    door = doors.find(int(port)) if port.isdecimal() else None
    if door is None:
        raise HTTPException(404, f"There is no door at port {port}.")
    return door


AllDoors = Annotated[Doors, Depends(_doors)]
ThisDoor = Annotated[Door, Depends(_door)]


async def open_door(doors: AllDoors) -> dict[str, int]:
    """Open a door."""
    return {"port": (await doors.open()).port}


async def close_door(port: str, doors: AllDoors) -> Response:
    """Close a door."""
    door = _find(doors, port)
    if door is doors.first:
        raise HTTPException(400, f"The door at port {port} is the server's own: it stays open.")
    await doors.close(door)
    return Response(status_code=204)


async def reset(door: ThisDoor, doors: AllDoors) -> dict[str, int]:
    """Forget rules, faults, latency, default and records."""
    return {"epoch": await doors.reset(door)}


async def add_rule(rule: Rule, door: ThisDoor) -> dict[str, str]:
    """Add a rule behind the others."""
    return {"id": door.add_rule(_readable(rule))}


async def list_rules(door: ThisDoor) -> list[dict[str, Any]]:
    """Return all rules in their order."""
    return [
        RuleStatus.model_construct(id=state.id, rule=state.rule, hits=state.hits).model_dump(
            mode="json", by_alias=True, exclude_unset=True
        )
        for state in door.epoch.all_rules()
    ]


async def delete_rule(rule_id: str, door: ThisDoor) -> Response:
    """Delete a rule."""
    for rules in (door.epoch.rules, door.epoch.script_rules):
        for state in rules:
            if state.id == rule_id:
                rules.remove(state)
                return Response(status_code=204)
    raise HTTPException(404, f"There is no rule {rule_id}.")


async def set_default(default: Default, door: ThisDoor) -> Response:
    """Say what answers when no rule does."""
    door.epoch.default = default
    return Response(status_code=204)


async def set_latency(latency: Latency, door: ThisDoor) -> Response:
    """Say how long answers take."""
    door.epoch.latency = latency
    return Response(status_code=204)


async def add_fault(fault: DoorFault, door: ThisDoor, doors: AllDoors) -> Response:
    """Say what goes wrong, whatever the rule."""
    if isinstance(fault.fault, RefuseFault):
        await doors.refuse(door, fault.fault.seconds)
    else:
        door.epoch.faults.append(FaultState(fault))
    return Response(status_code=204)


async def delete_faults(door: ThisDoor, doors: AllDoors) -> Response:
    """Let nothing go wrong any more."""
    door.epoch.faults.clear()
    await doors.resume(door)
    return Response(status_code=204)


async def list_requests(door: ThisDoor) -> Response:
    """Return what came in during this epoch."""
    records = [entry.as_record() for entry in door.epoch.records]
    unmatched = [record for record in records if record.unmatched is not None]
    return _json(
        {
            "epoch": door.epoch.number,
            "dropped": door.epoch.records.dropped,
            "requests": _RECORDS.dump_python(records),
            "unmatched": _RECORDS.dump_python(unmatched),
            "refused": [entry.id for entry in door.epoch.records if entry.refused],
        }
    )


async def list_lines(
    door: ThisDoor,
    since: float = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> Response:
    """Return the newest requests of this epoch in short, with how long they took."""
    entries = door.epoch.records.since(since, limit)
    return _json({"requests": [entry.as_line() for entry in entries]})


def _json(value: Any) -> Response:
    """Return what an application sent, which Python read as JSON and others might not."""
    return Response(json.dumps(value), media_type="application/json")


async def next_call(
    request: Request, door: ThisDoor, wait: Annotated[float, Query(ge=0, le=300)] = 0
) -> Response:
    """Wait for a request that a function has to answer."""
    ended = asyncio.ensure_future(connection_of(request.scope).ended.wait())
    call = asyncio.ensure_future(door.epoch.calls.next())
    try:
        # Who has gone away must not be handed a call that somebody else could still answer.
        await asyncio.wait({ended, call}, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        found = call.result() if call.done() else None
    finally:
        ended.cancel()
        call.cancel()
    return Response(status_code=204) if found is None else _json(found.model_dump())


async def answer_call(call_id: str, answer: CallAnswer, door: ThisDoor) -> Response:
    """Answer it."""
    if answer.reply is not None:
        answer.reply = _reply_readable(answer.reply)
    if not door.epoch.calls.answer(call_id, answer):
        raise HTTPException(404, f"Nobody waits for {call_id} any more.")
    return Response(status_code=204)


async def wedge(request: Request) -> Response:
    """Have the engine's thread die."""
    request.app.state.deaths.wedge()
    return Response(status_code=204)


async def crash(request: Request, fault: Annotated[CrashFault | None, Body()] = None) -> Response:
    """End the process."""
    request.app.state.deaths.crash((fault or CrashFault()).signal)
    return Response(status_code=204)


def _readable(rule: Rule) -> Rule:
    """Return `rule` with its files read."""
    given: dict[str, Any] = {}
    if rule.reply is not None:
        given["reply"] = _reply_readable(rule.reply)
    if rule.replies is not None:
        given["replies"] = [_reply_readable(reply) for reply in rule.replies]
    return rule.model_copy(update=given)


def _reply_readable(reply: Reply) -> Reply:
    try:
        return with_file_read(reply, None)
    except ValueError as error:
        raise HTTPException(
            422, [{"type": "value_error", "loc": ["body", "reply", "file"], "msg": str(error)}]
        ) from None


_ENDPOINTS: list[tuple[str, str, Callable[..., Any]]] = [
    ("POST", "/doors", open_door),
    ("DELETE", "/doors/{port}", close_door),
    ("POST", "/reset", reset),
    ("POST", "/rules", add_rule),
    ("GET", "/rules", list_rules),
    ("DELETE", "/rules/{rule_id}", delete_rule),
    ("PUT", "/default", set_default),
    ("PUT", "/latency", set_latency),
    ("POST", "/faults", add_fault),
    ("DELETE", "/faults", delete_faults),
    ("GET", "/requests", list_requests),
    ("GET", "/requests/lines", list_lines),
    ("GET", "/calls", next_call),
    ("POST", "/calls/{call_id}", answer_call),
    ("POST", "/wedge", wedge),
    ("POST", "/crash", crash),
]
